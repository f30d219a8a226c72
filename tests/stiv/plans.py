"""Plans for tests: small ones of every kind."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st

from stiv.plan import Plan, hierarchy, interpolation, rollout

LOOK: dict[str, Any] = {"fps": 24.0, "width": 64, "height": 32}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def hierarchies(draw) -> Plan:
    """A hierarchy with some frames given."""
    window = draw(st.integers(2, 10))
    key_frames, stride = draw(st.integers(2, 30)), draw(st.integers(1, window - 1))
    closing = draw(st.booleans())
    carry = draw(st.integers(1, window - 1))
    return hierarchy(
        key_frames, stride, closing=closing, window=window, carry=carry,
        given=_given(draw, (key_frames - 1) * stride + 1), seed=_seed(draw), **LOOK,
    )  # fmt: skip


@st.composite
def rollouts(draw) -> Plan:
    """A roll-out with some frames given."""
    window, frames = draw(st.integers(2, 10)), draw(st.integers(1, 80))
    carry = draw(st.integers(1, window - 1))
    given = _given(draw, frames)
    return rollout(frames, window=window, carry=carry, given=given, seed=_seed(draw), **LOOK)


@st.composite
def interpolations(draw) -> Plan:
    """An interpolation of a short clip."""
    window, factor = draw(st.integers(4, 12)), draw(st.sampled_from([2, 4, 8]))
    overlap = draw(st.integers(1, window // 2 - 1))
    clip = draw(st.integers(1, 30))
    return interpolation(clip, factor, window=window, overlap=overlap, seed=_seed(draw), **LOOK)


def plans() -> st.SearchStrategy[Plan]:
    """Any small plan without prompts or seeds of single segments."""
    return hierarchies() | rollouts() | interpolations()


def _given(draw, span: int) -> set[int]:
    """No frames, a few, or all but a few."""
    some = draw(st.sets(st.integers(0, span - 1), max_size=12))
    return set(range(span)) - some if draw(st.booleans()) else some


def _seed(draw) -> int:
    return draw(st.sampled_from([0, 5, 2**64 - 1]))
