"""Long videos on the real server: what runs again, what survives, and what comes out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from scripts.host import ComfyServer, HostError, Run
from tests.conftest import HOST

STEPS = 2
KEYS, STRIDE = 5, 15


def prompt_of(
    plan: dict[str, Any], pictures: dict[str, int] | None = None, **settings: Any
) -> dict[str, Any]:
    """An API prompt: `plan` is a plan node with its inputs, pictures are colours by position."""
    ((kind, inputs),) = plan.items()
    nodes: dict[str, Any] = {
        "load": {"STIVLoadCheckpoint": {"ckpt_name": "stiv_nano (bundled)"}},
        "make": {
            "STIVLongVideo": {
                "model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "plan": ["plan", 0],
                "negative": "", "steps": STEPS, "cfg": 4.0, "sampler_name": "euler",
                "scheduler": "simple", "dry_run": False, "images": False, **settings,
            }
        },
        "save": {
            "SaveVideo": {
                "video": ["make", 1], "filename_prefix": "long", "format": "auto", "codec": "auto",
            }
        },
        "told": {"PreviewAny": {"source": ["make", 2]}},
    }  # fmt: skip
    placed = None
    for position, colour in (pictures or {}).items():
        picture = {"width": 64, "height": 64, "batch_size": 1, "color": colour}
        nodes[f"picture {position}"] = {"EmptyImage": picture}
        place = {"frames": [f"picture {position}", 0], "positions": position}
        nodes[f"place {position}"] = {
            "STIVPlaceFrames": place | ({"stiv_frames": [placed, 0]} if placed else {})
        }
        placed = f"place {position}"
    nodes["plan"] = {kind: inputs | ({"stiv_frames": [placed, 0]} if placed else {})}
    return {
        name: {"class_type": kind, "inputs": inputs}
        for name, node in nodes.items()
        for kind, inputs in node.items()
    }


def hierarchy(**changes: Any) -> dict[str, Any]:
    inputs = {
        "prompts": "a red circle bounces up and down on a black background",
        "key_frames": KEYS, "stride": STRIDE, "closing": False, "width": 64, "height": 64,
        "fps": 8.0, "window": 16, "carry": 4, "seed": 3, "seeds": "",
    }  # fmt: skip
    return {"STIVLongVideoPlan": inputs | changes}


def prediction(**changes: Any) -> dict[str, Any]:
    inputs = {
        "prompts": "a blue square moves right on a gray background", "frames": 40, "width": 64,
        "height": 64, "fps": 8.0, "window": 16, "carry": 4, "seed": 3, "seeds": "",
    }  # fmt: skip
    return {"STIVPredictionPlan": inputs | changes}


def told(run: Run, node: str = "told") -> str:
    return run.outputs[node]["text"][0]


def count_made(run: Run, node: str = "told") -> int:
    (line,) = (line for line in told(run, node).splitlines() if line.startswith("made now"))
    return int(line.split()[2])


def saved(run: Run) -> Path:
    (path,) = (file for file in run.files if file.suffix == ".mp4")
    return path


def pixels(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with a store of its own, that a test may kill and must start again."""
    with ComfyServer(HOST, base=tmp_path_factory.mktemp("comfyui"), cpu=True) as running:
        yield running


def test_a_hierarchy_has_the_length_and_rate_it_promises(server: ComfyServer) -> None:
    run = server.run(prompt_of(hierarchy()))
    with av.open(str(saved(run))) as container:
        stream = container.streams.video[0]
        times = [frame.pts * stream.time_base for frame in container.decode(stream)]
        assert len(times) == (KEYS - 1) * STRIDE
        assert float(stream.average_rate) == 8.0
        assert [round(float(t) * 8, 6) for t in times] == list(range(len(times)))
    assert "60 frames: 5 key frames every 15" in told(run)


def test_only_what_a_change_concerns_is_made_again(own_server: ComfyServer) -> None:
    pictures = {"20": 0x203050, "50": 0x802040}
    first = own_server.run(prompt_of(hierarchy(), pictures))
    assert count_made(first) == 1 + (KEYS - 1)
    prompts = hierarchy()["STIVLongVideoPlan"]["prompts"]
    edits = {
        "prompt": (hierarchy(prompts=prompts + "\n2: a green cross spins"), pictures),
        "seed": (hierarchy(seeds="0: 99"), pictures),
        "picture": (hierarchy(), pictures | {"50": 0x406080}),
    }
    for what, (plan, given) in edits.items():
        assert count_made(own_server.run(prompt_of(plan, given))) == 1, what
    again = own_server.run(prompt_of(hierarchy(), pictures))
    assert count_made(again) == 0
    own_server.free()  # the host forgets all results
    assert count_made(own_server.run(prompt_of(hierarchy(seeds="1: 5"), pictures))) == 1
    own_server.stop()
    own_server.start()
    after = own_server.run(prompt_of(hierarchy(), pictures))
    assert count_made(after) == 0
    assert (pixels(saved(after)) == pixels(saved(first))).all()


@pytest.mark.parametrize(
    "segments_done",
    [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 3],
)
def test_a_killed_run_goes_on_where_it_was(
    segments_done: int, own_server: ComfyServer, server: ComfyServer
) -> None:
    plan = prediction(frames=64, seed=40 + segments_done)
    store = own_server.base / "user" / "stiv" / "segments"
    others = len(list(store.glob("*/*.mp4")))
    own_server.queue(prompt_of(plan))
    deadline = time.monotonic() + 120
    while len(list(store.glob("*/*.mp4"))) - others < segments_done:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(own_server.pid, signal.SIGKILL)
    own_server.stop()
    growing = list((own_server.output_dir / "stiv_unfinished").glob("*.mp4"))
    if segments_done > 1:  # the last one may not have got there yet
        (film,) = growing
        assert len(pixels(film)) >= 16 + 12 * (segments_done - 2)
    own_server.start()
    run = own_server.run(prompt_of(plan))
    assert count_made(run) <= 5 - segments_done
    whole = server.run(prompt_of(plan))
    assert count_made(whole) == 5
    assert (pixels(saved(run)) == pixels(saved(whole))).all()
    assert not list((own_server.output_dir / "stiv_unfinished").glob("*.mp4"))


def test_a_clip_gets_four_times_its_rate_and_keeps_every_frame_size_and_duration(
    server: ComfyServer,
) -> None:
    prompt = prompt_of(prediction(frames=20, width=62, height=50), images=True)
    prompt["plan 2"] = {
        "class_type": "STIVInterpolationPlan",
        "inputs": {
            "clip": ["make", 0], "prompts": "a blue square moves right on a gray background",
            "factor": "4", "fps": 8.0, "window": 16, "overlap": 2, "seed": 1, "seeds": "",
        },
    }  # fmt: skip
    twice = {**prompt["make"]["inputs"], "plan": ["plan 2", 0], "crf": 0}
    prompt["make 2"] = {"class_type": "STIVLongVideo", "inputs": twice}
    prompt["save"]["inputs"]["video"] = ["make 2", 1]
    prompt["told"]["inputs"]["source"] = ["make 2", 2]
    for name, source in (("before", "make"), ("after", "make 2")):
        prompt[name] = {
            "class_type": "SaveImage",
            "inputs": {"images": [source, 0], "filename_prefix": name},
        }
    run = server.run(prompt)
    files = {
        name: sorted(file for file in run.files if file.name.startswith(name))
        for name in ("before", "after")
    }
    assert len(files["before"]) == 20 and len(files["after"]) == 80
    assert all(
        before.read_bytes() and _picture(before) == _picture(after)
        for before, after in zip(files["before"], files["after"][::4], strict=True)
    )
    with av.open(str(saved(run))) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 32.0
        assert stream.frames == 80
        assert (stream.width, stream.height) == (62, 50)


def _picture(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.tobytes()


@pytest.mark.parametrize(
    ("plan", "pictures", "frames", "segments"),
    [
        (prediction(frames=1), {"0": 0x203050}, 1, 0),  # everything is given
        (hierarchy(key_frames=2, stride=1), None, 1, 1),
        (hierarchy(key_frames=2, stride=1, closing=True), {"0": 0x203050}, 2, 1),
    ],
)
def test_the_smallest_plans(
    plan: dict[str, Any],
    pictures: dict[str, int] | None,
    frames: int,
    segments: int,
    server: ComfyServer,
) -> None:
    run = server.run(prompt_of(plan, pictures))
    assert len(pixels(saved(run))) == frames
    assert count_made(run) == segments


def test_a_video_of_two_blocks(server: ComfyServer) -> None:
    plan = {"frames": 22, "window": 4, "carry": 2, "seed": 9}
    seen = len(server.events)
    run = server.run(prompt_of(prediction(**plan)))
    assert len(pixels(saved(run))) == 22
    assert count_made(run) == 10
    edited = server.run(prompt_of(prediction(**plan, seeds="9: 1")))
    assert count_made(edited) == 1
    shown = [
        {name.rpartition(".")[2] for name in data["nodes"]}
        for kind, data in server.events[seen:]
        if kind == "progress_state" and data["prompt_id"] == run.prompt_id
    ]
    assert any("seg0" in names for names in shown)
    (last,) = [i for i, names in enumerate(shown) if "seg9" in names][:1]
    assert not any("seg0" in names for names in shown[last:])  # its block was over


def test_segments_made_at_once_are_those_made_one_by_one(server: ComfyServer) -> None:
    small = {"key_frames": 6, "stride": 3, "window": 6, "seed": 21}
    seen = len(server.events)
    first = server.run(prompt_of(hierarchy(**small), segments_at_once=4))
    assert count_made(first) == 1 + 5
    ids = {data.get("node") for kind, data in server.events[seen:] if kind == "executing"}
    assert sum(str(node).endswith("seg0_ahead") for node in ids) == 1
    again = server.run(prompt_of(hierarchy(**small)))
    assert count_made(again) == 0  # found under the keys of segments made alone
    edited = hierarchy(**small, seeds="1: 5")
    assert count_made(server.run(prompt_of(edited, segments_at_once=4))) == 1
    settings = {"segments_at_once": 4, "sampler_name": "euler_ancestral"}
    alone = server.run(prompt_of(hierarchy(**small), **settings))
    assert count_made(alone) == 1 + 5
    assert told(alone).count("made one by one") == 1


def test_a_dry_run_makes_nothing_and_says_what_it_would(server: ComfyServer) -> None:
    plan = hierarchy(seed=77)
    dry = server.run(prompt_of(plan, dry_run=True))
    assert "to make: key0, seg0, seg1, seg2, seg3" in told(dry)
    assert "one step of 16 frames took" in told(dry)
    assert not [file for file in dry.files if file.suffix == ".mp4"]
    assert count_made(server.run(prompt_of(plan))) == 5
    assert "in the store: 5 of 5 segments" in told(server.run(prompt_of(plan, dry_run=True)))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (hierarchy(stride=16), "window"),
        (hierarchy(prompts="9: a red circle"), "the last one is 3"),
        (hierarchy(prompts="1: a\n0-2: b"), "1"),
        (prediction(frames=1_000_000, window=4, carry=3), "segments"),
        (prediction(carry=16), "carry"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_at_once(
    plan: dict[str, Any], message: str, server: ComfyServer
) -> None:
    with pytest.raises(HostError, match=message):
        server.run(prompt_of(plan))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"number": 7}, "number is 7, the plan has blocks 0 to 1"),
        ({"number": 1}, "made has 0 segments, block 1 comes after 8"),
        ({"texts": "{"}, "texts is not understood"),
        ({"texts": "[[[], 1, 2, 3]]"}, "texts is not understood"),
        ({"texts": "[]"}, "texts has no node for 'a blue square.* with stride 1"),
    ],
)
def test_a_block_by_itself_says_what_is_wrong(
    inputs: dict[str, Any], message: str, server: ComfyServer
) -> None:
    prompt = prompt_of(prediction(frames=22, window=4, carry=2))
    make = prompt["make"]["inputs"]
    for name in ("dry_run", "images"):
        del make[name]
    make |= {"stiv_plan": make.pop("plan"), "texts": "[]", "number": 0, "fps": 8.0, "crf": 18}
    make |= {"exact_pictures": True, "match_colours": False, **inputs}
    prompt["make"] = {"class_type": "STIVMakeBlock", "inputs": make}
    del prompt["save"]
    prompt["told"]["inputs"]["source"] = ["make", 0]
    with pytest.raises(HostError, match=message):
        server.run(prompt)
