"""Which latent frames are given and where: the one mechanism behind every STIV task.

Before each forward pass the noised latent of a given frame is replaced by its clean one
(paper section 3.2). The choice of positions is the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_STEP = 16  # pixels per token: a patch of two latents, each of eight pixels
_LIMIT = 10_000  # characters of a positions text, far more than any timeline needs


@dataclass(frozen=True, eq=False)
class Placement:
    """Some frames and the text that says where they go."""

    frames: Tensor
    """image: (k, H, W, 3) in [0, 1]; latent: (C, k, h, w), as the VAE gives them."""
    positions: str
    kind: Literal["image", "latent"] = "image"

    @property
    def count(self) -> int:
        """Number of frames k."""
        return self.frames.shape[0 if self.kind == "image" else 1]

    def frame(self, index: int) -> Tensor:
        """One frame: (H, W, 3) or (C, h, w)."""
        return self.frames.select(0 if self.kind == "image" else 1, index)


@dataclass(frozen=True, eq=False)
class GivenFrame:
    """One frame at one position of a video whose length is known."""

    position: int
    frame: Tensor
    kind: Literal["image", "latent"]


@dataclass(frozen=True, eq=False)
class GivenFrames:
    """The value of STIV_FRAMES: placements, resolved when the number of frames is known."""

    placements: tuple[Placement, ...] = ()

    def place(
        self, frames: Tensor, positions: str, kind: Literal["image", "latent"] = "image"
    ) -> GivenFrames:
        """A new value with one more placement. Raises ValueError for a wrong shape or kind."""
        expected = {"image": "(frames, height, width, 3)", "latent": "(channels, frames, h, w)"}
        if kind not in expected:
            raise ValueError(f"kind of given frames is {kind!r}: expected 'image' or 'latent'")
        if frames.ndim != 4 or (kind == "image" and frames.shape[-1] < 3):
            raise ValueError(
                f"given {kind}s have shape {tuple(frames.shape)}: expected {expected[kind]}"
            )
        return GivenFrames((*self.placements, Placement(frames, positions, kind)))

    def resolve(self, total: int) -> list[GivenFrame]:
        """All given frames of a video of `total` frames, in order of position.

        Raises ValueError for positions outside 0 … total - 1, for a count that differs from the
        number of frames, and for two frames at one position.
        """
        given: dict[int, GivenFrame] = {}
        for placement in self.placements:
            positions = parse_positions(placement.positions, total, placement.count)
            for index, position in enumerate(positions):
                if position in given:
                    raise ValueError(
                        f"two frames are given at position {position} "
                        f"(the second by {placement.positions!r}): remove one of them"
                    )
                frame = placement.frame(index)
                given[position] = GivenFrame(position, frame, placement.kind)
        return [given[position] for position in sorted(given)]


def parse_positions(text: str, total: int, count: int | None = None) -> list[int]:
    """Positions named by a text, in the order of the frames that go there.

    Pieces, separated by commas: "5", "0-3" (both ends included), "first", "last", "-1" (from the
    end), "every 2", "every 2 from 1". With `count` frames to place, one position starts a run
    of that many ("8" with three frames is 8, 9, 10), and "every n" takes the first `count`.
    Raises ValueError quoting the piece, `total` and the remedy.
    """
    if len(text) > _LIMIT:
        raise ValueError(f"positions are {len(text)} characters long: at most {_LIMIT}")
    pieces = [piece.strip().lower() for piece in text.split(",")]
    found: list[int] = []
    for piece in pieces:
        room = None if count is None else count - len(found)
        found += _parse_piece(piece, total, room, text)
        if len(found) > total:  # now: a text of this length can name frames by the billion
            raise ValueError(_twice(text))
    if count is not None and len(found) == 1 < count and "every" not in text.lower():
        found = list(range(found[0], found[0] + count))
        _check_range(found[-1], total, text, text)
    if count is not None and len(found) != count:
        raise ValueError(
            f"positions {text!r} name {len(found)} of {total} frames, but {count} are given: "
            "name as many positions as frames"
        )
    if len(set(found)) != len(found):
        raise ValueError(_twice(text))
    return found


def _twice(text: str) -> str:
    return f"positions {text!r} name a frame twice: each may be given once"


def _parse_piece(piece: str, total: int, room: int | None, text: str) -> list[int]:
    if piece in ("first", "last"):
        return [0 if piece == "first" else total - 1]
    if match := re.fullmatch(r"-?[0-9]{1,9}", piece):
        position = int(piece)
        position += total if position < 0 else 0
        _check_range(position, total, piece, text)
        return [position]
    if match := re.fullmatch(r"([0-9]{1,9})\s*-\s*([0-9]{1,9})", piece):
        start, end = int(match[1]), int(match[2])
        if start > end:
            raise ValueError(f"{piece!r} in positions {text!r} runs backwards: write {end}-{start}")
        _check_range(end, total, piece, text)
        return list(range(start, end + 1))
    if match := re.fullmatch(r"every\s+([0-9]{1,9})(?:\s+from\s+([0-9]{1,9}))?", piece):
        step, start = int(match[1]), int(match[2] or 0)
        if step < 1:
            raise ValueError(
                f"{piece!r} in positions {text!r} does not advance: use every 1 or more"
            )
        _check_range(start, total, piece, text)
        return list(range(start, total, step)[:room])
    raise ValueError(
        f"{piece!r} in positions {text!r} is not understood: "
        'use "0", "0-3", "first", "last", "-1" or "every 2", separated by commas'
    )


def _check_range(position: int, total: int, piece: str, text: str) -> None:
    if not 0 <= position < total:
        raise ValueError(
            f"{piece!r} in positions {text!r} is outside the video of {total} frames: "
            f"use 0 to {total - 1}"
        )


def canvas_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) in pixels that the model makes for a video of this size.

    The next multiples of 16; the video is the upper left part of it.
    """
    return -(-width // _STEP) * _STEP, -(-height // _STEP) * _STEP


def to_canvas(pictures_THWC: Tensor) -> Tensor:
    """Pictures (T, H, W, C) continued to the right and below to `canvas_size`, by their edges."""
    height, width = pictures_THWC.shape[1:3]
    canvas_width, canvas_height = canvas_size(width, height)
    if (canvas_width, canvas_height) == (width, height):
        return pictures_THWC
    added = (0, canvas_width - width, 0, canvas_height - height)
    return F.pad(pictures_THWC.movedim(-1, 1), added, mode="replicate").movedim(1, -1)


def frame_mask(
    positions: Iterable[int], total: int, device: torch.device | str | None = None
) -> Tensor:
    """(total,) bool, true at the given positions."""
    mask = torch.zeros(total, dtype=torch.bool)
    mask[list(positions)] = True
    return mask.to(device)


def replace_frames(x_BCTHW: Tensor, clean_BCTHW: Tensor, frame_mask_BT: Tensor) -> Tensor:
    """x with the frames marked in frame_mask_BT taken from clean: frame replacement."""
    return torch.where(frame_mask_BT.bool()[:, None, :, None, None], clean_BCTHW, x_BCTHW)


TASKS: dict[str, Callable[[int], str]] = {
    "t2v": lambda total: "",
    "ti2v": lambda total: "first",
    "v2v": lambda total: f"0-{min(4, total) - 1}",
    "tup": lambda total: "every 2",
    "first_last": lambda total: "first,last" if total > 1 else "first",
    "keyframes": lambda total: "first",
    "multi_view": lambda total: "first",
}
"""The paper's tasks as positions of the given frames in a video of `total` frames."""


def task_positions(task: str, total: int) -> list[int]:
    """Positions that a task gives clean. Raises ValueError for an unknown task."""
    if task == "t2i":
        return []
    if task not in TASKS:
        raise ValueError(f"task is {task!r}: expected one of t2i, {', '.join(TASKS)}")
    text = TASKS[task](total)
    return parse_positions(text, total) if text else []
