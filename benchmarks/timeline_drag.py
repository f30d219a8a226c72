"""Frame time while a picture is dragged along a timeline of 400 frames, each with a picture.

Measured in the real front end, in Chromium without its limit of 60 frames a second: each animation
frame moves the pointer once, and the time to the next is taken. An empty drag moves a small square
of the page instead, the least that can be seen to move.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from scripts.host import ComfyServer
from scripts.prepare import need_host
from tests.host.front_end import FLAGS, FrontEnd
from tests.hosting import find_chromium

FRAMES = 400
MOVES = 400  # animation frames of one drag
ROUNDS = 3  # of an empty drag and a real one, in turn
UNLIMITED = ["--disable-frame-rate-limit", "--disable-gpu-vsync"]

_SHOW = """text => {
    app.graph.clear();
    const node = LiteGraph.createNode("STIVTimeline");
    app.graph.add(node);
    node.widgets.find(widget => widget.name === "frames").value = 400;
    const timeline = node.widgets.find(widget => widget.name === "timeline");
    timeline.value = text;
    timeline.callback(text);
    node.setSize([900, node.size[1]]);
    Object.assign(app.canvas.ds, {scale: 1, offset: [120, 160]});
    app.canvas.setDirty(true, true);
}"""
_TEXT = "app.graph.nodes[0].widgets.find(widget => widget.name === 'timeline').value"
_MARK = """() => {
    const mark = document.createElement("div");
    mark.id = "mark";
    mark.style = "position: fixed; left: 300px; top: 20px; width: 12px; height: 12px;"
        + " background: red; pointer-events: none; z-index: 99999";
    mark.addEventListener("pointermove", event => {
        mark.style.transform = `translateX(${(event.clientX - 300) * 20}px)`;
    });
    document.body.append(mark);
}"""
_DRAG = """async ([selector, moves]) => {
    const target = document.querySelector(selector);
    const box = target.getBoundingClientRect();
    const frame = () => new Promise(requestAnimationFrame);
    const times = [];
    let before = await frame();
    for (let n = 0; n < moves; n++) {
        const x = box.left + box.width * (0.5 + 0.4 * Math.sin(n / 15));
        target.dispatchEvent(new PointerEvent("pointermove", {
            bubbles: true, clientX: x, clientY: box.top + box.height / 2, buttons: 1,
            pointerId: 1 }));
        const now = await frame();
        times.push(now - before);
        before = now;
    }
    return times;
}"""


def run() -> Iterator[dict[str, Any]]:
    """Both renderers; every other frame is free, so that what is dragged has where to go."""
    with (
        tempfile.TemporaryDirectory(prefix="stiv-bench-") as base,
        ComfyServer(need_host(), base=Path(base), cpu=True) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=[*FLAGS, *UNLIMITED]
        )
        text = _timeline(server)
        for vue_nodes in (False, True):
            page = browser.new_context(viewport={"width": 1600, "height": 900}).new_page()
            FrontEnd(page, server).open(vue_nodes=vue_nodes)
            yield {
                "what": f"dragging along {FRAMES} frames with {FRAMES // 2} pictures",
                "renderer": "Nodes 2.0" if vue_nodes else "canvas",
                **_measure(page, text),
            }
            page.context.close()
        browser.close()


def _timeline(server: ComfyServer) -> str:
    folder = server.input_dir / "stiv"
    folder.mkdir(parents=True)
    items = []
    for number in range(0, FRAMES, 2):
        name = f"{number}.png"
        Image.new("RGB", (256, 192), (number % 256, 90, 160)).save(folder / name)
        items.append({"at": number, "file": f"stiv/{name}"})
    return json.dumps({"version": 1, "items": items})


def _measure(page: Page, text: str) -> dict[str, Any]:
    page.evaluate(_SHOW, text)
    stage = page.locator(".stiv-timeline-stage")
    stage.wait_for()
    page.get_by_role("button", name="Narrower frames").click(click_count=12)  # all in view
    page.wait_for_load_state("networkidle")  # the pictures are there
    page.wait_for_timeout(2000)
    page.evaluate(_MARK)
    empty, real, before = [], [], page.evaluate(_TEXT)
    for _ in range(ROUNDS):
        empty += page.evaluate(_DRAG, ["#mark", MOVES])
        box = stage.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        real += page.evaluate(_DRAG, [".stiv-timeline-stage", MOVES])
        page.mouse.up()
        after = page.evaluate(_TEXT)
        assert after != before, "nothing was dragged"
        before = after
    middle, least = statistics.median(real), statistics.median(empty)
    return {
        "median_ms": round(middle, 2),
        "p95_ms": round(statistics.quantiles(real, n=20)[-1], 2),
        "empty_median_ms": round(least, 2),
        "ratio": round(middle / least, 2),
    }
