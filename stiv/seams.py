"""Seams of a long video: does brightness, colour or motion jump where two segments meet?

Every frame is reduced to a few numbers as it is made (`frame_statistics`); the report needs them
alone, so that it costs the same memory for any length. Numbers are those of the pixels as stored
(gamma encoded), on a scale from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

REC_709 = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in luma (ITU-R BT.709, section 3.2)."""
FLOOR = 0.5 / 255
"""Smallest change that counts as usual: half a step of 8 bits, which nobody sees. Without it any
movement at the seams of a still video would be endlessly many times the usual one."""
_NAMES = ("luma", "colour", "motion")
_STANDS_STILL = 0.1  # of the usual motion: the frame before the seam is shown twice


@dataclass(frozen=True, eq=False)
class FrameStatistics:
    """Numbers of T consecutive frames, float64 on the CPU."""

    colour: Tensor
    """(T, 3) mean red, green and blue."""
    motion: Tensor
    """(T,) mean absolute difference to the frame before; NaN where that is not known."""

    @property
    def luma(self) -> Tensor:
        """(T,) mean luma."""
        return self.colour @ torch.tensor(REC_709, dtype=self.colour.dtype)

    def __len__(self) -> int:
        return self.motion.shape[0]


@dataclass(frozen=True)
class Jump:
    """One change at a seam, beside the usual change from frame to frame around it."""

    change: float
    """On a scale from 0 to 1; NaN where the frame before is not known."""
    usual: float
    """Median over the two segments that meet, at least the floor."""

    @property
    def ratio(self) -> float:
        """1 where the seam is like any other frame, larger where it shows."""
        return self.change / self.usual


@dataclass(frozen=True)
class Seam:
    """What happens between the frames position - 1 and position, the first of a new segment."""

    position: int
    luma: Jump
    colour: Jump
    """Euclidean distance of the mean colours."""
    motion: Jump
    stands_still: bool
    """The video moves around the seam but not across it: a frame seems to be doubled."""

    @property
    def worst(self) -> float:
        """The largest ratio that is known; infinity for a doubled frame, 0 if nothing is known."""
        if self.stands_still:
            return math.inf
        ratios = (jump.ratio for jump in (self.luma, self.colour, self.motion))
        return max((ratio for ratio in ratios if not math.isnan(ratio)), default=0.0)


def frame_statistics(frames_THWC: Tensor, before_HWC: Tensor | None = None) -> FrameStatistics:
    """Statistics of frames (T, H, W, 3) in [0, 1] that follow the frame `before` (H, W, 3).

    The same numbers whether a video is handed over whole or in pieces, each with the last frame of
    the piece before it. Raises ValueError for other shapes.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3:
        raise ValueError(
            f"frames have shape {tuple(frames_THWC.shape)}: expected (frames, height, width, 3)"
        )
    if before_HWC is not None and before_HWC.shape != frames_THWC.shape[1:]:
        raise ValueError(
            f"the frame before has shape {tuple(before_HWC.shape)}, the frames "
            f"{tuple(frames_THWC.shape[1:])}: expected one size"
        )
    T = frames_THWC.shape[0]
    colour = torch.empty(T, 3, dtype=torch.float64)
    motion = torch.full((T,), math.nan, dtype=torch.float64)
    before = None if before_HWC is None else _on_cpu(before_HWC)
    for index in range(T):  # one at a time: no copy of the whole video
        frame = _on_cpu(frames_THWC[index])
        colour[index] = frame.mean(dim=(0, 1), dtype=torch.float64)
        if before is not None:
            motion[index] = (frame - before).abs().mean(dtype=torch.float64)
        before = frame
    return FrameStatistics(colour, motion)


def join_statistics(parts: Iterable[FrameStatistics]) -> FrameStatistics:
    """Statistics of consecutive parts as those of one video."""
    parts = list(parts)
    if not parts:
        raise ValueError("there are no statistics to join: expected those of 1 part or more")
    return FrameStatistics(
        torch.cat([part.colour for part in parts]), torch.cat([part.motion for part in parts])
    )


def seam_report(
    statistics: FrameStatistics, positions: Sequence[int], floor: float = FLOOR
) -> list[Seam]:
    """One Seam for each position, the first frame of a segment; statistics of the whole video.

    What is usual is the median change inside the two segments that meet; where they have none
    (segments of one frame), inside all segments. Raises ValueError for positions that do not rise
    or lie outside 1 … frames - 1, and for a floor that is not positive.
    """
    T, seams = len(statistics), list(positions)
    for before, seam in pairwise([0, *seams]):
        if not before < seam < T:
            raise ValueError(
                f"seam at frame {seam} after {before} in a video of {T} frames: "
                f"expected rising positions from 1 to {T - 1}"
            )
    if not floor > 0:
        raise ValueError(f"the floor of changes is {floor}: expected more than 0")
    changes = _changes(statistics)  # (T, 3): luma, colour, motion; the first row unknown
    inside = torch.ones(T, dtype=torch.bool)
    inside[seams] = False
    everywhere = _median(changes[inside])
    report = []
    for first, seam, end in zip([0, *seams], seams, [*seams[1:], T], strict=False):
        around = _median(changes[first:end][inside[first:end]])
        usual = torch.where(around.isnan(), everywhere, around).nan_to_num(0.0).clamp(min=floor)
        jumps = [Jump(*pair) for pair in zip(changes[seam].tolist(), usual.tolist(), strict=True)]
        motion = jumps[2]
        still = motion.usual > floor and motion.ratio < _STANDS_STILL
        report.append(Seam(seam, *jumps, stands_still=still))
    return report


def to_text(seams: Sequence[Seam], limit: int = 20) -> str:
    """A table for people, the worst seams first and at most `limit` of them, then a summary."""
    if not seams:
        return "no seams: the video is one segment"
    order = sorted(seams, key=lambda seam: (-seam.worst, seam.position))
    lines = ["  frame      luma    colour    motion   (1.0 = as inside the segments)"]
    for seam in order[:limit]:
        jumps = (seam.luma, seam.colour, seam.motion)
        cells = "".join(f"{_number(jump.ratio):>10}" for jump in jumps)
        note = "   stands still: a doubled frame?" if seam.stands_still else ""
        lines.append(f"{seam.position:>7}{cells}{note}")
    if len(order) > limit:
        lines.append(f"    … and {len(order) - limit} seams that show less")
    medians = _median(
        torch.tensor([[s.luma.ratio, s.colour.ratio, s.motion.ratio] for s in seams])
    ).tolist()
    words = (f"{name} {_number(x)}" for name, x in zip(_NAMES, medians, strict=True))
    lines.append(f"{len(seams)} seams, median: {', '.join(words)}")
    return "\n".join(lines)


def _on_cpu(frame: Tensor) -> Tensor:
    return frame.to("cpu", torch.float32)  # some devices have no float64 to add up in


def _changes(statistics: FrameStatistics) -> Tensor:
    """(T, 3) changes of luma, colour and motion from the frame before, NaN for the first."""
    unknown = torch.full((1,), math.nan, dtype=torch.float64)
    luma = torch.cat([unknown, statistics.luma.diff().abs()])
    colour = torch.cat([unknown, statistics.colour.diff(dim=0).norm(dim=1)])
    return torch.stack([luma, colour, statistics.motion], dim=1)


def _median(rows: Tensor) -> Tensor:
    """(3,) median of each column without its NaN; of an even number the mean of the middle two."""
    if not len(rows):
        return torch.full((3,), math.nan, dtype=rows.dtype)
    return torch.nanquantile(rows, 0.5, dim=0)


def _number(ratio: float) -> str:
    return "?" if math.isnan(ratio) else f"{ratio:.1f} ×"
