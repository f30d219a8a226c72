"""A plan as plain JSON, for whoever draws it: its segments row by row, and its seams.

What a widget shows before a run, and what a run tells it, are the same rows from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .frames import canvas_size
from .plan import Plan, Segment, hierarchy, interpolation, rollout
from .plan_checks import MAX_FRAMES
from .prompts import quote
from .timeline import given_sources, seams

MAX_ROWS = 2_000
"""Segments told of one by one; of more, the first."""
MAX_GIVEN_RUNS = 1_000
PROMPT_SHOWN = 300  # characters
_DIGITS = 16  # of a segment's digest
_PLANNERS = {"hierarchy": hierarchy, "rollout": rollout, "interpolate": interpolation}


def plan_of_values(mode: str, values: Mapping[str, Any]) -> Plan:
    """The plan of the arguments that `hierarchy`, `rollout` or `interpolation` takes, by their
    names; `given` is a list of [first, last] positions. Raises ValueError, in one line."""
    if mode not in _PLANNERS:
        raise ValueError(f"mode is {quote(mode)}: expected one of {', '.join(_PLANNERS)}")
    if not isinstance(values, Mapping):
        raise ValueError(f"values are {quote(values)}: expected a table")
    arguments = dict(values)
    if "given" in arguments:
        arguments["given"] = _positions(arguments["given"])
    try:
        return _PLANNERS[mode](**arguments)
    except TypeError as error:  # an argument that is missing, or unknown
        raise ValueError(f"the plan cannot be made of {', '.join(values)}: {error}") from None


def plan_view(plan: Plan) -> dict[str, Any]:
    """The plan as JSON: totals, `segments` (at most `MAX_ROWS`, in the order of making), `seams`.

    A row's `content` is a digest of all that the plan says of it and of the segments that it takes
    frames from: two rows with the same content are the same segment, if pictures, model and
    settings are the same. `place` is how the text of seeds names it, "" where it cannot; `needs`
    are the rows that it takes frames from; `prompt` counts in `prompts`. A seam stands behind the
    row `after`; making the row `reroll` anew is what changes it with the least work.
    """
    shown = plan.segments[:MAX_ROWS]
    prompts = {text: i for i, text in enumerate(dict.fromkeys(s.prompt for s in shown))}
    digests = [_digest(text) for text in prompts]  # of each once: they can be long and many
    contents: list[str] = []
    rows = []
    for segment in shown:
        prompt = prompts[segment.prompt]
        contents.append(_content(plan, segment, digests[prompt], contents))
        rows.append(_row(plan, segment, prompt, contents[-1]))
    return {
        "mode": plan.mode,
        "frames": plan.frames,
        "fps": plan.fps,
        "seconds": plan.seconds,
        "width": plan.width,
        "height": plan.height,
        "canvas": list(canvas_size(plan.width, plan.height)),
        "given": len(plan.given),
        "wired": _of_inputs(plan),
        "total": len(plan.segments),
        "made_frames": sum(segment.count for segment in plan.segments),
        "prompts": [_clipped(text) for text in prompts],
        "segments": rows,
        "seams": _seams(plan),
    }


def _row(plan: Plan, segment: Segment, prompt: int, content: str) -> dict[str, Any]:
    return {
        "name": segment.name,
        "place": _place(plan, segment),
        "level": segment.level,
        "first": segment.start + segment.keeps[0] * segment.step,
        "last": segment.start + segment.keeps[-1] * segment.step,
        "step": segment.step,
        "count": segment.count,
        "makes": len(segment.keeps),
        "prompt": prompt,
        "seed": str(segment.seed),  # beyond what a browser's numbers hold
        "needs": plan.needs(segment),
        "content": content,
    }


def _place(plan: Plan, segment: Segment) -> str:
    """How `stiv.prompts.parse_seeds` names a segment; "" for earlier levels of an interpolation."""
    if segment.name.startswith("key"):
        return segment.name
    prefix = f"x{plan.stride}_" if plan.mode == "interpolate" else "seg"
    return segment.name.removeprefix(prefix) if segment.name.startswith(prefix) else ""


def _of_inputs(plan: Plan) -> dict[str, Any]:
    """Arguments of `plan_of_values` that come from a clip or from pictures, so that a widget that
    was told them once can plan again without a run."""
    if plan.mode == "interpolate":
        size = {"width": plan.width, "height": plan.height}
        return {"frames_in": plan.frames // plan.stride, "fps": plan.fps / plan.stride, **size}
    return {"given": _runs(plan)}


def _content(plan: Plan, segment: Segment, prompt: str, earlier: list[str]) -> str:
    given = [
        [index, "" if source.segment is None else earlier[source.segment], source.index]
        for index, source in given_sources(plan, segment)
    ]
    numbers = [plan.width, plan.height, segment.count, segment.step, segment.seed]
    return _digest(json.dumps([numbers, prompt, given]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _seams(plan: Plan) -> list[dict[str, int]]:
    found = []
    for position in seams(plan):
        sides = [plan.owner(position - 1), plan.owner(position)]
        # what is made later has less that follows from it
        reroll = max((side for side in sides if side is not None), default=MAX_ROWS)
        if reroll >= MAX_ROWS:
            continue
        segment = plan.segments[reroll]
        ends_there = segment.start + segment.keeps[-1] * segment.step < position
        after = reroll if ends_there else reroll - 1
        found.append({"position": position, "after": after, "reroll": reroll})
    return found


def _runs(plan: Plan) -> list[list[int]] | None:
    """The given positions as [first, last] of consecutive ones; None where there are too many."""
    runs: list[list[int]] = []
    for position in plan.given:
        if runs and runs[-1][1] == position - 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    return runs if len(runs) <= MAX_GIVEN_RUNS else None


def _positions(runs: Any) -> list[int]:
    good = isinstance(runs, list) and len(runs) <= MAX_GIVEN_RUNS
    good = good and all(isinstance(run, list) and len(run) == 2 for run in runs)
    good = good and all(type(end) is int and 0 <= end < MAX_FRAMES for run in runs for end in run)
    if not good:
        raise ValueError(f"given is {quote(runs)}: expected a list of [first, last] positions")
    parts = [range(first, last + 1) for first, last in runs]
    if sum(map(len, parts)) > MAX_FRAMES:  # before they are written out
        raise ValueError(f"given is {quote(runs)}: it names positions twice")
    return [position for part in parts for position in part]


def _clipped(text: str) -> str:
    return text if len(text) <= PROMPT_SHOWN else text[:PROMPT_SHOWN] + "…"
