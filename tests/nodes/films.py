"""A film of four pieces that show the scenery: growing it, and looking at what plays."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from ComfyUI_STIV.nodes.host.film import Film
from ComfyUI_STIV.nodes.host.pieces import Piece

from tests.nodes.moving import decoded, scenery

LENGTHS = [5, 1, 7, 3]
WHOLE_PIECES = [sum(LENGTHS[:count]) for count in range(len(LENGTHS) + 1)]
"""Numbers of frames that a film can play."""
IDS = ["key0", "seg0", "seg1", "seg2"]


class Maker:
    """Hands out pieces and remembers which were asked for."""

    def __init__(self, made: list[Piece]):
        self.made, self.asked = made, []

    def __call__(self, index: int) -> Piece:
        self.asked.append(index)
        return self.made[index]


def grown(path: Path, made: list[Piece], ids: list[str], upto: int | None = None) -> list[int]:
    """The pieces that had to be made."""
    make = Maker(made)
    expected = sum(piece.frames for piece in made[: len(ids) if upto is None else upto])
    assert Film(path).grow(ids, make, upto) >= expected
    return make.asked


def check_plays(path: Path, fps: Fraction | int = 8, rounded: bool = False) -> int:
    """Number of frames; they are the scenery, each at its time."""
    frames = list(decoded(path))
    assert all(
        abs(time - index / Fraction(fps)) <= (1e-4 if rounded else 0)
        for index, (time, _) in enumerate(frames)
    )
    for (_, pixels), frame in zip(frames, scenery(len(frames)), strict=True):
        assert np.abs(pixels - frame.numpy() * 255).mean() < 6
    return len(frames)


def states_of_appending(before: bytes, after: bytes) -> Callable[[int], bytes]:
    """What a killed append may have left: part of the covered piece, or all of it uncovered."""
    cover = (len(after) - len(before)).to_bytes(4, "big") + after[len(before) + 4 :]
    return lambda cut: before + cover[:cut]
