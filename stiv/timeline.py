"""Where the frames of a planned video come from, and in which pieces it is written.

A plan lists what is made; this is the way back: for a position of the timeline, who has its frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt
from operator import attrgetter
from typing import NamedTuple

from .plan import Plan, Segment
from .windows import hierarchy_windows, interpolation_windows, window_count

MAX_PIECES = 100
"""Of a film: each is a node that the host describes with all that it follows from, so that many
small pieces would take more memory and time than the frames in them."""
MOST_SEAMS = 40  # in one piece
MIN_BLOCK, MAX_BLOCK = 8, 64


class Source(NamedTuple):
    """Whose frame lies at a position of the timeline."""

    segment: int | None
    """Index of the segment that makes it; None: the artist gives it."""
    index: int
    """Its index in that segment; the artist's frames are found by their position."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of the video that are decoded and written together."""

    start: int
    stop: int
    """One past its last position."""


def source(plan: Plan, position: int) -> Source:
    """Who has the frame at `position`, 0 to span - 1."""
    owner = plan.owner(position)
    if owner is None:
        return Source(None, position)
    segment = plan.segments[owner]
    return Source(owner, (position - segment.start) // segment.step)


def given_sources(plan: Plan, segment: Segment) -> list[tuple[int, Source]]:
    """(index in the segment, source) of every frame that it is given."""
    positions = segment.positions()
    return [(index, source(plan, positions[index])) for index in segment.given]


def seams(plan: Plan) -> list[int]:
    """Positions, from 1 on and rising, at which another segment takes over."""
    if plan.mode == "hierarchy" and plan.stride > 1:
        return list(range(plan.stride, plan.frames, plan.stride))
    if plan.mode == "hierarchy":  # all frames are key frames
        windows = hierarchy_windows(plan.key_frames, 1, plan.window, plan.carry)
        starts = [window.start + window.keeps.start for window in windows]
        return [start for start in starts[1:] if start < plan.frames]
    if plan.mode == "rollout":
        forward = plan.window - plan.carry
        windows = window_count(plan.frames, plan.window, plan.carry)
        return [number * forward + plan.carry for number in range(1, windows)]
    windows = interpolation_windows(plan.frames, plan.stride, plan.window, plan.carry)
    last = [window for window in windows if window.step == 1]
    return [window.start + window.keeps.start for window in last[1:]]


def stretches(plan: Plan, most: int = MAX_PIECES) -> list[Stretch]:
    """The video from seam to seam, several together where there would be more than `most`; but not
    more than `MOST_SEAMS`, so that what a stretch needs stays little."""
    cuts = [0, *seams(plan)]
    cuts = cuts[:: min(-(-len(cuts) // most), MOST_SEAMS)]
    return [
        Stretch(start, stop) for start, stop in zip(cuts, [*cuts[1:], plan.frames], strict=True)
    ]


@dataclass(frozen=True)
class Block:
    """Segments that are made, and stretches that are written, one after another."""

    segments: range
    """Indices in the plan."""
    stretches: range
    """Indices in `stretches(plan)`; what they need is made in this block or an earlier one."""


def blocks(plan: Plan) -> list[Block]:
    """The whole work in blocks of about equal size, as many as each of them has segments.

    What follows each segment back to all that it depends on then takes the square root of what it
    would take in one go.
    """
    total, parts = len(plan.segments), stretches(plan)
    size = min(MAX_BLOCK, max(MIN_BLOCK, isqrt(total)))
    ends = [*range(size, total, size), total]
    # Colours are matched to key frames, so all of these come first.
    keys = sum(segment.level == 0 for segment in plan.segments) * (plan.mode == "hierarchy")
    found, begun, done = [], 0, 0
    for end in ends:
        first = done
        while done < len(parts) and max(_last_needed(plan, parts[done]) + 1, keys) <= end:
            done += 1
        done = len(parts) if end == total else done
        found.append(Block(range(begun, end), range(first, done)))
        begun = end
    return found


def groups(plan: Plan, segments: range, most: int) -> list[range]:
    """Consecutive ones of some segments that can be made in one pass, up to `most` in each.

    Those of a group have the same prompt, length, step and given indices, and none takes frames
    from another.
    """
    found: list[range] = []
    for index in segments:
        group = found[-1] if found else range(0)
        if 0 < len(group) < most and _in_one_pass(plan, group, plan.segments[index]):
            found[-1] = range(group.start, index + 1)
        else:
            found.append(range(index, index + 1))
    return found


_shared = attrgetter("prompt", "count", "step", "given")


def _in_one_pass(plan: Plan, group: range, segment: Segment) -> bool:
    alike = _shared(plan.segments[group.start]) == _shared(segment)
    return alike and max(plan.needs(segment), default=-1) < group.start


def _last_needed(plan: Plan, stretch: Stretch) -> int:
    return max(owners(plan, range(stretch.start, stretch.stop)), default=-1)


def owners(plan: Plan, positions: Iterable[int]) -> list[int]:
    """Indices of the segments that the frames at some positions come from, rising."""
    found = {plan.owner(position) for position in positions}
    return sorted(found - {None})
