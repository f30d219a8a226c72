"""The real server after interruptions, mistakes and many runs."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from scripts.host import ComfyServer, HostError


def clip(seed: int = 0, steps: int = 2, **changes: dict[str, Any]) -> dict[str, Any]:
    """An API prompt: a picture to a video with the bundled model. `changes` replace inputs."""
    prompt = {
        "load": {"STIVLoadCheckpoint": {"ckpt_name": "stiv_nano (bundled)"}},
        "text": {"STIVTextEncode": {"clip": ["load", 1], "text": "a red circle moves left"}},
        "empty": {"STIVTextEncode": {"clip": ["load", 1], "text": ""}},
        "size": {
            "STIVEmptyLatent": {"width": 64, "height": 64, "frames": 16, "batch_size": 1},
        },
        "picture": {
            "EmptyImage": {"width": 64, "height": 64, "batch_size": 1, "color": 0x203050},
        },
        "place": {"STIVPlaceFrames": {"frames": ["picture", 0], "positions": "first"}},
        "replace": {
            "STIVFrameReplacement": {
                "positive": ["text", 0],
                "negative": ["empty", 0],
                "vae": ["load", 2],
                "latent": ["size", 0],
                "stiv_frames": ["place", 0],
            }
        },
        "sample": {
            "KSampler": {
                "model": ["load", 0],
                "positive": ["replace", 0],
                "negative": ["replace", 1],
                "latent_image": ["replace", 2],
                "seed": seed,
                "steps": steps,
                "cfg": 4.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            }
        },
        "decode": {"VAEDecode": {"samples": ["sample", 0], "vae": ["load", 2]}},
        "save": {"SaveImage": {"images": ["decode", 0], "filename_prefix": "clip"}},
    }
    nodes = {
        name: {"class_type": kind, "inputs": dict(inputs)}
        for name, node in prompt.items()
        for kind, inputs in node.items()
    }
    for name, inputs in changes.items():
        nodes[name]["inputs"] |= inputs
    return nodes


def test_interrupted_sampling_leaves_the_server_healthy(server: ComfyServer) -> None:
    sampling = threading.Event()

    def watch(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["value"] >= 2 and not sampling.is_set():
            sampling.set()
            server.interrupt()

    with pytest.raises(HostError, match="interrupted"):
        server.wait(server.queue(clip(seed=1, steps=10000)), on_event=watch)
    assert sampling.is_set()
    assert len(server.run(clip(seed=2)).files) == 16


def test_runs_do_not_grow_memory(server: ComfyServer) -> None:
    for seed in range(3):  # what stays once: weights, caches, allocator
        server.run(clip(seed=100 + seed))
    held = [server.memory("VmRSS")]
    for seed in range(30):
        server.run(clip(seed=200 + seed))
        held.append(server.memory("VmRSS"))
    grown = [(after - before) / 2**20 for before, after in pairwise(held)]
    # One run's own tensors are well above 10 MiB. The allocator takes a step of 48 MiB now and
    # then (seen once in forty runs), so the bound of 32 MiB in ten runs is taken over thirty,
    # and the usual run, which no step hides, may hardly grow at all.
    assert sum(grown) < 3 * 32, f"thirty runs grew the server, in MiB: {grown}"
    assert median(grown) < 1, f"every run grows the server, in MiB: {grown}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"place": {"positions": "7-3"}}, "runs backwards: write 3-7"),
        ({"place": {"positions": "99"}}, "outside the video of 16 frames"),
        ({"size": {"width": 72}}, "multiple of 16"),
        ({"text": {"clip": ["load", 0]}}, "return_type|type mismatch|MODEL"),
        ({"load": {"ckpt_name": "missing.safetensors"}}, "missing.safetensors"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line_before_sampling(
    changes: dict[str, Any], words: str, server: ComfyServer
) -> None:
    seen: list[str] = []
    with pytest.raises(HostError, match=words) as caught:
        server.wait(server.queue(clip(seed=3, **changes)), on_event=lambda k, d: seen.append(k))
    assert "progress" not in seen
    assert "\n" not in str(caught.value)
    assert len(server.run(clip(seed=4)).files) == 16


def test_a_bad_checkpoint_is_named(server: ComfyServer, tmp_path: Path) -> None:
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    bad = folder / "stranger.safetensors"
    bad.write_bytes(b"\x80\x04cposix\nsystem\n")
    try:
        with pytest.raises(HostError, match=r"stranger\.safetensors.*pickle"):
            server.run(clip(load={"ckpt_name": bad.name}))
    finally:
        bad.unlink()
