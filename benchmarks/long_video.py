"""A long video on the real server: memory and time at 380 frames and at ten times as many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from scripts.host import ComfyServer
from scripts.prepare import need_host

STRIDE, STEPS = 10, 2
KEY_FRAMES = (39, 381)  # 380 and 3,800 frames


def prompt(key_frames: int, seed: int) -> dict[str, Any]:
    """The bundled nano through STIV Long Video Plan and STIV Long Video to a file."""
    plan = {
        "prompts": "a red circle bounces up and down on a black background",
        "key_frames": key_frames, "stride": STRIDE, "closing": False, "width": 64, "height": 64,
        "fps": 8.0, "window": 16, "carry": 4, "seed": seed,
    }  # fmt: skip
    make = {
        "model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "plan": ["plan", 0],
        "negative": "", "steps": STEPS, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple",
        "dry_run": False, "images": False,
    }  # fmt: skip
    save = {"video": ["make", 1], "filename_prefix": "long", "format": "auto", "codec": "auto"}
    return {
        "load": _node("STIVLoadCheckpoint", ckpt_name="stiv_nano (bundled)"),
        "plan": _node("STIVLongVideoPlan", **plan),
        "make": _node("STIVLongVideo", **make),
        "save": _node("SaveVideo", **save),
    }


def run() -> Iterator[dict]:
    """Both lengths, each in a fresh server after a short video that loads everything."""
    rows = []
    for key_frames in KEY_FRAMES:
        with (
            tempfile.TemporaryDirectory(prefix="stiv-bench-") as base,
            ComfyServer(need_host(), base=base, cpu=True) as server,
        ):
            server.run(prompt(3, seed=1), timeout=600)
            done = server.run(prompt(key_frames, seed=2), timeout=3600)
            frames = (key_frames - 1) * STRIDE
            rows.append((done.seconds / frames, server.memory("VmHWM")))
            yield {
                "what": "long video with nano",
                "frames": frames,
                "steps": STEPS,
                "seconds": round(done.seconds, 1),
                "ms_per_frame": round(1000 * done.seconds / frames, 2),
                "peak_MiB": round(rows[-1][1] / 2**20),
            }
    (time_a, memory_a), (time_b, memory_b) = rows
    yield {
        "what": "ten times as many frames, ratio",
        "time_per_frame": round(time_b / time_a, 3),
        "peak_memory": round(memory_b / memory_a, 3),
    }


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
