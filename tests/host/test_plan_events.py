"""What a run of a long video tells the browser that started it."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

from PIL import Image

from scripts.host import ComfyServer
from stiv.plan import hierarchy as plan_hierarchy
from stiv.plan_view import plan_view
from tests.host.test_long_video import count_made, hierarchy, prompt_of, told

PLAN = {"key_frames": 4, "stride": 3, "window": 6}
HEAD = "data:image/jpeg;base64,"
MAX_PICTURE = 4096


def events_of(server: ComfyServer, prompt: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What was told between the host's own first and last word of a run."""
    prompt_id = server.run(prompt).prompt_id
    begin, end = (position(server, kind, prompt_id) for kind in ("start", "success"))
    return [(kind, data) for kind, data in server.events[begin:end] if kind.startswith("stiv.")]


def position(server: ComfyServer, kind: str, prompt_id: str) -> int:
    for _ in range(100):  # the socket may lag behind the history
        for index, (name, data) in enumerate(server.events):
            if name == f"execution_{kind}" and data["prompt_id"] == prompt_id:
                return index
        time.sleep(0.1)
    raise AssertionError(f"no execution_{kind} of {prompt_id}")


def test_a_run_tells_its_plan_segments_pictures_and_seams(server: ComfyServer) -> None:
    node = hierarchy(**PLAN, seed=611, prompts="a red circle\n1: a blue square")
    (plan, *others) = events_of(server, prompt_of(node))
    (inputs,) = node.values()
    view = json.loads(json.dumps(plan_view(plan_hierarchy(**inputs))))
    assert plan[0] == "stiv.plan"
    assert (plan[1]["node"], plan[1]["plan"]) == ("plan", view)

    assert {(kind, data["node"]) for kind, data in others} == {("stiv.long_video", "make")}
    start, *parts, end = (data for _, data in others)
    assert (start["kind"], start["plan"], start["kept"]) == ("start", view, [])
    assert set(start["prompt"]) == {"load", "plan", "make"}
    assert start["memory"] > 10**6

    names = [row["name"] for row in view["segments"]]
    segments = [data for data in parts if data["kind"] == "segment"]
    assert sorted(data["name"] for data in segments) == sorted(names)
    assert all(data["made"] and data["seconds"] > 0 for data in segments)
    pictures: dict[str, str] = {}
    for data in parts:
        pictures |= data.get("pictures", {})
    assert sorted(pictures) == sorted(names)
    for url in pictures.values():
        assert url.startswith(HEAD) and len(url) <= len(HEAD) + MAX_PICTURE * 4 / 3 + 4
        with Image.open(io.BytesIO(base64.b64decode(url.removeprefix(HEAD)))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (64, 64))
    assert (end["kind"], end["made"]) == ("end", names)
    assert [seam["position"] for seam in end["seams"]] == [3, 6]


def test_a_second_run_says_what_was_kept_and_a_dry_run_what_would_be(server: ComfyServer) -> None:
    server.run(prompt_of(hierarchy(**PLAN, seed=612)))
    plan = hierarchy(**PLAN, seed=612, seeds="1: 5")
    (check,) = (d for k, d in events_of(server, prompt_of(plan, dry_run=True)) if "kind" in d)
    assert (check["kind"], check["kept"]) == ("check", ["key0", "seg0", "seg2"])
    assert check["seconds"] > 0 and check["disk"] > 0
    events = [data for _, data in events_of(server, prompt_of(plan)) if "kind" in data]
    assert events[0]["kept"] == check["kept"]
    made = {data["name"]: data["made"] for data in events if data["kind"] == "segment"}
    assert made["seg1"] and not any(made[name] for name in made.keys() - {"seg1"})
    assert events[-1]["made"] == ["seg1"]


def test_without_a_browser_nothing_is_told_and_the_video_is_the_same(server: ComfyServer) -> None:
    plan = hierarchy(**PLAN, seed=613)
    run = server.wait(server.post("/prompt", {"prompt": prompt_of(plan)})["prompt_id"])
    assert count_made(run) == 4
    after = server.run(prompt_of(plan, dry_run=True))
    assert "in the store: 4 of 4" in told(after)
    position(server, "success", after.prompt_id)  # whatever was told before has arrived
    assert not [data for kind, data in server.events if data.get("run") == run.prompt_id]
    assert "could not be told" not in server.log
