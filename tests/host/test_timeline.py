"""STIV Timeline in the real front end, both renderers: built by hand, saved, undone, run."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from playwright.sync_api import expect
from safetensors.torch import load_file

from scripts.host import PACK_NAME, ComfyServer, HostError
from tests.host.front_end import FrontEnd
from tests.host.timeline_strip import Strip, alone, clip, in_workflow, picture


@pytest.fixture
def shots(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[FrontEnd, str], None]:
    """Takes screenshots, into STIV_SCREENSHOTS if that is set."""
    folder = Path(os.environ.get("STIV_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def take(browser: FrontEnd, name: str) -> None:
        renderer = "nodes2" if browser.draws_vue_nodes() else "canvas"
        browser.page.screenshot(path=folder / f"timeline_{name}_{renderer}.png")

    return take


def latents(server: ComfyServer, prompt_id: str) -> torch.Tensor:
    (path,) = (path for path in server.wait(prompt_id).files if path.suffix == ".latent")
    return load_file(path)["latent_tensor"]


def wired(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with core loaders and STIV Place Frames in place of the timeline."""
    (id_,) = (id_ for id_, node in prompt.items() if node["class_type"] == "STIVTimeline")

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    return prompt | {
        "red": node("LoadImage", image="stiv/red.png"),
        "place red": node("STIVPlaceFrames", frames=["red", 0], positions="first"),
        "walk": node("LoadVideo", file="stiv/walk.mp4"),
        "walk frames": node("GetVideoComponents", video=["walk", 0]),
        "walk begin": node("ImageFromBatch", image=["walk frames", 0], batch_index=0, length=7),
        "place walk": node("STIVPlaceFrames", frames=["walk begin", 0], positions="8-14",
                           stiv_frames=["place red", 0]),
        "blue": node("LoadImage", image="stiv/blue.png"),
        id_: node("STIVPlaceFrames", frames=["blue", 0], positions="last",
                  stiv_frames=["place walk", 0]),
    }  # fmt: skip


def test_browsers_ask_whether_a_module_was_updated(server: ComfyServer) -> None:
    for module in ("timeline/widget.mjs", "lib/dom.mjs"):
        with urllib.request.urlopen(f"{server.url}/extensions/{PACK_NAME}/{module}") as answer:
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers["Etag"]


def test_built_by_hand_it_makes_what_the_wired_graph_makes(
    browser: FrontEnd, server: ComfyServer, shots: Callable[[FrontEnd, str], None]
) -> None:
    strip = in_workflow(browser)
    strip.drop(picture("red"), picture("blue"), at=0)
    strip.wait_for({0: "red.png", 1: "blue.png"})
    strip.drag(1, 15)
    built = {0: "red.png", 15: "blue.png"}
    assert strip.places() == built
    strip.drop(clip(), at=8)
    built = {0: "red.png", 8: "walk.mp4", 15: "blue.png"}
    strip.wait_for(built)
    assert [item.get("count", 1) for item in strip.items()] == [1, 7, 1]
    assert all(len(item["thumb"]) <= 2048 for item in strip.items())
    assert all(len(item["sha256"]) == 64 for item in strip.items())
    text = strip.text()

    strip.undo({0: "red.png", 15: "blue.png"})
    strip.undo({0: "red.png", 1: "blue.png"})
    strip.undo({0: "red.png", 15: "blue.png"}, "Control+y")
    strip.undo(built, "Control+y")
    assert strip.text() == text
    shots(browser, "built")

    made = latents(server, browser.press_run())
    saved = browser.page.evaluate("app.graph.serialize()")
    assert torch.equal(made, latents(server, server.queue(wired(browser.prompt()))))
    assert torch.equal(made, latents(server, server.queue(server.to_prompt(saved)))), "headless"

    browser.page.evaluate("async saved => { await app.loadGraphData(saved); }", saved)
    strip.wait_until_drawn()
    assert strip.text() == text
    assert strip.tool("Copy").is_disabled() or strip.spoken()


def test_a_copied_node_is_a_timeline_of_its_own(browser: FrontEnd) -> None:
    strip = alone(browser)
    strip.drop(picture("red"), at=3)
    strip.wait_for({3: "red.png"})
    page = browser.page
    page.evaluate("app.canvas.select(app.graph.nodes[0]); app.canvas.canvas.focus()")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Control+c")
    page.mouse.move(900, 700)
    page.keyboard.press("Control+v")
    page.wait_for_function("app.graph.nodes.length === 2")
    page.evaluate(
        """() => {
            const copy = app.graph.nodes[0].clone();
            copy.pos = [560, 0];
            app.graph.add(copy);
        }"""
    )
    expect(page.locator(".stiv-timeline-stage")).to_have_count(3)
    values = "app.graph.nodes.map(node => node.widgets.find(w => w.name === 'timeline').value)"
    for nth, place in enumerate((8, 9, 10)):
        before = page.evaluate(values)
        Strip(browser, nth).drag(3, place)
        changed = set(page.evaluate(values)) - set(before)
        assert [places_of(text) for text in changed] == [[place]]
    assert sorted(places_of(text) for text in page.evaluate(values)) == [[8], [9], [10]]


def test_nodes_that_are_gone_ask_for_nothing(
    browser: FrontEnd, new_page: Callable[[], FrontEnd]
) -> None:
    """Copying makes nodes that are never added, undo drops those in subgraphs without a word."""
    browser = new_page().open(vue_nodes=browser.draws_vue_nodes())
    strip, page = alone(browser), browser.page
    strip.drop(picture("red"), at=3)
    strip.wait_for({3: "red.png"})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))

    def asks() -> int:
        """Questions about files when the artist comes back to the page."""
        page.wait_for_timeout(1200)  # what is gone is looked for twice a second
        asked.clear()
        page.evaluate("window.dispatchEvent(new Event('focus'))")
        page.wait_for_timeout(500)
        return sum(path.endswith("/stiv/picture") for path in asked)

    for change in ("", "app.graph.convertToSubgraph(new Set(app.graph.nodes))"):
        page.evaluate(f"() => {{ {change} }}")
        saved = page.evaluate("app.graph.serialize()")
        for _ in range(3):
            page.evaluate("async saved => { await app.loadGraphData(saved); }", saved)
            page.evaluate("() => { app.graph.nodes[0].clone(); }")
        assert asks() == 1
    page.evaluate("app.graph.clear()")
    assert asks() == 0
    page.context.close()


def test_the_strip_is_sharp_at_any_zoom(browser: FrontEnd) -> None:
    strip = alone(browser)
    width = "() => document.querySelector('.stiv-timeline-stage canvas').width"
    before = browser.page.evaluate(width)
    browser.page.evaluate("app.canvas.ds.scale = 2; app.canvas.setDirty(true, true)")
    browser.page.wait_for_function(f"before => ({width})() === 2 * before", arg=before)
    assert strip.items() == []


def places_of(text: str) -> list[int]:
    return [item["at"] for item in json.loads(text)["items"]]


def test_everything_by_keyboard(browser: FrontEnd) -> None:
    strip = alone(browser)
    strip.stage.focus()
    expect(strip.stage).to_be_focused()
    assert strip.stage.get_attribute("role") == "slider"
    with browser.page.expect_file_chooser() as chooser:
        strip.press("ArrowRight", "ArrowRight", "Enter")
    name, type_, content = picture("green")
    chooser.value.set_files({"name": name, "mimeType": type_, "buffer": content})
    strip.wait_for({2: "green.png"})
    expect(strip.status).to_have_text("green.png placed at frame 2.")
    assert strip.spoken() == "Frame 2 of 15, green.png"

    strip.stage.focus()
    strip.press("Space", "ArrowRight", "Shift+ArrowRight")
    assert strip.places() == {2: "green.png"}, "not before it is put down"
    strip.press("Space")
    assert strip.places() == {13: "green.png"}
    strip.press("Space", "Home", "Escape")
    assert strip.places() == {13: "green.png"}
    assert strip.spoken() == "Frame 13 of 15, green.png"

    strip.press("Control+c", "Home", "Control+v", "End", "Control+v")
    assert strip.places() == {0: "green.png", 13: "green.png", 15: "green.png"}
    strip.press("PageUp", "Control+x")
    assert strip.places() == {0: "green.png", 15: "green.png"}
    strip.press("PageUp", "Delete", "Delete")
    assert strip.places() == {15: "green.png"}
    assert browser.page.evaluate("app.graph.nodes.length") == 1, "Delete took the node, too"
    strip.press("ArrowRight")
    assert strip.spoken() == "Frame 1 of 15, empty"


def test_tools_snap_pin_and_copy(browser: FrontEnd) -> None:
    strip = alone(browser)
    strip.drop(picture("red"), at=2)
    strip.wait_for({2: "red.png"})
    strip.drag(2, 8, copy=True)
    strip.tool("Last").click()
    assert strip.places() == {2: "red.png", "last": "red.png"}
    snap = browser.page.get_by_role("spinbutton", name="Pictures go to frames")
    snap.fill("4")
    snap.press("Enter")
    strip.drag(2, 7)
    assert strip.places() == {8: "red.png", "last": "red.png"}
    strip.tool("Copy").click()
    assert strip.places() == {8: "red.png", 12: "red.png", "last": "red.png"}
    strip.tool("First").click()
    strip.tool("Copy").click()
    assert strip.places() == {0: "red.png", 4: "red.png", 8: "red.png", "last": "red.png"}
    strip.click(0)
    strip.click(8)
    strip.tool("First").click()
    expect(strip.alert).to_contain_text("Frame 0 is taken by red.png")
    strip.tool("Remove").click()
    assert strip.places() == {0: "red.png", 4: "red.png", "last": "red.png"}


def test_pasted_files_and_numbers_of_a_clip(browser: FrontEnd) -> None:
    strip = alone(browser)
    strip.click(5)
    strip.paste(clip())
    strip.wait_for({5: "walk.mp4"})

    def number(name: str, value: int) -> None:
        field = browser.page.get_by_role("spinbutton", name=name)
        field.fill(str(value))
        field.press("Enter")

    number("How many frames", 4)
    number("How far apart", 3)
    number("One frame is taken of", 2)
    number("The first frame of the clip", 3)
    (item,) = strip.items()
    chosen = {key: item[key] for key in ("at", "count", "spacing", "every", "start")}
    assert chosen == {"at": 5, "count": 4, "spacing": 3, "every": 2, "start": 3}
    number("How many frames", 5)
    expect(strip.alert).to_contain_text("There is no room for walk.mp4")
    assert strip.items() == [item]
    assert strip.spoken() == "Frame 5 of 15, walk.mp4, frames 5 to 14"


def test_a_shorter_video_drops_nothing_and_says_what_lies_beyond(
    browser: FrontEnd, server: ComfyServer, shots: Callable[[FrontEnd, str], None]
) -> None:
    strip = in_workflow(browser)
    strip.drop(picture("red"), picture("blue"), at=9)
    strip.wait_for({9: "red.png", 10: "blue.png"})
    for frames in (10, 16):
        browser.page.evaluate(
            """frames => {
                const node = app.graph.nodes.find(node => node.type === "STIVTimeline");
                const widget = node.widgets.find(widget => widget.name === "frames");
                widget.value = frames;
                widget.callback?.(frames);
            }""",
            frames,
        )
        assert strip.places() == {9: "red.png", 10: "blue.png"}
        if frames == 10:
            expect(strip.alert).to_contain_text("1 beyond the last frame, 9")
            shots(browser, "beyond")
            with pytest.raises(HostError, match=r"blue.png' at frame 10 lies beyond the video"):
                server.run(browser.prompt())
    expect(strip.alert).to_be_hidden()


def test_lost_and_changed_files_are_ghosts_and_block_the_run(
    browser: FrontEnd, server: ComfyServer, shots: Callable[[FrontEnd, str], None]
) -> None:
    strip = in_workflow(browser)
    names = [f"{colour}_{browser.draws_vue_nodes()}.png" for colour in ("red", "blue", "green")]
    pictures = [picture(name.split("_")[0], name) for name in names]
    for at, file in zip((1, 5, 9), pictures, strict=True):
        strip.drop(file, at=at)
        expect(strip.status).to_contain_text(f"{file[0]} placed")
    lost, changed, kept = (server.input_dir / "stiv" / name for name in names)
    assert kept.read_bytes() == pictures[2][2]
    lost.unlink()
    changed.write_bytes(pictures[2][2])
    saved = browser.page.evaluate("app.graph.serialize()")
    browser.page.evaluate("async saved => { await app.loadGraphData(saved); }", saved)
    strip.wait_until_drawn()
    expect(strip.alert).to_contain_text(f"Missing from ComfyUI's input folder: {lost.name}.")
    expect(strip.alert).to_contain_text(f"No longer what was placed here: {changed.name}.")
    strip.click(1)
    assert strip.spoken() == f"Frame 1 of 15, {lost.name}, missing"
    shots(browser, "ghosts")
    assert strip.places() == dict(zip((1, 5, 9), names, strict=True))

    with pytest.raises(HostError) as refused:
        server.queue(browser.prompt())
    assert f"'stiv/{lost.name}' is missing" in str(refused.value)
    assert f"'stiv/{changed.name}' in ComfyUI's input folder is not the file" in str(refused.value)

    lost.write_bytes(pictures[0][2])
    changed.write_bytes(pictures[1][2])
    browser.page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(strip.alert).to_be_hidden()
    assert server.run(browser.prompt()).files


TEN_THOUSAND = json.dumps({"version": 1} | {f"key{n}": n for n in range(10_000)})
SCRIPT = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version":2,"items":[],"tracks":[{"name":"a"}]}', "Its version is 2, this pack knows 1"),
        (TEN_THOUSAND, 'It has an unknown key "key0".'),
        ('{"version":1,"items":[{"at":0,"file":"a.png"', "It is no valid JSON"),
        (json.dumps({"version": 1, SCRIPT: 1}), SCRIPT[:30]),
    ],
    ids=["future", "10000 keys", "cut off", "script"],
)
def test_a_timeline_that_cannot_be_read_is_kept_and_explained(
    text: str, message: str, browser: FrontEnd, server: ComfyServer
) -> None:
    strip = in_workflow(browser)
    browser.page.evaluate(
        """async text => {
            const saved = app.graph.serialize();
            saved.nodes.find(node => node.type === "STIVTimeline").widgets_values = [16, text];
            await app.loadGraphData(saved);
        }""",
        text,
    )
    strip.wait_until_drawn()
    expect(strip.alert).to_contain_text("This timeline cannot be shown; its text is kept as it is.")
    expect(strip.alert).to_contain_text(message)
    strip.drop(picture("red"), at=3)  # changes nothing
    strip.stage.focus()
    strip.press("Delete", "Space", "ArrowRight")
    assert strip.text() == text
    with pytest.raises(HostError, match="STIV Timeline: "):
        server.queue(browser.prompt())
    assert browser.page.evaluate("window.stolen") is None
    assert browser.missing_nodes() == []

    strip.tool("Edit as text").click()
    editor = browser.page.get_by_role("textbox", name="The timeline as JSON")
    expect(editor).to_have_value(text)
    editor.fill('{"version": 1, "items": [{"at": 4, "file": "example.png"}]}')
    editor.blur()
    expect(strip.alert).to_be_hidden()
    assert strip.places() == {4: "example.png"}


def test_markup_in_names_stays_text(
    browser: FrontEnd, shots: Callable[[FrontEnd, str], None]
) -> None:
    thumb = 'data:image/webp;base64,AAAA" onerror="window.stolen = 1'
    item = {"at": 2, "file": f"stiv/{SCRIPT}", "thumb": thumb, "sha256": "0" * 64}
    strip = alone(browser, json.dumps({"version": 1, "items": [item]}))
    name = SCRIPT.rsplit("/", 1)[-1]
    expect(strip.alert).to_contain_text(name)
    strip.click(2)
    assert name in strip.spoken()
    shots(browser, "markup")
    assert browser.page.evaluate("window.stolen") is None
