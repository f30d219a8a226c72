"""Blueprints in the real front end: found by their names, added to the graph, run by the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import av
import pytest

from scripts.host import ComfyServer
from scripts.prepare import ROOT
from tests.host.front_end import FrontEnd, front_ends
from tests.hosting import find_chromium

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
NAMES = [path.stem for path in BLUEPRINTS]
PICTURES = 4
SETTLE_MS = 300

# What each is asked for here, the input that pictures go to, and frames and rate of its video.
ASKED = {
    "STIV image to video": ({"frames": 5, "steps": 2}, "image", 5, 8),
    "STIV long video": ({"key_frames": 2, "stride": 3, "steps": 1}, None, 4, 8),
    "STIV interpolate anything": ({"factor": "2", "steps": 1}, "clip", 2 * PICTURES, 16),
}

# Connects what an artist would: pictures before, a file after. Returns the save node's id.
_WIRE = """([values, input, count]) => {
    const [blueprint] = app.graph.nodes;
    const add = type => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        return node;
    };
    for (const [name, value] of Object.entries(values)) {
        const widget = blueprint.widgets.find(widget => widget.name === name);
        widget.value = value;
        widget.callback?.(value);
    }
    if (input) {
        const pictures = add("EmptyImage");
        for (const [name, value] of Object.entries({width: 64, height: 64, batch_size: count}))
            pictures.widgets.find(widget => widget.name === name).value = value;
        pictures.connect(0, blueprint, blueprint.inputs.findIndex(slot => slot.name === input));
    }
    const save = add("SaveVideo");
    blueprint.connect(blueprint.outputs.findIndex(slot => slot.name === "video"), save, 0);
    return String(save.id);
}"""


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes2"])
def browser(request: pytest.FixtureRequest, server: ComfyServer) -> Iterator[FrontEnd]:
    with front_ends(server, find_chromium()) as new:
        yield new().open(vue_nodes=request.param)


def add(browser: FrontEnd, name: str) -> dict[str, Any]:
    """Search for a blueprint and place it, as an artist does; what then is in the graph."""
    page = browser.page
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("app.graph.nodes.length === 0")
    page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.get_by_role("dialog").get_by_role("combobox").fill(name)
    found = page.get_by_role("option").filter(has_text=name).filter(has_text="Blueprint")
    found.first.click()
    page.wait_for_function("app.graph.nodes.length === 1")
    page.mouse.move(800, 300)  # it hangs on the pointer until it is put down
    page.wait_for_timeout(SETTLE_MS)
    page.mouse.click(800, 300)
    page.wait_for_function("app.canvas.state.ghostNodeId == null")
    return page.evaluate(
        """() => {
            const [node] = app.graph.nodes;
            const widgets = Object.fromEntries(node.widgets.map(w => [w.name, w.value]));
            const sockets = node.inputs.filter(slot => !slot.widget).map(slot => slot.name);
            return {title: node.title, widgets, sockets, inside: node.subgraph?.nodes.length};
        }"""
    )


def test_every_file_is_served_as_a_blueprint_of_the_pack(server: ComfyServer) -> None:
    assert set(NAMES) == set(ASKED)
    served = server.get("/global_subgraphs").values()
    ours = [each for each in served if each["info"]["node_pack"] == "custom_nodes.ComfyUI-STIV"]
    assert sorted(each["name"] for each in ours) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_blueprint_is_found_added_and_runs(
    name: str, browser: FrontEnd, server: ComfyServer
) -> None:
    added = add(browser, name)
    file = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    (subgraph,) = file["definitions"]["subgraphs"]
    assert added["title"] == name and added["inside"] == len(subgraph["nodes"])
    assert browser.missing_nodes() == []
    assert set(added["widgets"]) | set(added["sockets"]) == {
        socket["name"] for socket in subgraph["inputs"]
    }
    assert added["widgets"]["checkpoint"] == "stiv_nano (bundled)"
    assert not [error for error in browser.errors if "blueprint" in error.lower()]
    if not browser.draws_vue_nodes():
        return  # one renderer's run is enough: the prompt is made of the graph, not of its drawing

    values, input_, frames, fps = ASKED[name]
    save = browser.page.evaluate(_WIRE, [values, input_, PICTURES])
    run = server.wait(browser.press_run())
    (saved,) = run.outputs[save]["images"]
    with av.open(str(server.output_dir / saved["subfolder"] / saved["filename"])) as container:
        stream = container.streams.video[0]
        assert sum(1 for _ in container.decode(stream)) == frames
        assert float(stream.average_rate) == fps
