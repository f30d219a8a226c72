"""An image's forward pass: the image model and the video model at one frame, against PixArt."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from . import timing
from .forward_video import (
    COMPILED,
    OURS,
    PACKED,
    PARTS,
    Runs,
    add_others,
    config_of,
    inputs,
    measured,
    of_dtypes,
    ours,
)
from .peers import Size, host_pixart, pixart

SIZE = Size(depth=2, frames=1, side=32)  # latents below 64 x 64 fail in the host's PixArt
REPETITIONS = 9


def run() -> Iterator[dict]:
    """float32 and bfloat16."""
    return of_dtypes(SIZE, _rows)


@torch.inference_mode()
def _rows(size: Size, dtype_name: str) -> Iterator[dict]:
    from .parts import from_parts

    torch.manual_seed(0)
    dtype = timing.DTYPES[dtype_name]
    config = config_of(size, temporal_attention=False, temporal_patch=1)
    model = ours(config, dtype)
    given = inputs(config, size, dtype)
    parts = from_parts(model, (1, size.side, size.side))
    runs: Runs = {OURS: lambda: model(**given), PARTS: lambda: parts(**given)}
    add_others(runs, model, given)
    runs["diffusers PixArt"] = pixart(size, dtype).call
    runs["ComfyUI PixArt, as on a CPU"] = host_pixart(size, dtype, sdpa=False).call
    runs["ComfyUI PixArt, SDPA"] = host_pixart(size, dtype, sdpa=True).call
    video_config = config_of(size, temporal_patch=1)
    video = ours(video_config, dtype)
    runs["ours, video model at one frame"] = lambda: video(**given)
    yield from measured(runs, REPETITIONS, same=(PACKED, COMPILED, PARTS))
