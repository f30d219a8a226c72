"""A plan in words: what it will do, before it does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .frames import canvas_size

if TYPE_CHECKING:
    from .plan import Plan


def describe_plan(plan: Plan, steps: int | None, passes_per_step: int) -> str:
    """Lines: length and shape, playing time and size, given frames, segments, forward passes."""
    made = len(plan.segments)
    lines = [
        f"{_many(plan.frames, 'frame')}: {_SHAPES[plan.mode](plan)}",
        f"{plan.seconds:.2f} s at {plan.fps:g} fps, {_size(plan)}",
        f"{_many(len(plan.given), 'frame')} given" if plan.given else "no frame is given",
        *_level_lines(plan),
    ]
    if made and steps is not None:
        passes = made * steps * passes_per_step
        lines.append(
            f"{_many(made, 'segment')} x {_many(steps, 'step')} x "
            f"{_many(passes_per_step, 'pass', 'passes')} = "
            f"{_many(passes, 'forward pass', 'forward passes')}"
        )
    elif made:
        lines.append(f"{_many(made, 'segment')} to make, each with the sampler's steps")
    else:
        lines.append("nothing is left to make: every frame is given")
    return "\n".join(lines)


def _size(plan: Plan) -> str:
    size = (plan.width, plan.height)
    canvas = canvas_size(*size)
    cut = "" if canvas == size else ", made at {} x {} and cut".format(*canvas)
    return "{} x {} pixels".format(*size) + cut


def _hierarchy_shape(plan: Plan) -> str:
    keys = f"{plan.key_frames:,} key frames every {plan.stride}"
    if plan.closing:
        return f"{keys}, the closing one included"
    return f"{keys}; the closing one guides the end and is not shown"


def _rollout_shape(plan: Plan) -> str:
    if plan.numbered == 1:
        return "all in one window"
    return f"windows of {plan.window}, each going on from the last {plan.carry} of the one before"


def _interpolation_shape(plan: Plan) -> str:
    clip, more = plan.frames // plan.stride, plan.stride - 1
    return (
        f"{plan.stride} times those of a clip of {clip:,}, in the same time; after the clip's "
        f"last frame the model goes on for {_many(more, 'frame')}"
    )


_SHAPES = {
    "hierarchy": _hierarchy_shape,
    "rollout": _rollout_shape,
    "interpolate": _interpolation_shape,
}


def _level_lines(plan: Plan) -> list[str]:
    kinds = {
        "hierarchy": (("key frames", plan.key_windows), ("gaps", plan.numbered)),
        "rollout": (("windows", plan.numbered),),
        "interpolate": tuple((f"times {2 << level}", None) for level in range(3)),
    }[plan.mode]
    counts: dict[int, list[int]] = {}
    for segment in plan.segments:
        counts.setdefault(segment.level, []).append(segment.count)
    lines = []
    for level, (kind, windows) in enumerate(kinds):
        made = counts.get(level, [])
        left_out = f", {windows - len(made):,} left out: all given" if windows else ""
        if made:
            lines.append(f"{kind}: {_sizes(made)}{left_out if windows != len(made) else ''}")
        elif windows:
            lines.append(f"{kind}: all given")
    return lines


def _sizes(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    frames = _many(high, "frame") if low == high else f"{low} to {high} frames"
    return f"{_many(len(counts), 'segment')} of {frames}"


def _many(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
