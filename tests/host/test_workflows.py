"""Every shipped workflow runs on the real server and saves what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from PIL import Image

from scripts.host import PACK_NAME, ComfyServer
from tests.host.shipped import NAMES, WORKFLOWS, asked

SHIPPED = {
    "text_to_image", "text_to_video", "image_to_video", "image_to_video_advanced",
    "first_last", "interpolate", "video_prediction",
}  # fmt: skip


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
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


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
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
