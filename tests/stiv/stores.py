"""What the tests of the segment store share: keys, tensors, files and how to compare them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from stiv.store import SegmentStore

KEY, OTHER = "ab" * 32, "cd" * 32
BIG = 10**9
TENSORS = {"latents": torch.arange(24.0).reshape(1, 2, 3, 4), "mask": torch.tensor([True, False])}


def file_of(store: SegmentStore, key: str = KEY) -> Path:
    return store.folder / key[:2] / f"{key}.safetensors"


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found: dict[str, torch.Tensor] | None, expected: dict[str, torch.Tensor]) -> None:
    assert found is not None and found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert as_bytes(found[name]) == as_bytes(tensor), name


def used_at(path: Path, seconds_ago: float) -> None:
    moment = time.time() - seconds_ago
    os.utime(path, (moment, moment))


# What goes in comes out
