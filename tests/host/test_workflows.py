"""Every shipped workflow runs on the real server and saves what it promises."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from scripts.host import PACK_NAME, ComfyServer
from tests.host.shipped import NAMES, WORKFLOWS

SHIPPED = {"text_to_image", "text_to_video", "image_to_video", "image_to_video_advanced"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_workflow_renders_the_size_length_and_rate_it_asks_for(
    path: Path, server: ComfyServer
) -> None:
    run = server.run_workflow(path)
    prompt = server.to_prompt(server.get(f"/api/workflow_templates/{PACK_NAME}/{path.name}"))
    asked = next(n["inputs"] for n in prompt.values() if n["class_type"] == "STIVEmptyLatent")
    rates = [n["inputs"]["fps"] for n in prompt.values() if n["class_type"] == "CreateVideo"]
    for file in run.files:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            frames = [(frame.width, frame.height) for frame in container.decode(stream)]
            assert frames == [(asked["width"], asked["height"])] * (asked["frames"] if rates else 1)
            if rates:
                assert float(stream.average_rate) == rates[0]
    assert len(run.files) == 1


def test_workflows_are_served_as_templates_with_thumbnails(server: ComfyServer) -> None:
    assert set(NAMES) >= SHIPPED
    served = server.get("/workflow_templates").get(PACK_NAME, [])
    assert sorted(served) == NAMES
    assert [path.name for path in WORKFLOWS if not path.with_suffix(".jpg").is_file()] == []
