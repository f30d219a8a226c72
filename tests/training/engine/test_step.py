"""What a step is: its settings and their limits, when its work is done, what its values may be."""

from __future__ import annotations

import pytest

from training.engine.job import run_steps
from training.engine.options import parse_settings
from training.engine.run import run
from training.engine.step import Step, make_step
from training.engine.work import Work


def test_unknown_steps_and_settings_are_named() -> None:
    with pytest.raises(ValueError, match="no step is called 'moton'"):
        make_step("moton")
    with pytest.raises(ValueError, match=r"motion has no setting 'speed'.*rate"):
        make_step("motion", {"speed": 3})


def test_a_newer_version_in_the_rows_is_left_alone() -> None:
    step = make_step("picture")
    made_by = step.stamp()
    assert step.is_done({"picture": {"made_by": made_by}})
    assert step.is_done({"picture": {"made_by": {"version": Step.version + 8}}})
    assert not step.is_done({"picture": {"made_by": {**made_by, "frames": 99}}})
    assert not step.is_done({"picture": {"made_by": made_by, "error": "x"}}, retry=True)


def test_settings_outside_their_limits_are_refused_before_any_work(work: Work) -> None:
    for name, key, value in [
        ("motion", "rate", 0.0),
        ("picture", "frames", 0),
        ("clarity", "side", -1),
        ("text", "confidence", float("nan")),
        ("fingerprint", "count", 0),
        ("segments", "margin", -1.0),
    ]:
        with pytest.raises(ValueError, match=rf"{name}\.{key} is .*: expected"):
            run(work, [make_step(name, {key: value})], workers=1)


def test_settings_from_the_command_line() -> None:
    names = ["motion", "text"]
    assert parse_settings(["motion.rate=12", "text.frames=5"], names) == {
        "motion": {"rate": 12.0},
        "text": {"frames": 5},
    }
    for bad, why in [
        ("rate=3", "expected STEP.KEY=VALUE"),
        ("clip.frames=3", "STEP one of motion, text"),
        ("motion.speed=3", "motion has rate"),
        ("motion.rate=fast", "expected a float such as 8.0"),
    ]:
        with pytest.raises(ValueError, match=why):
            parse_settings([bad], names)


def test_an_answer_that_is_no_number_costs_its_row_only() -> None:
    class Odd(Step):
        name = "odd"

        def run(self, row, reader):
            return {"score": row["score"]}

    for score in (float("nan"), float("inf"), 1.5):
        sections, _ = run_steps([(Odd(), {"version": 1})], {"score": score}, None)
        assert ("is no number" in sections["odd"].get("error", "")) == (score != 1.5)
