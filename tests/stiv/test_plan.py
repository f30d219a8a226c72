"""A plan's segments: what they are given, what they keep, and what an edit changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from stiv.plan import MAX_SEGMENTS, Plan, Segment, hierarchy, interpolation, rollout
from tests.stiv.plans import LOOK, TEXTS, hierarchies, interpolations, plans, rollouts

RELAXED = settings(deadline=None)
SIZE = {"fps": 24.0, "width": 512, "height": 512}


def _named(plan: Plan) -> dict[str, Segment]:
    return {segment.name: segment for segment in plan.segments}


def _kept(segment: Segment) -> list[int]:
    return [segment.positions()[index] for index in segment.keeps]


def test_the_papers_long_video() -> None:
    plan = hierarchy(20, 20, window=21, **SIZE)
    assert (plan.frames, plan.span, plan.key_frames) == (380, 381, 20)
    assert [segment.name for segment in plan.segments] == [
        "key0",
        *(f"seg{number}" for number in range(19)),
    ]
    key, first, last = plan.segments[0], plan.segments[1], plan.segments[-1]
    assert key.positions() == tuple(range(0, 381, 20))
    assert (key.given, key.keeps, key.step) == ((), tuple(range(20)), 20)
    assert first.positions() == tuple(range(21)) and last.positions()[-1] == 380
    assert (first.given, first.keeps) == ((0, 20), tuple(range(1, 20)))
    assert plan.needs(key) == () and plan.needs(last) == (0,)
    assert [plan.owner(position) for position in (0, 1, 379, 380)] == [0, 1, 19, 0]
    closed = hierarchy(20, 20, closing=True, window=21, **SIZE)
    assert (closed.frames, closed.span, closed.segments) == (381, 381, plan.segments)


def test_key_frames_beyond_a_window_are_carried() -> None:
    plan = hierarchy(10, 2, window=6, carry=2, **SIZE)
    keys = [segment for segment in plan.segments if segment.level == 0]
    assert [segment.positions() for segment in keys] == [
        (0, 2, 4, 6, 8, 10),
        (8, 10, 12, 14, 16, 18),
    ]
    assert keys[1].given == (0, 1) and plan.needs(keys[1]) == (0,)
    assert plan.needs(_named(plan)["seg5"]) == (0, 1)  # its ends come from both windows


def test_frames_the_artist_gives_are_given_in_every_segment() -> None:
    plan = hierarchy(4, 4, window=5, given=[4, 6, 9, 10, 11, 12], **SIZE)
    segments = _named(plan)
    assert list(segments) == ["key0", "seg0", "seg1"]  # of seg2 nothing is left to make
    assert segments["key0"].given == (1, 3) and _kept(segments["key0"]) == [0, 8]
    assert segments["seg1"].given == (0, 2, 4) and _kept(segments["seg1"]) == [5, 7]
    assert plan.owner(6) is None and plan.needs(segments["seg1"]) == (0,)
    made = hierarchy(3, 2, window=3, given=range(5), **SIZE)
    assert made.segments == () and made.owner(4) is None


def test_a_rollout_predicts_from_four_frames() -> None:
    plan = rollout(34, window=16, carry=4, given=range(4), **SIZE)
    assert [(s.start, s.count, s.given) for s in plan.segments] == [
        (0, 16, (0, 1, 2, 3)),
        (12, 16, (0, 1, 2, 3)),
        (24, 10, (0, 1, 2, 3)),
    ]
    assert [plan.needs(segment) for segment in plan.segments] == [(), (0,), (1,)]
    assert [segment.name for segment in rollout(3, **SIZE).segments] == ["seg0"]


def test_an_interpolation_keeps_the_clips_duration() -> None:
    plan = interpolation(10, 4, window=8, overlap=2, fps=25, width=64, height=64)
    assert (plan.frames, plan.fps, plan.given) == (40, 100.0, tuple(range(0, 40, 4)))
    assert plan.seconds == 10 / 25
    first = _named(plan)["x2_0"]
    assert first.positions() == tuple(range(0, 16, 2)) and first.given == (0, 2, 4, 6)
    assert _kept(first) == [2, 6, 10]  # 14 lies at its end and is left to the next window
    assert {s.level: s.step for s in plan.segments} == {0: 2, 1: 1}
    alone = interpolation(1, 2, **SIZE)
    assert [(s.count, s.given, s.keeps) for s in alone.segments] == [(2, (0,), (1,))]


@RELAXED
@given(plans())
def test_every_position_is_given_or_kept_by_one_segment(plan: Plan) -> None:
    kept = Counter(position for segment in plan.segments for position in _kept(segment))
    assert not set(kept) & set(plan.given)
    assert set(kept) | set(plan.given) == set(range(plan.span)) and set(kept.values()) <= {1}
    for position in range(plan.span):
        owner = plan.owner(position)
        if owner is None:
            assert position in plan.given
        else:
            assert position in _kept(plan.segments[owner])
    for position in (-1, plan.span):
        with pytest.raises(ValueError, match="position"):
            plan.owner(position)


@RELAXED
@given(plans())
def test_what_a_segment_is_given_is_there_before(plan: Plan) -> None:
    owners: dict[int, int] = {}
    for index, segment in enumerate(plan.segments):
        positions = segment.positions()
        assert segment.count == len(positions) <= plan.window
        assert positions[0] >= 0 and positions[-1] < plan.span
        assert segment.keeps and not set(segment.given) & set(segment.keeps)
        for seen in (segment.given, segment.keeps):
            assert list(seen) == sorted(set(seen)) and set(seen) <= set(range(segment.count))
        given = {positions[at] for at in segment.given}
        assert set(positions) & set(plan.given) <= given
        assert given <= set(plan.given) | set(owners)
        needs = {owners[position] for position in given - set(plan.given)}
        assert plan.needs(segment) == tuple(sorted(needs)) and all(n < index for n in needs)
        owners |= dict.fromkeys(_kept(segment), index)
    names = [segment.name for segment in plan.segments]
    assert len(set(names)) == len(names)
    assert len({segment.seed for segment in plan.segments}) == len(names)
    assert all(0 <= segment.seed < 2**64 for segment in plan.segments)


@RELAXED
@given(hierarchies() | interpolations())
def test_gaps_and_windows_of_an_interpolation_do_not_need_their_level(plan: Plan) -> None:
    for segment in plan.segments:
        if plan.mode == "interpolate" or segment.level:
            assert all(plan.segments[i].level < segment.level for i in plan.needs(segment))


@RELAXED
@given(hierarchies() | rollouts())
def test_nothing_is_made_beside_what_is_kept_without_overlap(plan: Plan) -> None:
    for segment in plan.segments:
        assert len(segment.given) + len(segment.keeps) == segment.count


@RELAXED
@given(interpolations())
def test_an_interpolation_is_given_every_second_frame(plan: Plan) -> None:
    for segment in plan.segments:
        assert segment.given == tuple(range(0, segment.count, 2)) and segment.count % 2 == 0


@RELAXED
@given(plans().filter(lambda plan: plan.numbered > 0), st.data())
def test_an_edit_changes_one_segment(plan: Plan, data) -> None:
    number = data.draw(st.integers(0, plan.numbered - 1))
    edits = [
        replace(plan, prompts=((number, number, "another"),)),
        replace(plan, seeds=((number, 12345),)),
    ]
    name = f"x{plan.stride}_{number}" if plan.mode == "interpolate" else f"seg{number}"
    changed = [name] if name in _named(plan) else []  # left out: every frame of it is given
    for edited in edits:
        assert _differences(plan, edited) == changed


@RELAXED
@given(hierarchies(), st.data())
def test_key_frames_have_a_prompt_and_seeds_of_their_own(plan: Plan, data) -> None:
    keys = [segment.name for segment in plan.segments if segment.level == 0]
    assert _differences(plan, replace(plan, key_prompt="wide")) == keys
    number = data.draw(st.integers(0, plan.key_windows - 1))
    edited = replace(plan, key_seeds=((number, 12345),))
    assert _differences(plan, edited) == [name for name in keys if name == f"key{number}"]


def _differences(plan: Plan, other: Plan) -> list[str]:
    pairs = zip(plan.segments, other.segments, strict=True)
    return [one.name for one, two in pairs if one != two]


@RELAXED
@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 2**64 - 1))
def test_seeds_do_not_depend_on_the_number_of_segments(few: int, many: int, seed: int) -> None:
    plans = [hierarchy(keys, 3, window=8, seed=seed, **LOOK) for keys in (few, many)]
    seeds = [{segment.name: segment.seed for segment in plan.segments} for plan in plans]
    for name in set(seeds[0]) & set(seeds[1]):
        assert seeds[0][name] == seeds[1][name]
    assert seeds[0]["key0"] == seed and seeds[0]["seg0"] == (seed + 1_000_000) % 2**64
    # A generator on the CPU sees a seed's lower 32 bits only: they must differ too.
    assert len({value % 2**32 for value in seeds[0].values()}) == len(seeds[0])


def test_words_reach_their_segments() -> None:
    plan = hierarchy(
        6, 4, window=5, carry=2, prompts="sea\nkey: wide\n1-2: dog\n4: gull", seed=7,
        seeds="key1: 70\n3: 80", **SIZE,
    )  # fmt: skip
    segments = _named(plan)
    assert {name: segment.prompt for name, segment in segments.items()} == {
        "key0": "wide", "key1": "wide",
        "seg0": "sea", "seg1": "dog", "seg2": "dog", "seg3": "sea", "seg4": "gull",
    }  # fmt: skip
    assert (segments["key0"].seed, segments["key1"].seed, segments["seg3"].seed) == (7, 70, 80)
    assert hierarchy(3, 2, prompts="sea", **SIZE).segments[0].prompt == "sea"
    finer = _named(interpolation(8, 4, prompts="sea\n1: dog", seeds="1: 5", **SIZE))
    assert (finer["x2_0"].prompt, finer["x4_1"].prompt) == ("sea", "dog")
    assert (finer["x4_1"].seed, finer["x4_2"].seed) == (5, 1_000_002)


def test_the_longest_plans() -> None:
    longest = rollout(10**6, window=64, carry=14, **SIZE)
    assert len(longest.segments) == MAX_SEGMENTS
    assert longest.segments[-1].positions()[-1] == 10**6 - 1
    with pytest.raises(ValueError, match=r"1,000,000 frames takes more than 20,000 segments"):
        rollout(10**6, window=64, carry=15, **SIZE)
    with pytest.raises(ValueError, match=r"takes more than 5,000,000 window frames"):
        rollout(10**6, window=4096, carry=4095, given=range(10**6), **SIZE)
    with pytest.raises(ValueError, match="more than 20,000 segments"):
        hierarchy(10**6, 1, window=4, carry=3, **SIZE)


@RELAXED
@given(plans(), TEXTS, TEXTS, st.data())
def test_json_round_trip(plan: Plan, prompt: str, key_prompt: str, data) -> None:
    plan = replace(
        plan, prompt=prompt, fps=data.draw(st.floats(0.001, 1000) | st.integers(1, 1000))
    )
    if plan.key_windows:
        plan = replace(plan, key_prompt=key_prompt, key_seeds=((0, 2**64 - 1),))
    if plan.numbered:
        last = plan.numbered - 1
        plan = replace(plan, prompts=((0, last, data.draw(TEXTS)),), seeds=((last, 9),))
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == plan and again.to_json() == text and again.segments == plan.segments


def test_the_largest_texts_round_trip() -> None:
    for character in (",", "\0", "é"):
        plan = interpolation(500_000, 2, window=128, prompts=f"x{character * 999_000}x", **SIZE)
        assert Plan.from_json(plan.to_json()) == plan
