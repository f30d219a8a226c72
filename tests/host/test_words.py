"""The host's language, settings, commands and help panel as an artist meets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.host import ComfyServer
from scripts.locales import read
from tests.host.front_end import FrontEnd, front_ends
from tests.hosting import find_chromium

LANGUAGE = "ja"
WORDS = read(LANGUAGE)


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes2"])
def browser(request: pytest.FixtureRequest, server: ComfyServer) -> Iterator[FrontEnd]:
    server.post("/settings", {"Comfy.Locale": LANGUAGE})
    try:
        with front_ends(server, find_chromium()) as new:
            yield new().open(vue_nodes=request.param)
    finally:
        server.post("/settings", {"Comfy.Locale": "en", "STIV.Panels.Show": True})


def add(browser: FrontEnd, type_: str) -> dict[str, Any]:
    """A node alone in the graph; what it calls its parts."""
    return browser.page.evaluate(
        """type => {
            app.graph.clear();
            const node = LiteGraph.createNode(type);
            app.graph.add(node);
            node.pos = [400, 200];
            app.canvas.ds.offset = [0, 0];
            app.canvas.ds.scale = 1;
            app.canvas.selectNode(node);
            return {
                title: node.title,
                inputs: node.inputs.map(slot => slot.localized_name),
                widgets: Object.fromEntries(node.widgets.map(w => [w.name, w.label])),
                outputs: node.outputs.map(slot => slot.localized_name),
            };
        }""",
        type_,
    )


def test_a_node_speaks_the_hosts_language(browser: FrontEnd) -> None:
    words = WORDS["nodeDefs"]["STIVTextEncode"]
    made = add(browser, "STIVTextEncode")
    assert made["title"] == words["display_name"]
    assert made["outputs"] == [output["name"] for output in words["outputs"].values()]
    names = {name: input_["name"] for name, input_ in words["inputs"].items()}
    assert names["clip"] in made["inputs"]
    assert {name: made["widgets"][name] for name in names if name != "clip"} == {
        name: text for name, text in names.items() if name != "clip"
    }


def test_a_panel_speaks_the_hosts_language_and_can_be_hidden(browser: FrontEnd) -> None:
    add(browser, "STIVEmptyLatent")
    panel = browser.page.get_by_role("group", name=WORDS["main"]["stiv"]["frames"]["panel"])
    panel.wait_for(timeout=10_000)
    height = browser.page.evaluate("app.graph.nodes[0].size[1]")
    toggle = "app.extensionManager.command.execute('STIV.Panels.Toggle')"
    browser.page.evaluate(toggle)
    panel.wait_for(state="hidden", timeout=10_000)
    browser.page.wait_for_function("most => app.graph.nodes[0].size[1] < most", arg=height)
    browser.page.evaluate(toggle)
    panel.wait_for(timeout=10_000)


def test_commands_carry_their_names(browser: FrontEnd) -> None:
    found = browser.page.evaluate(
        """() => Object.fromEntries(app.extensionManager.command.commands
            .filter(command => command.id.startsWith("STIV."))
            .map(command => [command.id.replaceAll(".", "_"), command.label]))"""
    )
    assert found == {id_: words["label"] for id_, words in WORDS["commands"].items()}


def test_a_command_opens_a_workflow(browser: FrontEnd) -> None:
    browser.page.evaluate("app.extensionManager.command.execute('STIV.Open.ImageToVideo')")
    browser.page.wait_for_function(
        "app.graph.nodes.some(node => node.type === 'STIVFrameReplacement')", timeout=20_000
    )
    assert browser.missing_nodes() == []


def test_the_settings_page_has_every_setting(browser: FrontEnd) -> None:
    page = browser.page
    page.evaluate("app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("STIV", exact=True).first.click()
    for words in WORDS["settings"].values():
        dialog.get_by_text(re.compile(f"^\\s*{re.escape(words['name'])}\\s*$")).first.wait_for(
            timeout=10_000
        )
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    defaults = "['STIV.Panels.Show', 'STIV.Previews.Moving', 'STIV.Previews.Fps']"
    values = page.evaluate(f"{defaults}.map(id => app.extensionManager.setting.get(id))")
    assert values == [True, True, 8]


def test_the_help_panel_shows_the_page_and_its_picture(browser: FrontEnd) -> None:
    add(browser, "STIVPlaceFrames")
    page = browser.page
    page.get_by_test_id("info-button").click(timeout=10_000)
    picture = page.locator('img[src*="pictures/STIVPlaceFrames"]')
    picture.wait_for(timeout=10_000)
    page.wait_for_function(
        """() => document.querySelector('img[src*="pictures/STIVPlaceFrames"]').naturalWidth"""
    )
    assert page.get_by_role("heading", name="STIV Place Frames").is_visible()
