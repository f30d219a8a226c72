"""Moving previews on the real server, in both renderers: frames move while the sampler runs, and
rest when it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from scripts.host import ComfyServer
from scripts.prepare import ROOT
from tests.host.front_end import FrontEnd, front_ends
from tests.hosting import find_chromium

FRAMES = 16
_SEEDS = count(1)

# Follows what the host shows on its nodes: pictures by their bytes, animations by their frames.
_WATCH = """() => {
    const {api} = window.comfyAPI.api;
    const seen = window.seen = {strips: 0, stills: new Set(), animated: 0, last: null};
    api.addEventListener("stiv.preview", () => seen.strips++);
    api.addEventListener("b_preview_with_metadata", async ({detail}) => {
        seen.last = detail.blob;
        if (detail.blob.type !== "image/png") return;
        const bytes = new Uint8Array(await detail.blob.arrayBuffer());
        seen.stills.add(String(bytes.slice(40)));
        const decoder = new ImageDecoder({data: bytes, type: "image/png"});
        await decoder.tracks.ready;
        seen.animated = Math.max(seen.animated, decoder.tracks.selectedTrack.frameCount);
    });
}"""


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes2"])
def browser(request: pytest.FixtureRequest, server: ComfyServer) -> Iterator[FrontEnd]:
    server.post("/settings", {"Comfy.Execution.PreviewMethod": "latent2rgb"})
    try:
        with front_ends(server, find_chromium()) as new:
            yield new().open(vue_nodes=request.param)
    finally:
        server.post("/settings", {"Comfy.Execution.PreviewMethod": "default"})


_RUN = """async ([workflow, values, frames]) => {
    await app.loadGraphData(workflow);
    const set = (type, values) => {
        const node = app.graph.nodes.find(node => node.type === type);
        for (const [name, value] of Object.entries(values))
            node.widgets.find(widget => widget.name === name).value = value;
        return node;
    };
    set("STIVEmptyLatent", {frames});
    const [x, y] = set("KSampler", values).pos;
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [400 - x, 120 - y];
}"""


def run(browser: FrontEnd, *, steps: int = 4, frames: int = FRAMES) -> str:
    """Run a workflow, watched, as no one has before; returns the prompt's id."""
    workflow = json.loads((ROOT / "workflows" / "text_to_video.json").read_text("utf-8"))
    browser.errors.clear()
    values = {"seed": next(_SEEDS), "steps": steps}
    browser.page.evaluate(_RUN, [workflow, values, frames])
    browser.page.evaluate(_WATCH)
    return browser.press_run()


def watched(browser: FrontEnd) -> dict[str, Any]:
    return browser.page.evaluate("({...seen, stills: seen.stills.size, last: seen.last?.size})")


def test_the_preview_moves_and_then_rests(
    browser: FrontEnd, server: ComfyServer, artifacts: Path
) -> None:
    vue = browser.draws_vue_nodes()
    prompt_id = run(browser, steps=120)  # seconds, on a fast machine too
    # moves as it does on an artist's node: an animation, or one frame after the other
    moving = f"seen.animated === {FRAMES}" if vue else "seen.stills.size >= 3"
    browser.page.wait_for_function(moving, timeout=60_000)
    browser.page.screenshot(path=artifacts / f"preview_{'nodes2' if vue else 'canvas'}.png")
    server.wait(prompt_id)
    browser.page.wait_for_timeout(500)
    end = watched(browser)
    assert end["strips"] >= 2
    assert end["animated"] == (FRAMES if vue else 1)
    browser.page.wait_for_timeout(700)
    assert watched(browser) == end, "the preview goes on after the end"
    still = "seen.last.arrayBuffer().then(data => new ImageDecoder({data, type: 'image/png'}))"
    frames = f"{still}.then(d => d.tracks.ready.then(() => d.tracks.selectedTrack.frameCount))"
    assert browser.page.evaluate(frames) == 1
    assert [error for error in browser.errors if "huggingface.co" not in error] == []


@pytest.mark.parametrize(
    ("setting", "off", "on"),
    [
        ("STIV.Previews.Moving", False, True),  # sent, but not shown
        ("Comfy.Execution.PreviewMethod", "none", "latent2rgb"),  # not even sent
    ],
)
def test_previews_can_be_switched_off(
    setting: str, off: Any, on: Any, browser: FrontEnd, server: ComfyServer
) -> None:
    choose = "([id, value]) => app.extensionManager.setting.set(id, value)"
    browser.page.evaluate(choose, [setting, off])
    try:
        server.wait(run(browser))
        browser.page.wait_for_timeout(300)
        seen = watched(browser)
    finally:
        browser.page.evaluate(choose, [setting, on])
    assert seen["stills"] == 0
    assert (seen["strips"] == 0) == setting.startswith("Comfy.")


def test_a_picture_has_nothing_to_move(browser: FrontEnd, server: ComfyServer) -> None:
    server.wait(run(browser, frames=1))
    browser.page.wait_for_timeout(300)
    seen = watched(browser)
    assert (seen["strips"], seen["stills"]) == (0, 0)
    assert seen["last"] > 0  # the host's own still
