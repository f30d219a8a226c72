"""Bad plans are refused in one line: from people, from code, from a stranger's JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from stiv.plan import Plan, hierarchy, interpolation, rollout
from tests.stiv.plans import LOOK

RELAXED = settings(deadline=None)
PLAN = hierarchy(5, 4, window=8, **LOOK)
ROLLOUT = rollout(40, **LOOK)
FINER = interpolation(10, 2, **LOOK)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: hierarchy(1, 4, **LOOK), "number of key frames is 1: .* from 2"),
        (lambda: hierarchy(5, 0, **LOOK), "stride is 0: .* from 1"),
        (
            lambda: hierarchy(20, 20, window=16, **LOOK),
            "every 20 leave gaps of 21 .* holds 16: use a stride of 15 or less, or a window of 21",
        ),
        (lambda: hierarchy(20, 4, window=8, carry=8, **LOOK), "carry 7 or less, .* window of 9"),
        (lambda: hierarchy(5, 4, closing="no", **LOOK), "closing is 'no'"),
        (lambda: hierarchy(5, 4, prompts="4: x", **LOOK), r"'4: x'.* segment 4: the last one is 3"),
        (lambda: hierarchy(5, 1, prompts="0: x", **LOOK), "but there is no segment"),
        (lambda: hierarchy(5, 4, seeds="key1: 3", **LOOK), "the last one is 0"),
        (lambda: hierarchy(5, 4, given=[17], **LOOK), "given position is 17: .* to 16"),
        (lambda: hierarchy(5, 4, given=[3, 3], **LOOK), "given position 3 is there twice"),
        (lambda: hierarchy(5, 4, given=["3"], **LOOK), "given position is '3'"),
        (lambda: hierarchy(10**6, 10**6, **LOOK), "frames is 999999000000: .* to 1,000,000"),
        (lambda: rollout(0, **LOOK), "frames is 0"),
        (lambda: rollout(10**6 + 1, **LOOK), "frames is 1000001"),
        (lambda: rollout(40, window=16, carry=0, **LOOK), "carry is 0"),
        (lambda: rollout(40, window=16, carry=16, **LOOK), "carries 16 frames"),
        (lambda: rollout(40, prompts="key: x", **LOOK), "which this video has none of"),
        (lambda: rollout(40, fps=24, width=65, height=64), "width is 65, .* use 64 or 66"),
        (lambda: rollout(40, fps=float("nan"), width=64, height=64), "fps is nan"),
        (lambda: rollout(40, fps=True, width=64, height=64), "fps is True"),
        (lambda: interpolation(10, 3, **LOOK), "factor is 3: expected 2, 4 or 8"),
        (lambda: interpolation(0, 2, **LOOK), "number of frames of the clip is 0"),
        (lambda: interpolation("1", 2, **LOOK), "number of frames of the clip is '1'"),
        (lambda: interpolation(10, 2, fps="24", width=64, height=64), "fps of the clip is '24'"),
        (lambda: interpolation(10, 2, window=3, **LOOK), "interpolation needs 4 or more"),
        (lambda: interpolation(9, 2, window=8, overlap=4, **LOOK), "3 or less, .* window of 10"),
    ],
)
def test_what_does_not_fit_is_told_with_a_remedy(build, words) -> None:
    with pytest.raises(ValueError, match=words) as error:
        build()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("plan", "changes", "words"),
    [
        (PLAN, {"mode": "spiral"}, "mode is 'spiral'"),
        (PLAN, {"mode": ["hierarchy"]}, "mode is"),
        (PLAN, {"frames": 18}, "18 frames, which key frames every 4 do not make: use 16 or 20"),
        (PLAN, {"frames": 16, "closing": True}, "use 13 or 17"),
        (PLAN, {"frames": 1}, "use 4 or 8"),
        (PLAN, {"given": (4, 2)}, "given position 2 comes after 4"),
        (PLAN, {"given": [2]}, r"given is \[2\]"),
        (PLAN, {"given": (True,)}, "given position is True"),
        (PLAN, {"prompts": ((0, 4, "x"),)}, "prompts name segment 4: the last one is 3"),
        (PLAN, {"prompts": ((1, 2, "x"), (2, 3, "y"))}, "name segment 2 again"),
        (PLAN, {"prompts": ((2, 1, "x"),)}, "name segment 1 again or too late"),
        (PLAN, {"prompts": ((0, 0),)}, "is not"),
        (PLAN, {"prompts": ((0, 0, 5),)}, "prompt 5 is no text"),
        (PLAN, {"prompts": ((0, False, "x"),)}, "name segment False"),
        (PLAN, {"prompt": "\ud800"}, "half a character"),
        (PLAN, {"prompt": "x" * 600_000, "key_prompt": "x" * 600_000}, "1,200,000 characters"),
        (PLAN, {"seeds": ((1, 2**64),)}, "seeds of segment 1 is 18446744073709551616"),
        (PLAN, {"seeds": ((1, 5), (1, 6))}, "name segment 1 again"),
        (PLAN, {"seeds": (1, 5)}, "hold 1: expected"),
        (PLAN, {"seed": -1}, "seed is -1"),
        (PLAN, {"key_seeds": ((1, 5),)}, "key_seeds name segment 1: the last one is 0"),
        (ROLLOUT, {"stride": 2}, "stride in a roll-out is 2"),
        (ROLLOUT, {"closing": True}, "closing is True, but it has no key frames"),
        (ROLLOUT, {"key_prompt": "x"}, "key_prompt is 'x', but it has no key frames"),
        (ROLLOUT, {"key_seeds": ((0, 5),)}, "there is none"),
        (FINER, {"given": (0, 2)}, "does not give position 4: .* needs all 10 frames"),
        (FINER, {"frames": 21}, "not a multiple of its factor 2: use 20 or 22"),
        (FINER, {"stride": 16}, "factor is 16"),
    ],
)
def test_fields_that_do_not_fit_are_named(plan: Plan, changes: dict[str, Any], words) -> None:
    with pytest.raises(ValueError, match=words) as error:
        replace(plan, **changes)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300


def _edited(**changes: Any) -> str:
    return json.dumps(json.loads(PLAN.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "the plan is None"),
        ("", "no valid JSON"),
        ("x" * 17_000_000, "expected up to 16,777,216 characters"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 40 + "]" * 40, "nested more than 16 levels"),
        ("[]", r"the plan is \[\]"),
        ("{}", "version is None: expected 1"),
        (_edited(version=2), "version is 2: .* update the pack"),
        (_edited(version=True), "version is True"),
        (_edited(**{f"k{i:05}": i for i in range(10_000)}), "unknown key 'k00000' and 9,999 more"),
        (_edited(frames=10**400), "frames is 1000"),
        (PLAN.to_json().replace('"frames": 16', f'"frames": {"9" * 5000}'), "no valid JSON"),
        (PLAN.to_json().replace("24.0", "NaN"), "NaN is not a number"),
        (PLAN.to_json().replace("24.0", "1e999"), "a number is too large"),
        (PLAN.to_json().replace("24.0", "true"), "fps is True"),
        (_edited(frames=16.0), "frames is 16.0"),
        (_edited(given=[[0]]), r"given position is \(0,\)"),
        (_edited(given={"0": 1}), "given is"),
        (_edited(prompt=["x"]), "is no text"),
        (_edited(prompt="\ud800"), "no valid JSON"),
        (_edited(seeds=None), "seeds are None"),
        (PLAN.to_json()[:-1] + ', "frames": 16}', "'frames' is there twice"),
        (PLAN.to_json().replace('"seed": 0, ', ""), "the plan has no 'seed'"),
    ],
)
def test_hostile_json_is_refused(text, words) -> None:
    with pytest.raises(ValueError, match=words) as error:
        Plan.from_json(text)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@RELAXED
@given(st.sampled_from(list(json.loads(PLAN.to_json()))), VALUES)
def test_any_value_is_a_plan_or_a_line(key: str, value: Any) -> None:
    try:
        plan = Plan.from_json(_edited(**{key: value}))
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert Plan.from_json(plan.to_json()) == plan


@RELAXED
@given(st.text())
def test_any_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as error:
        Plan.from_json(text)
    assert len(str(error.value).splitlines()) == 1
