"""The way back from the timeline to the segments, against going through all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from stiv import timeline
from stiv.plan import Plan, hierarchy, interpolation, rollout
from stiv.timeline import (
    Source,
    Stretch,
    blocks,
    given_sources,
    groups,
    owners,
    seams,
    source,
    stretches,
)
from tests.stiv.plans import plans

RELAXED = settings(deadline=None)

SIZE = {"fps": 8, "width": 64, "height": 64}


def _kept(plan: Plan) -> dict[int, Source]:
    found = {position: Source(None, position) for position in plan.given}
    for number, segment in enumerate(plan.segments):
        for index in segment.keeps:
            found[segment.positions()[index]] = Source(number, index)
    return found


@RELAXED
@given(plans())
def test_every_position_has_the_source_that_keeps_it(plan: Plan) -> None:
    assert _kept(plan) == {position: source(plan, position) for position in range(plan.span)}


@RELAXED
@given(plans())
def test_a_segment_is_given_what_the_timeline_has(plan: Plan) -> None:
    kept = _kept(plan)
    for segment in plan.segments:
        positions = segment.positions()
        expected = [(index, kept[positions[index]]) for index in segment.given]
        assert given_sources(plan, segment) == expected
        assert owners(plan, (positions[index] for index in segment.given)) == sorted(
            {found.segment for _, found in expected} - {None}
        )


@RELAXED
@given(plans())
def test_stretches_cover_the_video_and_part_at_seams(plan: Plan) -> None:
    parts = stretches(plan, 5)
    assert 1 <= len(parts) <= 5
    assert parts[0].start == 0 and parts[-1].stop == plan.frames
    assert all(before.stop == after.start for before, after in pairwise(parts))
    assert all(part.start < part.stop for part in parts)
    assert {part.start for part in parts[1:]} <= set(seams(plan))


@RELAXED
@given(plans(), st.integers(1, 16), st.data())
def test_groups_are_of_like_segments_that_do_not_need_each_other(
    plan: Plan, most: int, data: st.DataObject
) -> None:
    total = len(plan.segments)
    start = data.draw(st.integers(0, total))
    some = range(start, data.draw(st.integers(start, total)))
    found = groups(plan, some, most)
    assert [index for group in found for index in group] == list(some)
    for group in found:
        segments = [plan.segments[index] for index in group]
        assert 1 <= len(group) <= most
        assert len({(s.prompt, s.step, s.count, s.given) for s in segments}) == 1
        assert not {need for s in segments for need in plan.needs(s)} & set(group)


@pytest.mark.parametrize(
    ("plan", "sizes"),
    [
        (hierarchy(8, 3, window=4, carry=1, **SIZE), [1, 1, 1, 4, 3]),
        (hierarchy(8, 3, window=8, prompts="a\n2: b", **SIZE), [1, 2, 1, 4]),
        (hierarchy(8, 3, window=8, given=[10], **SIZE), [1, 3, 1, 3]),
        (rollout(20, window=4, carry=1, **SIZE), [1] * 7),
        (interpolation(16, 4, window=8, overlap=1, **SIZE), [4, 1, 4, 4, 1, 2]),
    ],
)
def test_groups_are_as_large_as_they_can_be(plan: Plan, sizes: list[int]) -> None:
    assert [len(group) for group in groups(plan, range(len(plan.segments)), 4)] == sizes


@RELAXED
@given(plans())
def test_between_seams_one_segment_makes_the_finest_frames(plan: Plan) -> None:
    cuts = seams(plan)
    assert cuts == sorted(set(cuts)) and all(0 < cut < plan.frames for cut in cuts)
    for start, stop in pairwise([0, *cuts, plan.frames]):
        makers = {plan.owner(position) for position in range(start, stop)} - {None}
        names = {plan.segments[maker].name for maker in makers if plan.segments[maker].step == 1}
        gaps = {name for name in names if plan.mode != "hierarchy" or name.startswith("seg")}
        assert len(gaps) <= 1


def test_the_papers_video_is_written_gap_by_gap() -> None:
    plan = hierarchy(20, 20, window=21, **SIZE)
    assert seams(plan) == list(range(20, 380, 20))
    assert stretches(plan)[:2] == [Stretch(0, 20), Stretch(20, 40)]
    assert source(plan, 40) == Source(0, 2)
    assert source(plan, 41) == Source(3, 1)


@pytest.mark.parametrize(
    "build",
    [lambda: hierarchy(12_001, 2, **SIZE), lambda: interpolation(10_000, 8, **SIZE)],
    ids=["hierarchy", "interpolate"],
)
def test_a_piece_of_a_very_long_video_needs_few_segments(build: Callable[[], Plan]) -> None:
    plan = build()
    parts = stretches(plan)
    assert len(parts) > 120  # 100 would each take more than a node of the host has inputs for
    assert max(len(owners(plan, range(part.start, part.stop))) for part in parts) <= 90


def test_key_frames_alone_part_where_their_windows_do() -> None:
    assert seams(hierarchy(10, 1, window=16, **SIZE)) == []
    assert seams(hierarchy(20, 1, window=12, carry=4, **SIZE)) == [12]


def test_a_rollout_parts_where_a_window_begins_to_make_frames() -> None:
    assert seams(rollout(40, window=16, carry=4, **SIZE)) == [16, 28]


def test_an_interpolation_parts_inside_the_overlap() -> None:
    plan = interpolation(20, 2, window=16, overlap=2, **SIZE)
    (first, second, *_) = plan.segments
    assert seams(plan)[0] == second.positions()[2] == first.positions()[-2]


@RELAXED
@given(plans(), st.integers(1, 5))
def test_blocks_do_everything_once_and_in_time(plan: Plan, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:  # as a long plan would be divided
        patch.setattr(timeline, "MIN_BLOCK", size)
        patch.setattr(timeline, "MAX_BLOCK", size)
        parts = blocks(plan)
    assert [i for block in parts for i in block.segments] == list(range(len(plan.segments)))
    written = stretches(plan)
    assert [i for block in parts for i in block.stretches] == list(range(len(written)))
    for block in parts:
        for index in block.stretches:
            positions = range(written[index].start, written[index].stop)
            assert all(owner < block.segments.stop for owner in owners(plan, positions))
            if plan.mode == "hierarchy":
                keys = {i for i, s in enumerate(plan.segments) if s.level == 0}
                assert all(key < block.segments.stop for key in keys)


def test_blocks_are_as_many_as_their_segments() -> None:
    parts = blocks(hierarchy(401, 15, window=16, **SIZE))
    assert 18 <= len(parts) <= 23
