"""A plan says what it will do, with the numbers that it then does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from stiv.plan import Plan, hierarchy, interpolation, rollout
from tests.stiv.plans import plans

SIZE = {"fps": 24.0, "width": 512, "height": 512}


def test_the_closing_key_frame_is_told() -> None:
    closed = hierarchy(20, 20, closing=True, window=21, **SIZE)
    assert closed.describe(steps=30, passes_per_step=2).splitlines() == [
        "381 frames: 20 key frames every 20, the closing one included",
        "15.88 s at 24 fps, 512 x 512 pixels",
        "no frame is given",
        "key frames: 1 segment of 20 frames",
        "gaps: 19 segments of 21 frames",
        "20 segments x 30 steps x 2 passes = 1,200 forward passes",
    ]
    shorter = hierarchy(20, 20, window=21, **SIZE).describe(30, 2).splitlines()
    assert shorter[0] == (
        "380 frames: 20 key frames every 20; the closing one guides the end and is not shown"
    )


def test_a_size_that_is_cut_is_told() -> None:
    lines = rollout(16, fps=8.0, width=854, height=480).describe().splitlines()
    assert lines[1] == "2.00 s at 8 fps, 854 x 480 pixels, made at 864 x 480 and cut"


def test_what_is_given_is_left_out() -> None:
    text = hierarchy(4, 4, window=5, given=[0, 4, 5, 6, 7, 8, 12], **SIZE).describe(1, 1)
    assert text.splitlines()[2:] == [
        "7 frames given",
        "key frames: all given",
        "gaps: 2 segments of 5 frames, 1 left out: all given",
        "2 segments x 1 step x 1 pass = 2 forward passes",
    ]
    text = rollout(3, given=range(3), **SIZE).describe(1, 1)
    assert text.endswith("nothing is left to make: every frame is given")


def test_rollouts_and_interpolations() -> None:
    assert rollout(33, **SIZE).describe(1, 1).splitlines()[::3] == [
        "33 frames: windows of 16, each going on from the last 4 of the one before",
        "windows: 3 segments of 9 to 16 frames",
    ]
    lines = interpolation(10, 4, **SIZE).describe(1, 1).splitlines()
    assert lines[0] == (
        "40 frames: 4 times those of a clip of 10, in the same time; after the clip's last frame "
        "the model goes on for 3 frames"
    )
    assert lines[1] == "0.42 s at 96 fps, 512 x 512 pixels"
    assert lines[3:5] == ["times 2: 2 segments of 12 frames", "times 4: 3 segments of 16 frames"]


@settings(deadline=None)
@given(plans())
def test_any_plan_has_words_for_itself(plan: Plan) -> None:
    lines = plan.describe(30, 3).splitlines()
    frames = "frame" if plan.frames == 1 else "frames"
    assert lines[0].startswith(f"{plan.frames} {frames}: ")
    if plan.segments:
        assert lines[-1].endswith(f"= {len(plan.segments) * 90:,} forward passes")


@pytest.mark.parametrize(("steps", "passes"), [(0, 1), (1, 0), (True, 1), (1, 1.5)])
def test_steps_and_passes_are_numbers(steps, passes) -> None:
    with pytest.raises(ValueError, match="expected an integer"):
        rollout(3, **SIZE).describe(steps, passes)
