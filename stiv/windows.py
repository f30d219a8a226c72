"""Where the windows of a long video lie: the hierarchy, the roll-out and the interpolation.

A model makes a window of frames at a time. Each function below lists the windows of one way to a
long video, in the order in which they are made; which frames of them are given, and everything
after that, is the same for all (see `stiv.plan`). Pure arithmetic: nothing here is checked.

Legend: a window is an arithmetic progression of timeline positions, start + index * step. Windows
of one level share nothing but what earlier levels made and what they carry from the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """Some frames to make at once, before it is known which of them are given."""

    name: str
    level: int
    number: int
    """Counts the windows of a level, from 0."""
    start: int
    step: int
    count: int
    carried: int
    """So many first frames are taken from the window before."""
    keeps: range
    """Indices of the frames that are this window's to keep, unless they are given."""


def hierarchy_windows(key_frames: int, stride: int, window: int, carry: int) -> Iterator[Window]:
    """Key frames first, every `stride` frames; then each gap between two of them.

    More key frames than fit one window are made in several, each carrying `carry` key frames of
    the one before. A gap begins and ends with a key frame and keeps what lies between
    (paper, long video).
    """
    for number, (first, count) in enumerate(spread(key_frames, window, carry)):
        carried = carry if number else 0
        kept = range(carried, count)
        yield Window(f"key{number}", 0, number, first * stride, stride, count, carried, kept)
    for number in range(gap_count(key_frames, stride)):
        kept = range(1, stride)
        yield Window(f"seg{number}", 1, number, number * stride, 1, stride + 1, 0, kept)


def rollout_windows(frames: int, window: int, carry: int) -> Iterator[Window]:
    """Windows of `window` frames, each going on from the last `carry` of the one before.

    The last window is shorter where the video ends; it always has a frame left to make.
    """
    for number in range(window_count(frames, window, carry)):
        start = number * (window - carry)
        count = min(window, frames - start)
        carried = carry if number else 0
        kept = range(carried, count)
        yield Window(f"seg{number}", 0, number, start, 1, count, carried, kept)


def interpolation_windows(frames: int, factor: int, window: int, overlap: int) -> Iterator[Window]:
    """Twice the frames, level by level, until every `factor`-th of `frames` was there before.

    The frames of a level are pairs of a known one and one to make, as in training (paper, temporal
    upsampling: every second frame is given). Two neighbours overlap by `overlap` pairs and part
    in the middle of them, so that a frame is kept where it lies farthest from a window's ends.
    """
    for level in range(factor.bit_length() - 1):
        times = 2 << level
        step = factor // times
        pairs = frames // step // 2
        last = window_count(pairs, window // 2, overlap) - 1
        for number, (first, count) in enumerate(spread(pairs, window // 2, overlap)):
            low = overlap if number else 0
            high = 2 * count - (overlap if number < last else 0)
            name, start = f"x{times}_{number}", 2 * first * step
            yield Window(name, level, number, start, step, 2 * count, 0, range(low, high))


def gap_count(key_frames: int, stride: int) -> int:
    """Gaps between key frames; key frames that are next to each other leave none."""
    return key_frames - 1 if stride > 1 else 0


def window_count(total: int, longest: int, overlap: int) -> int:
    """The fewest windows of up to `longest` that cover `total` and overlap by `overlap`."""
    return 1 if total <= longest else -(-(total - overlap) // (longest - overlap))


def spread(total: int, longest: int, overlap: int) -> Iterator[tuple[int, int]]:
    """(start, count) of the fewest such windows, their counts as equal as can be."""
    number = window_count(total, longest, overlap)
    count, longer = divmod(total + (number - 1) * overlap, number)
    start = 0
    for index in range(number):
        here = count + (index < longer)
        yield start, here
        start += here - overlap
