"""Where windows lie, against definitions that try everything."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import assume, given, settings

from stiv.windows import (
    Window,
    gap_count,
    hierarchy_windows,
    interpolation_windows,
    rollout_windows,
    spread,
    window_count,
)

RELAXED = settings(deadline=None)


def _positions(window: Window) -> list[int]:
    return [window.start + index * window.step for index in range(window.count)]


@st.composite
def _lengths(draw) -> tuple[int, int, int]:
    """(total, longest window, overlap)."""
    longest = draw(st.integers(2, 20))
    return draw(st.integers(1, 200)), longest, draw(st.integers(1, longest - 1))


@RELAXED
@given(_lengths())
def test_spread_takes_the_fewest_windows_of_nearly_equal_length(lengths) -> None:
    total, longest, overlap = lengths
    runs = list(spread(total, longest, overlap))
    counts = [count for _, count in runs]
    fewest = next(n for n in range(1, 1000) if n * longest - (n - 1) * overlap >= total)
    assert len(runs) == fewest == window_count(total, longest, overlap)
    assert runs[0][0] == 0 and sum(runs[-1]) == total
    assert all(start + count - overlap == after for (start, count), (after, _) in pairwise(runs))
    assert max(counts) <= longest and max(counts) - min(counts) <= 1
    assert len(runs) == 1 or min(counts) > overlap


@RELAXED
@given(_lengths())
def test_a_rollout_goes_on_from_the_frames_before(lengths) -> None:
    frames, window, carry = lengths
    windows = list(rollout_windows(frames, window, carry))
    made: list[int] = []
    for number, part in enumerate(windows):
        positions = _positions(part)
        assert part.name == f"seg{number}" and part.count <= window
        assert part.count == window or part is windows[-1]
        assert positions[: part.carried] == made[len(made) - part.carried :]
        assert part.carried == (carry if number else 0)
        made += [positions[index] for index in part.keeps]
        assert part.keeps  # something is left to make
    assert made == list(range(frames))
    assert len(windows) == window_count(frames, window, carry)


@RELAXED
@given(_lengths(), st.integers(1, 12))
def test_a_hierarchy_is_key_frames_and_the_gaps_between(lengths, stride) -> None:
    key_frames, window, carry = lengths
    assume(key_frames >= 2)
    windows = list(hierarchy_windows(key_frames, stride, window, carry))
    keys = [part for part in windows if part.name.startswith("key")]
    gaps = windows[len(keys) :]
    kept = [_positions(part)[index] for part in keys for index in part.keeps]
    assert kept == [number * stride for number in range(key_frames)]
    assert all(part.step == stride and part.count <= window for part in keys)
    if key_frames <= window:
        assert [part.name for part in keys] == ["key0"]
    assert len(gaps) == gap_count(key_frames, stride) == (key_frames - 1) * (stride > 1)
    for number, gap in enumerate(gaps):
        ends = number * stride, (number + 1) * stride
        assert gap.name == f"seg{number}" and gap.carried == 0
        assert _positions(gap) == list(range(ends[0], ends[1] + 1))
        assert [_positions(gap)[index] for index in gap.keeps] == list(range(ends[0] + 1, ends[1]))


@RELAXED
@given(st.integers(1, 120), st.sampled_from([2, 4, 8]), st.integers(4, 24), st.data())
def test_interpolation_keeps_each_frame_where_it_is_most_central(clip, factor, window, data):
    overlap = data.draw(st.integers(1, window // 2 - 1))
    frames = clip * factor
    known = set(range(0, frames, factor))
    times = 2
    windows = list(interpolation_windows(frames, factor, window, overlap))
    while times <= factor:
        level = [part for part in windows if part.name.startswith(f"x{times}_")]
        assert [part.name for part in level] == [f"x{times}_{n}" for n in range(len(level))]
        step = factor // times
        for part in level:
            positions = _positions(part)
            assert part.step == step and part.count <= window and part.count % 2 == 0
            assert set(positions[::2]) <= known and not set(positions[1::2]) & known
        for before, after in pairwise(level):
            assert len(set(_positions(before)) & set(_positions(after)) & known) == overlap
        assert max(p.count for p in level) - min(p.count for p in level) <= 2
        to_make = set(range(0, frames, step)) - known
        for position in to_make:
            assert _keepers(level, position) == _most_central(level, position)
        known |= to_make
        times *= 2
    assert known == set(range(frames))


def _keepers(level: list[Window], position: int) -> list[str]:
    return [
        part.name
        for part in level
        if any(part.start + index * part.step == position for index in part.keeps)
    ]


def _most_central(level: list[Window], position: int) -> list[str]:
    """Names of the windows in which a frame lies farthest from the nearer end."""
    margins = {}
    for part in level:
        positions = _positions(part)
        if position in positions:
            index = positions.index(position)
            margins[part.name] = min(index, part.count - 1 - index)
    return [name for name, margin in margins.items() if margin == max(margins.values())]
