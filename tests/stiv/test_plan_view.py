"""Plans as JSON: the same numbers as the plan's own, and digests that tell segments apart."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from stiv.plan import Plan, hierarchy, interpolation, rollout
from stiv.plan_view import MAX_ROWS, PROMPT_SHOWN, plan_of_values, plan_view
from stiv.prompts import parse_seeds
from stiv.timeline import seams

SIZE = {"fps": 8.0, "width": 64, "height": 48}
PLANS = {
    "hierarchy": hierarchy(5, 15, prompts="a\n2: b\nkey: c", **SIZE),
    "closing": hierarchy(9, 3, closing=True, window=4, carry=1, given=(0, 4, 5), **SIZE),
    "all key frames": hierarchy(30, 1, window=8, carry=2, **SIZE),
    "rollout": rollout(40, window=16, carry=4, prompts="a\n1: b", given=range(4), **SIZE),
    "one window": rollout(5, **SIZE),
    "nothing to make": rollout(3, given=range(3), **SIZE),
    "twice": interpolation(20, 2, window=8, overlap=1, **SIZE),
    "eight times": interpolation(9, 8, window=8, overlap=2, seed=2**64 - 1, **SIZE),
}


@pytest.fixture(params=PLANS.values(), ids=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return request.param


def test_a_view_is_json_that_says_what_the_plan_says(plan: Plan) -> None:
    view = json.loads(json.dumps(plan_view(plan), allow_nan=False))
    assert view["frames"] == plan.frames
    assert view["total"] == len(view["segments"]) == len(plan.segments)
    assert view["given"] == len(plan.given)
    for row, segment in zip(view["segments"], plan.segments, strict=True):
        positions = segment.positions()
        assert row["name"] == segment.name
        assert (row["first"], row["last"]) == (
            positions[segment.keeps[0]],
            positions[segment.keeps[-1]],
        )
        assert view["prompts"][row["prompt"]] == segment.prompt
        assert int(row["seed"]) == segment.seed
        assert row["needs"] == list(plan.needs(segment))


def test_places_are_what_the_text_of_seeds_takes(plan: Plan) -> None:
    for row in plan_view(plan)["segments"]:
        if not row["place"]:
            assert plan.mode == "interpolate" and row["step"] > 1
            continue
        again = rows_with_seed(plan, row["place"])
        assert [other["name"] for other in again if other["seed"] == "4711"] == [row["name"]]


def test_another_seed_changes_the_segment_and_what_follows_from_it(plan: Plan) -> None:
    rows = plan_view(plan)["segments"]
    for index, row in enumerate(rows):
        if row["place"]:
            again = rows_with_seed(plan, row["place"])
            pairs = enumerate(zip(rows, again, strict=True))
            changed = {at for at, (old, new) in pairs if old["content"] != new["content"]}
            assert changed == follow_from(index, rows)


def rows_with_seed(plan: Plan, place: str) -> list[dict[str, Any]]:
    words = parse_seeds(f"{place}: 4711", plan.numbered, plan.key_windows)
    return plan_view(replace(plan, **vars(words)))["segments"]


def follow_from(index: int, rows: list[dict[str, Any]]) -> set[int]:
    found = {index}
    for later in range(index + 1, len(rows)):
        if found & set(rows[later]["needs"]):
            found.add(later)
    return found


@pytest.mark.parametrize(
    "change", [{"prompt": "z"}, {"width": 96}, {"height": 64}, {"seed": 5}], ids=str
)
def test_whatever_decides_a_segment_is_in_its_content(change: dict[str, Any]) -> None:
    plan = rollout(30, **SIZE)
    before = [row["content"] for row in plan_view(plan)["segments"]]
    after = [row["content"] for row in plan_view(replace(plan, **change))["segments"]]
    assert not set(before) & set(after)


def test_a_longer_video_begins_with_the_same_segments() -> None:
    short, long = (plan_view(rollout(frames, **SIZE))["segments"] for frames in (64, 128))
    same = [a["content"] == b["content"] for a, b in zip(short, long, strict=False)]
    assert all(same[:-1]) and len(same) > 3


def test_seams_stand_between_the_segments_that_meet_there(plan: Plan) -> None:
    view = plan_view(plan)
    rows = view["segments"]
    assert [seam["position"] for seam in view["seams"]] == seams(plan)[: len(view["seams"])]
    for seam in view["seams"]:
        sides = {plan.owner(seam["position"] - 1), plan.owner(seam["position"])}
        assert seam["reroll"] in sides
        assert seam["after"] in (seam["reroll"], seam["reroll"] - 1)
        fewest = min(len(follow_from(side, rows)) for side in sides - {None})
        assert len(follow_from(seam["reroll"], rows)) == fewest


def test_a_plan_is_made_again_from_what_its_view_tells_of_pictures(plan: Plan) -> None:
    values = {"prompts": "x", "seed": 3, "window": plan.window}
    if plan.mode == "interpolate":
        values |= {"factor": plan.stride, "overlap": plan.carry}
    else:
        values |= {"carry": plan.carry, **SIZE}
    if plan.mode == "hierarchy":
        values |= {
            "key_frames": plan.key_frames,
            "stride": plan.stride,
            "closing": plan.closing,
        }
    if plan.mode == "rollout":
        values |= {"frames": plan.frames}
    again = plan_of_values(plan.mode, values | json.loads(json.dumps(plan_view(plan)["wired"])))
    words = {"prompt": "x", "prompts": (), "key_prompt": "", "seeds": (), "key_seeds": ()}
    assert again == replace(plan, seed=3, **words)


def test_a_very_long_plan_is_told_up_to_a_limit() -> None:
    plan = rollout(60_000, window=16, carry=4, prompts="p" * 5000, **SIZE)
    view = plan_view(plan)
    assert view["total"] == len(plan.segments) > len(view["segments"]) == MAX_ROWS
    assert all(seam["reroll"] < MAX_ROWS for seam in view["seams"])
    assert len(view["prompts"][0]) == PROMPT_SHOWN + 1
    scattered = random.Random(1).sample(range(60_000), 5000)
    assert plan_view(replace(plan, given=tuple(sorted(scattered))))["wired"] == {"given": None}


@pytest.mark.parametrize(
    ("mode", "values", "message"),
    [
        ("other", {}, "mode is 'other'"),
        ("rollout", [], "expected a table"),
        ("rollout", {}, "cannot be made of"),
        ("rollout", {"frames": 10, "nonsense": 1, **SIZE}, "nonsense"),
        ("rollout", {"frames": "10", **SIZE}, "frames is '10'"),
        ("rollout", {"frames": 10, "given": [[0]], **SIZE}, "given is"),
        ("rollout", {"frames": 10, "given": [[0, 10**6]], **SIZE}, "given is"),
        ("rollout", {"frames": 10, "given": [[0, 10**6 - 1]] * 1000, **SIZE}, "positions twice"),
        ("rollout", {"frames": 10, "given": [[5, 50]], **SIZE}, "given"),
        ("rollout", {"frames": 10, "given": 7, **SIZE}, "given is 7"),
        ("hierarchy", {"key_frames": 3, "stride": None, **SIZE}, "stride"),
        ("interpolate", {"frames_in": 10, "factor": "2", **SIZE}, "factor"),
    ],
)
def test_values_that_make_no_plan(mode: str, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        plan_of_values(mode, values)
    assert "\n" not in str(raised.value)
