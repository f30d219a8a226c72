"""What makes a plan valid; every refusal is one line that names the field, its value and a remedy.

A plan may come from a stranger's JSON, so types are checked too: True is no number here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .prompts import MAX_LINES, MAX_SEED, MAX_TEXT, quote

if TYPE_CHECKING:
    from .plan import Plan

MAX_FRAMES = 1_000_000
MAX_WINDOW = 4_096
FACTORS = (2, 4, 8)
MODES = ("hierarchy", "rollout", "interpolate")

_BOUNDS = {
    "frames": (1, MAX_FRAMES),
    "width": (16, 16_384),
    "height": (16, 16_384),
    "window": (2, MAX_WINDOW),
    "stride": (1, MAX_FRAMES),
    "carry": (1, MAX_WINDOW),
    "seed": (0, MAX_SEED),
}
_FPS = (0.001, 1000)


def check_plan(plan: Plan) -> None:
    """Raises ValueError for the first thing wrong with a plan's fields."""
    if plan.mode not in MODES:
        raise ValueError(f"the plan's mode is {quote(plan.mode)}: expected one of {MODES}")
    for name, (low, high) in _BOUNDS.items():
        check_integer(name, getattr(plan, name), low, high)
    check_number("fps", plan.fps)
    if type(plan.closing) is not bool:
        raise ValueError(f"the plan's closing is {quote(plan.closing)}: expected true or false")
    for name in ("width", "height"):
        value = getattr(plan, name)
        if value % 2:
            raise ValueError(
                f"the plan's {name} is {value}, an odd number: use {value - 1} or {value + 1}"
            )
    _CHECKS[plan.mode](plan)
    _check_given(plan)
    _check_texts(plan)
    _check_seeds("seeds", plan.seeds, plan.numbered)
    _check_seeds("key_seeds", plan.key_seeds, plan.key_windows)


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Raises ValueError unless the value is an integer from low to high."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"the plan's {name} is {quote(value)}: expected an integer from {low:,} to {high:,}"
        )


def check_number(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a frame rate."""
    low, high = _FPS
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(f"the plan's {name} is {quote(value)}: expected {low} to {high:,}")


def check_factor(value: Any) -> None:
    """Raises ValueError unless the value is a factor of interpolation."""
    if type(value) is not int or value not in FACTORS:
        raise ValueError(f"the plan's factor is {quote(value)}: expected 2, 4 or 8")


def _check_hierarchy(plan: Plan) -> None:
    rest = (plan.frames - plan.closing) % plan.stride
    if rest or plan.frames - plan.closing < plan.stride:
        less = max(1, (plan.frames - plan.closing) // plan.stride) * plan.stride + plan.closing
        raise ValueError(
            f"the plan has {plan.frames:,} frames, which key frames every {plan.stride} do not "
            f"make: use {less:,} or {less + plan.stride:,}"
        )
    if plan.stride > 1 and plan.stride + 1 > plan.window:
        raise ValueError(
            f"key frames every {plan.stride} leave gaps of {plan.stride + 1} frames with their "
            f"ends, the window holds {plan.window}: use a stride of {plan.window - 1} or less, or "
            f"a window of {plan.stride + 1} or more"
        )
    if plan.key_frames > plan.window:  # otherwise there is no next window to carry to
        _check_carry(plan)


def _check_rollout(plan: Plan) -> None:
    check_integer("stride in a roll-out", plan.stride, 1, 1)
    _check_carry(plan)
    _check_no_key_frames(plan)


def _check_interpolation(plan: Plan) -> None:
    check_factor(plan.stride)
    if plan.frames % plan.stride:
        less = max(1, plan.frames // plan.stride) * plan.stride
        raise ValueError(
            f"the plan has {plan.frames:,} frames, not a multiple of its factor {plan.stride}: "
            f"use {less:,} or {less + plan.stride:,}"
        )
    if plan.window < 4:
        raise ValueError(f"the plan's window is {plan.window}: interpolation needs 4 or more")
    if plan.carry > plan.window // 2 - 1:
        raise ValueError(
            f"neighbours overlap by {plan.carry} known frames, but a window of {plan.window} holds "
            f"{plan.window // 2}: use an overlap of {plan.window // 2 - 1} or less, or a window of "
            f"{2 * plan.carry + 2} or more"
        )
    _check_no_key_frames(plan)


_CHECKS = {
    "hierarchy": _check_hierarchy,
    "rollout": _check_rollout,
    "interpolate": _check_interpolation,
}


def _check_carry(plan: Plan) -> None:
    if plan.carry >= plan.window:
        raise ValueError(
            f"the plan carries {plan.carry} frames, which leaves a window of {plan.window} none "
            f"to make: carry {plan.window - 1} or less, or use a window of {plan.carry + 1} or more"
        )


def _check_no_key_frames(plan: Plan) -> None:
    for name in ("closing", "key_prompt"):
        if value := getattr(plan, name):
            raise ValueError(f"the plan's {name} is {quote(value)}, but it has no key frames")


def _check_given(plan: Plan) -> None:
    if not isinstance(plan.given, tuple):
        raise ValueError(f"the plan's given is {quote(plan.given)}: expected positions")
    before = -1
    span = plan.span
    for position in plan.given:
        if type(position) is not int or not before < position < span:
            _refuse_given(position, before, span)
        before = position
    if plan.mode == "interpolate":
        clip = range(0, plan.frames, plan.stride)
        if missing := set(clip) - set(plan.given):
            raise ValueError(
                f"the plan does not give position {min(missing)}: interpolation by {plan.stride} "
                f"needs all {len(clip):,} frames of the clip"
            )


def _refuse_given(position: Any, before: int, span: int) -> None:
    check_integer("given position", position, 0, span - 1)
    how = "is there twice" if position == before else f"comes after {before}"
    raise ValueError(
        f"the plan's given position {position} {how}: name each once, in ascending order"
    )


def _check_texts(plan: Plan) -> None:
    if not isinstance(plan.prompts, tuple) or len(plan.prompts) > MAX_LINES:
        raise ValueError(
            f"the plan's prompts are {quote(plan.prompts)}: expected up to {MAX_LINES:,} "
            "[first, last, text]"
        )
    before = -1
    for entry in plan.prompts:
        if not isinstance(entry, tuple) or len(entry) != 3:
            raise ValueError(f"the plan's prompt {quote(entry)} is not [first, last, text]")
        first, last, _ = entry
        _check_number_of("prompts", first, plan.numbered, before)
        _check_number_of("prompts", last, plan.numbered, first - 1)
        before = last
    texts = [plan.prompt, plan.key_prompt, *(text for _, _, text in plan.prompts)]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"the plan's prompt {quote(text)} is no text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"the plan's prompt {quote(text)} holds half a character")
    if (total := sum(map(len, texts))) > MAX_TEXT:
        raise ValueError(f"the plan's prompts have {total:,} characters: at most {MAX_TEXT:,}")


def _check_seeds(name: str, seeds: Any, count: int) -> None:
    if not isinstance(seeds, tuple) or len(seeds) > MAX_LINES:
        raise ValueError(
            f"the plan's {name} are {quote(seeds)}: expected up to {MAX_LINES:,} [segment, seed]"
        )
    before = -1
    for entry in seeds:
        if not isinstance(entry, tuple) or len(entry) != 2:
            raise ValueError(f"the plan's {name} hold {quote(entry)}: expected [segment, seed]")
        _check_number_of(name, entry[0], count, before)
        check_integer(f"{name} of segment {entry[0]}", entry[1], 0, MAX_SEED)
        before = entry[0]


def _check_number_of(name: str, number: Any, count: int, before: int) -> None:
    if type(number) is not int or number < 0 or number >= count:
        last = f"the last one is {count - 1:,}" if count else "there is none"
        raise ValueError(f"the plan's {name} name segment {quote(number)}: {last}")
    if number <= before:
        raise ValueError(
            f"the plan's {name} name segment {number} again or too late: name each once, in "
            "ascending order"
        )
