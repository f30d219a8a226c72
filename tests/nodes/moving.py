"""A moving pattern, as frames and as pieces of a film, and what a file shows of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from ComfyUI_STIV.nodes.host.pieces import Piece, encode_piece


def scenery(
    frames: int, width: int = 48, height: int = 32, start: int = 0, scale: float = 1
) -> torch.Tensor:
    """(T, H, W, 3) of a smooth pattern that moves: frame i is the same in whatever batch."""
    t = torch.arange(start, start + frames).view(-1, 1, 1)
    y = torch.arange(height).view(1, -1, 1) / scale
    x = torch.arange(width).view(1, 1, -1) / scale
    waves = (torch.sin((x + 2 * t) / 9), torch.cos((y - t) / 7), torch.sin((x + y + 3 * t) / 13))
    return torch.stack([0.5 + 0.4 * wave.expand(frames, height, width) for wave in waves], -1)


def pieces(lengths: list[int], fps: float | Fraction, **settings: int) -> list[Piece]:
    """The scenery in pieces."""
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return [
        encode_piece([scenery(count, start=start)], start, index, fps, **settings)
        for index, (start, count) in enumerate(zip(starts, lengths, strict=True))
    ]


def decoded(data: bytes | Path) -> Iterator[tuple[Fraction, np.ndarray]]:
    """(time, uint8 pixels) of every frame."""
    with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
        for frame in container.decode(video=0):
            yield frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")
