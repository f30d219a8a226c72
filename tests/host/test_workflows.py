"""Every shipped workflow runs on the real server and in the real front end.

Tests of one workflow follow each other, so the host makes it once and has it in its cache then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from scripts.host import PACK_NAME, ComfyServer
from scripts.prepare import ROOT
from tests.host.front_end import FrontEnd
from tests.host.shipped import NAMES, WORKFLOWS, asked

SHIPPED = {
    "text_to_image", "text_to_video", "image_to_video", "image_to_video_advanced",
    "first_last", "interpolate", "video_prediction", "long_video", "multi_view",
}  # fmt: skip


@pytest.fixture(scope="module")
def host_errors(new_page: Callable[[], FrontEnd]) -> set[str]:
    """What the console says in either renderer without this pack's scripts."""
    errors: set[str] = set()
    for vue_nodes in (False, True):
        bare = new_page().open(vue_nodes=vue_nodes, bare=True)
        errors.update(bare.errors)
        bare.page.context.close()
    return errors


@pytest.fixture(scope="module")
def pages(new_page: Callable[[], FrontEnd], host_errors: set[str]) -> dict[bool, FrontEnd]:
    """A page for each renderer, by whether it is Nodes 2.0; opened without an error of the pack."""
    found = {}
    for vue_nodes in (False, True):
        found[vue_nodes] = new_page().open(vue_nodes=vue_nodes)
        assert set(found[vue_nodes].errors) <= host_errors
    return found


@pytest.fixture(scope="module", params=WORKFLOWS, ids=NAMES)
def path(request: pytest.FixtureRequest) -> Path:
    """A workflow's file."""
    return request.param


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["canvas", "nodes2"])
def test_workflow_opens_and_runs(
    path: Path,
    vue_nodes: bool,
    pages: dict[bool, FrontEnd],
    host_errors: set[str],
    server: ComfyServer,
    artifacts: Path,
) -> None:
    name, browser = path.stem, pages[vue_nodes]
    browser.load(name)
    assert browser.draws_vue_nodes() == vue_nodes
    assert browser.missing_nodes() == []
    assert browser.overlapping_nodes() == []

    # the converter behind `run_workflow` and the front end make the same prompt of this file
    workflow = server.get(f"/api/workflow_templates/{PACK_NAME}/{name}.json")
    assert without_titles(server.to_prompt(workflow)) == without_titles(browser.prompt())

    run = server.wait(browser.press_run())
    assert run.files, "the workflow saved nothing"
    browser.wait_for_preview(run.files[-1].name)
    browser.screenshot(artifacts / f"{name}_{'nodes2' if vue_nodes else 'canvas'}.png")
    assert set(browser.errors) <= host_errors


def test_a_workflow_of_the_first_version_still_opens(
    pages: dict[bool, FrontEnd], host_errors: set[str]
) -> None:
    """Widget values are by their place: they must come to lie where they did then."""
    old = json.loads((ROOT / "tests" / "data" / "first_image_to_video.json").read_text("utf-8"))
    wanted = {
        "STIVLoadCheckpoint": {"ckpt_name": "stiv_nano (bundled)"},
        "STIVEmptyLatent": {"width": 64, "height": 64, "frames": 16, "batch_size": 1},
        "STIVPlaceFrames": {"positions": "first"},
        "STIVGuidance": {"mode": "joint", "image_scale": 1.5, "renorm": False},
    }
    for browser in pages.values():
        browser.errors.clear()
        browser.page.evaluate("workflow => app.loadGraphData(workflow)", old)
        assert browser.missing_nodes() == []
        prompt = browser.prompt()
        for node in prompt.values():
            assert wanted.get(node["class_type"], {}).items() <= node["inputs"].items()
        assert wanted.keys() <= {node["class_type"] for node in prompt.values()}
        texts = [n["inputs"] for n in prompt.values() if n["class_type"] == "STIVTextEncode"]
        assert {text["text"] for text in texts} == {
            "", "a yellow square bounces up and down on a navy background"
        }  # fmt: skip
        assert set(browser.errors) <= host_errors


def without_titles(prompt: dict[str, Any]) -> dict[str, Any]:
    return {
        id_: {key: value for key, value in node.items() if key != "_meta"}
        for id_, node in prompt.items()
    }


def test_workflow_renders_the_size_length_and_rate_it_asks_for(
    path: Path, server: ComfyServer
) -> None:
    run = server.run_workflow(path)
    prompt = server.to_prompt(server.get(f"/api/workflow_templates/{PACK_NAME}/{path.name}"))
    width, height, frames, fps = asked(prompt)
    (saved,) = (file for file in run.files if server.output_dir in file.parents)  # no previews
    with av.open(str(saved)) as container:
        stream = container.streams.video[0]
        sizes = [(frame.width, frame.height) for frame in container.decode(stream)]
        assert sizes == [(width, height)] * frames
        if fps is None:
            assert frames == 1
        else:
            assert float(stream.average_rate) == fps


def test_workflow_explains_itself_and_needs_no_file_of_ours(path: Path) -> None:
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    types = {node["type"] for node in nodes}
    assert "MarkdownNote" in types
    assert not types & {"LoadImage", "LoadVideo", "LoadLatent"}
    assert not any(node.get("mode") for node in nodes), "a node is muted or bypassed"


def test_workflows_are_served_as_templates_with_thumbnails(server: ComfyServer) -> None:
    assert set(NAMES) >= SHIPPED
    served = server.get("/workflow_templates").get(PACK_NAME, [])
    assert sorted(served) == NAMES
    for path in WORKFLOWS:
        thumbnail = path.with_suffix(".jpg")
        assert thumbnail.stat().st_size <= 60_000
        with Image.open(thumbnail) as image:
            assert image.format == "JPEG"
