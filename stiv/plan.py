"""A long video as a plan: a timeline, and the segments that make it one after another.

"Every task is only which frames are given" holds at any length. A segment is a window of timeline
positions; some of its frames are given, by the artist or by an earlier segment, and it makes the
rest. `hierarchy`, `rollout` and `interpolation` list the windows (see `stiv.windows`); what comes
after does not know which of them did.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from .header import parse_json
from .plan_checks import MAX_FRAMES, check_factor, check_integer, check_number, check_plan
from .plan_text import describe_plan
from .prompts import MAX_SEED, parse_prompts, parse_seeds, quote
from .windows import (
    Window,
    gap_count,
    hierarchy_windows,
    interpolation_windows,
    rollout_windows,
    window_count,
)

VERSION = 1
MAX_SEGMENTS = 20_000
MAX_WINDOW_FRAMES = 5_000_000  # of all segments together, given ones included
MAX_JSON = 16 * 2**20  # characters; any plan that passes the checks is below
MAX_JSON_ITEMS = 4_000_000

_SEEDS_PER_LEVEL = 1_000_000  # more than a level has windows
_NOBODY, _ARTIST = 127, -1


@dataclass(frozen=True)
class Segment:
    """Frames that are made at once, at timeline positions start + index * step."""

    name: str
    """Unique in its plan, and the same whatever is changed elsewhere: "key0", "seg7", "x2_3"."""
    start: int
    step: int
    """Timeline frames from one frame to the next: the model's stride micro-condition."""
    count: int
    given: tuple[int, ...]
    """Indices, from 0 to count - 1, of the frames that are clean input."""
    keeps: tuple[int, ...]
    """Indices of the frames that go from here onto the timeline; each is kept by one segment."""
    prompt: str
    seed: int
    level: int
    """Segments of one level are independent of each other, unless they carry frames on."""

    def positions(self) -> tuple[int, ...]:
        """The timeline positions of its frames, in order."""
        return tuple(range(self.start, self.start + self.count * self.step, self.step))


@dataclass(frozen=True)
class Plan:
    """What the artist chose; everything else follows from it.

    Build one with `hierarchy`, `rollout` or `interpolation`. Raises ValueError, in one line, for
    anything out of range or that does not fit together.
    """

    mode: Literal["hierarchy", "rollout", "interpolate"]
    frames: int
    """Length of the video, 1 to 1,000,000."""
    fps: float
    """Frames per second of the video."""
    width: int
    """Pixels of the video, an even number; so is the height. See `stiv.frames.canvas_size`."""
    height: int
    window: int
    """Most frames of one segment, 2 to 4,096."""
    stride: int
    """hierarchy: frames from one key frame to the next; interpolate: 2, 4 or 8; rollout: 1."""
    carry: int
    """Frames handed to the next window, of the video or of key frames, 1 to window - 1;
    interpolate: known frames that two neighbours share, 1 to window // 2 - 1."""
    closing: bool = False
    """hierarchy: the last key frame is the video's last frame; otherwise it is made, guides the
    last gap and is not shown."""
    prompt: str = ""
    """Of every segment without one of its own."""
    prompts: tuple[tuple[int, int, str], ...] = ()
    """(first, last, text): of segments by number, see `numbered`; ascending, none twice."""
    key_prompt: str = ""
    """Of the key frames; empty: `prompt`."""
    seed: int = 0
    """A segment without a seed of its own takes seed + 1,000,000 * level + its number there,
    modulo 2^64: other segments' seeds do not depend on how many there are."""
    seeds: tuple[tuple[int, int], ...] = ()
    """(segment, seed): of segments by number; ascending, none twice."""
    key_seeds: tuple[tuple[int, int], ...] = ()
    """(window of key frames, seed), likewise."""
    given: tuple[int, ...] = ()
    """Positions of the frames that the artist gives, ascending, from 0 to span - 1."""

    def __post_init__(self) -> None:
        check_plan(self)
        object.__setattr__(self, "fps", float(self.fps))  # 24 and 24.0 are written alike
        _ = self.segments  # too many are refused here

    @property
    def span(self) -> int:
        """Positions while making: `frames`, and one more for a last key frame not shown."""
        return self.frames + (self.mode == "hierarchy" and not self.closing)

    @property
    def seconds(self) -> float:
        """How long the video plays."""
        return self.frames / self.fps

    @property
    def key_frames(self) -> int:
        """Number of key frames of a hierarchy; otherwise 0."""
        return (self.span - 1) // self.stride + 1 if self.mode == "hierarchy" else 0

    @property
    def key_windows(self) -> int:
        """Number of windows that make the key frames."""
        return window_count(self.key_frames, self.window, self.carry) if self.key_frames else 0

    @property
    def numbered(self) -> int:
        """How many segments `prompts` and `seeds` can name.

        The gaps of a hierarchy, the windows of a roll-out, the windows of an interpolation's last
        level. An interpolation's earlier levels take `prompt`. Numbers are counted before frames
        are given, so they stay what they are when a segment has nothing left to make.
        """
        if self.mode == "hierarchy":
            return gap_count(self.key_frames, self.stride)
        if self.mode == "rollout":
            return window_count(self.frames, self.window, self.carry)
        return window_count(self.frames // 2, self.window // 2, self.carry)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments in the order of making; those with nothing to make are left out."""
        return tuple(_segments(self))

    def owner(self, position: int) -> int | None:
        """Index of the segment that keeps a position, 0 to span - 1; None: the artist gives it."""
        check_integer("position", position, 0, self.span - 1)
        owner = self._owners[position]
        return None if owner == _ARTIST else owner

    def needs(self, segment: Segment) -> tuple[int, ...]:
        """Indices of the segments that it takes given frames from; all are earlier ones."""
        positions = segment.positions()
        owners = {self._owners[positions[index]] for index in segment.given}
        return tuple(sorted(owners - {_ARTIST}))

    @cached_property
    def _owners(self) -> array[int]:
        owners = array("i", [_ARTIST]) * self.span
        for index, segment in enumerate(self.segments):
            for kept in segment.keeps:
                owners[segment.start + kept * segment.step] = index
        return owners

    def describe(self, steps: int | None = None, passes_per_step: int = 2) -> str:
        """What it will do, in a few lines: length, segments level by level, forward passes.

        `steps` of the sampler, if known; `passes_per_step`: forward passes of one sampling step,
        2 with ordinary guidance.
        """
        if steps is not None:
            check_integer("steps", steps, 1, 10_000)
        check_integer("passes_per_step", passes_per_step, 1, 100)
        return describe_plan(self, steps, passes_per_step)

    def to_json(self) -> str:
        """The plan as JSON; `from_json` is the inverse."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({"version": VERSION, **values}, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """A plan from a stranger's JSON: bounded, every key there once and none unknown.

        Raises ValueError, in one line, naming the key and the value.
        """
        values = _read_json(text)
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(names)):
            more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
            raise ValueError(f"the plan has an unknown key {quote(unknown[0])}{more}: remove it")
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"the plan has no {missing[0]!r}: every key must be there")
        return cls(**{name: _as_tuples(value) for name, value in values.items()})


def hierarchy(
    key_frames: int,
    stride: int,
    *,
    closing: bool = False,
    window: int = 16,
    carry: int = 4,
    fps: float,
    width: int,
    height: int,
    prompts: str = "",
    seed: int = 0,
    seeds: str = "",
    given: Iterable[int] = (),
) -> Plan:
    """Key frames (2 or more) every `stride` frames, then every gap between its two key frames.

    The video has (key_frames - 1) * stride frames, and one more with `closing`. `prompts` and
    `seeds` are text, see `stiv.prompts`; numbers are the gaps'. Errors as for `Plan`.
    """
    check_integer("number of key frames", key_frames, 2, MAX_FRAMES)
    check_integer("stride", stride, 1, MAX_FRAMES)
    plan = Plan(
        mode="hierarchy", frames=(key_frames - 1) * stride + bool(closing), closing=closing,
        stride=stride, window=window, carry=carry, fps=fps, width=width, height=height,
        seed=seed, given=_ascending(given),
    )  # fmt: skip
    return _with_words(plan, prompts, seeds)


def rollout(
    frames: int,
    *,
    window: int = 16,
    carry: int = 4,
    fps: float,
    width: int,
    height: int,
    prompts: str = "",
    seed: int = 0,
    seeds: str = "",
    given: Iterable[int] = (),
) -> Plan:
    """Windows that each go on from the last `carry` frames of the one before.

    `prompts` and `seeds` are text, see `stiv.prompts`; numbers are the windows'. Errors as for
    `Plan`.
    """
    plan = Plan(
        mode="rollout", frames=frames, stride=1, window=window, carry=carry, fps=fps,
        width=width, height=height, seed=seed, given=_ascending(given),
    )  # fmt: skip
    return _with_words(plan, prompts, seeds)


def interpolation(
    frames_in: int,
    factor: int,
    *,
    window: int = 16,
    overlap: int = 2,
    fps: float,
    width: int,
    height: int,
    prompts: str = "",
    seed: int = 0,
    seeds: str = "",
) -> Plan:
    """A clip of `frames_in` frames at `fps` to 2, 4 or 8 times its frame rate.

    The clip's frames lie at every `factor`-th position and the last is followed by factor - 1
    more, so that it plays exactly as long as before. `prompts` and `seeds` are text, see
    `stiv.prompts`; numbers are the windows' of the last level. Errors as for `Plan`.
    """
    check_integer("number of frames of the clip", frames_in, 1, MAX_FRAMES)
    check_factor(factor)
    check_number("fps of the clip", fps)
    frames = frames_in * factor
    check_integer("frames", frames, 1, MAX_FRAMES)
    plan = Plan(
        mode="interpolate", frames=frames, stride=factor, window=window, carry=overlap,
        fps=fps * factor, width=width, height=height, seed=seed,
        given=tuple(range(0, frames, factor)),
    )  # fmt: skip
    return _with_words(plan, prompts, seeds)


def _segments(plan: Plan) -> Iterator[Segment]:
    """Windows become segments once it is known which of their frames are given."""
    made_at = array("b", [_NOBODY]) * plan.span  # the level that makes a position
    for position in plan.given:
        made_at[position] = _ARTIST
    prompts, seeds = _by_name(plan)
    segments = frames = 0
    for window in _windows(plan):
        positions = range(window.start, window.start + window.count * window.step, window.step)
        given = tuple(
            index
            for index, position in enumerate(positions)
            if index < window.carried or made_at[position] < window.level
        )
        keeps = tuple(index for index in window.keeps if made_at[positions[index]] == _NOBODY)
        segments, frames = segments + bool(keeps), frames + window.count
        if segments > MAX_SEGMENTS or frames > MAX_WINDOW_FRAMES:
            many = segments > MAX_SEGMENTS
            limit = f"{MAX_SEGMENTS:,} segments" if many else f"{MAX_WINDOW_FRAMES:,} window frames"
            raise ValueError(
                f"the plan of {plan.frames:,} frames takes more than {limit}: use fewer frames, "
                f"{'a longer window' if many else 'a shorter window'} or less carry"
            )
        if not keeps:
            continue
        for index in keeps:
            made_at[positions[index]] = window.level
        seed = plan.seed + window.level * _SEEDS_PER_LEVEL + window.number
        yield Segment(
            name=window.name, start=window.start, step=window.step, count=window.count,
            given=given, keeps=keeps, level=window.level,
            prompt=prompts.get(window.name, plan.prompt),
            seed=seeds.get(window.name, seed % (MAX_SEED + 1)),
        )  # fmt: skip


def _windows(plan: Plan) -> Iterator[Window]:
    if plan.mode == "hierarchy":
        return hierarchy_windows(plan.key_frames, plan.stride, plan.window, plan.carry)
    if plan.mode == "rollout":
        return rollout_windows(plan.frames, plan.window, plan.carry)
    return interpolation_windows(plan.frames, plan.stride, plan.window, plan.carry)


def _by_name(plan: Plan) -> tuple[dict[str, str], dict[str, int]]:
    """Prompts and seeds of single segments, by the segments' names."""
    prefix = f"x{plan.stride}_" if plan.mode == "interpolate" else "seg"
    prompts = {
        f"{prefix}{number}": text
        for first, last, text in plan.prompts
        for number in range(first, last + 1)
    }
    if plan.key_prompt:
        prompts |= {f"key{number}": plan.key_prompt for number in range(plan.key_windows)}
    seeds = {f"{prefix}{number}": seed for number, seed in plan.seeds}
    seeds |= {f"key{number}": seed for number, seed in plan.key_seeds}
    return prompts, seeds


def _with_words(plan: Plan, prompts: str, seeds: str) -> Plan:
    words = vars(parse_prompts(prompts, plan.numbered, plan.key_windows))
    words |= vars(parse_seeds(seeds, plan.numbered, plan.key_windows))
    return replace(plan, **words) if any(words.values()) else plan


def _ascending(given: Iterable[int]) -> tuple[int, ...]:
    positions = tuple(given)
    if all(type(position) is int for position in positions):
        return tuple(sorted(positions))
    return positions  # refused by the checks, which name the position


def _read_json(text: str) -> dict[str, Any]:
    if not isinstance(text, str) or len(text) > MAX_JSON:
        raise ValueError(
            f"the plan is {quote(text)}: expected up to {MAX_JSON:,} characters of JSON"
        )
    try:
        values = parse_json(text, max_items=MAX_JSON_ITEMS)
    except ValueError as error:
        raise ValueError(f"the plan is no valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"the plan is {quote(values)}: expected a table of its fields")
    version = values.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"the plan's version is {quote(version)}: expected {VERSION}; update the pack if the "
            "plan is newer"
        )
    return values


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
