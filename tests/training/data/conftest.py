"""Latent shards as `training.caches` writes them, with contents that tell samples apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

SPACE = {"name": "custom", "channels": 4, "scale": 0.5, "shift": 0.25, "downscale": 8}


def make_shard(
    folder: Path,
    name: str = "a-0",
    count: int = 3,
    shape: tuple[int, int, int] = (3, 2, 2),
    *,
    encoder: str = "encoder-1",
    space: dict = SPACE,
    first: int = 0,
    strides: tuple[float, ...] = (3,),
) -> Path:
    """One shard of samples `first` … of its name: sample i's latents are i + frame / 8. strides:
    of the micro conditions, by turns."""
    numbers = np.arange(first, first + count, dtype=np.float16).reshape(-1, 1, 1, 1, 1)
    frames = np.arange(shape[0], dtype=np.float16).reshape(1, 1, -1, 1, 1) / 8
    latents = np.broadcast_to(numbers + frames, (count, space["channels"], *shape))
    micro = np.tile(np.float32([480, 640, 1, 2, 3, shape[0]]), (count, 1))
    micro[:, 4] = np.resize(strides, count)
    samples = [
        {
            "key": f"{name}/{first + i}.mp4#0",
            "content": f"{first + i:064x}",
            "captions": [f"caption {first + i}", f"variant {first + i}"],
            "fps": 24.0,
        }
        for i in range(count)
    ]
    bucket = "x".join(map(str, shape))
    path = folder / f"latents-{bucket}-{name}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"latents": np.ascontiguousarray(latents), "micro": micro},
        path,
        {
            "stiv.cache": "1",
            "provenance": json.dumps({"encoder": encoder, "latents": space, "spec": {}}),
            "samples": json.dumps(samples),
        },
    )
    return path


@pytest.fixture
def shard() -> Callable[..., Path]:
    """Writes a shard, see `make_shard`."""
    return make_shard


@pytest.fixture
def cache(tmp_path) -> Path:
    """A folder of 30 samples: 3x2x2 in two shards (5 + 8), 1x2x4 in one (17)."""
    folder = tmp_path / "cache"
    make_shard(folder, "a-0", 5)
    make_shard(folder, "a-1", 8)
    make_shard(folder, "a-0", 17, (1, 2, 4))
    return folder
