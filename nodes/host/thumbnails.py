"""Small pictures of segments for the plan panel, kept beside the statistics of a stretch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 96
"""Pixels of the longer side, at most."""
MAX_BYTES = 4096
_QUALITIES = (80, 60, 40, 20, 5)
_PREFIX = "thumbnail"


def moments(slots: Sequence[int]) -> dict[int, int]:
    """Which frames of a stretch show its segments best: {index: slot}, the middle one of each.

    slots: the slot of each frame; negative ones are not the segments'.
    """
    places: dict[int, list[int]] = {}
    for index, slot in enumerate(slots):
        places.setdefault(slot, []).append(index)
    return {own[len(own) // 2]: slot for slot, own in places.items() if slot >= 0}


def thumbnail(frame_HWC: Tensor) -> bytes:
    """A JPEG of at most `MAX_BYTES` of a frame (H, W, 3) in [0, 1]."""
    array = (frame_HWC.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(np.ascontiguousarray(array))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def to_tensors(pictures: Mapping[int, bytes]) -> dict[str, Tensor]:
    """Files by slot, as tensors that the store takes."""
    return {
        f"{_PREFIX}{slot}": torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
        for slot, data in pictures.items()
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[int, bytes]:
    """The inverse; other tensors are left alone."""
    return {
        int(name.removeprefix(_PREFIX)): tensor.numpy().tobytes()
        for name, tensor in tensors.items()
        if name.startswith(_PREFIX)
    }
