"""What the tables of comparisons say, on results made by hand, and the figures behind them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from tests.training.evaluation.conftest import noisy
from training.evaluation.ablate.comparison import Comparison, Expectation
from training.evaluation.ablate.figures import clip_figures, first_frames, tracks
from training.evaluation.ablate.table import cell, difference, markdown, summary, verdict
from training.evaluation.frechet import frechet_distance
from training.shapes.captions import held_out_prompts
from training.shapes.render import render_clips


def results(*arms: list[float]) -> list[dict]:
    return [{seed: {"s.x": np.array(value)} for seed, value in enumerate(arm)} for arm in arms]


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ more than arms do; only pairs show it."""
    one, other = results([1.0, 5.0, 9.0], [0.8, 4.7, 8.8])
    apart = difference(one, other, "s.x")
    expected = ttest_rel([1.0, 5.0, 9.0], [0.8, 4.7, 8.8]).confidence_interval(0.95)
    assert apart.interval == pytest.approx((expected.low, expected.high))
    assert cell(one, "s.x").interval[0] < 0 < apart.interval[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "way", "holds"),
    [
        ([1.0, 1.1, 1.2], [0.5, 0.62, 0.7], "above", True),
        ([1.0, 1.1, 1.2], [0.5, 0.62, 0.7], "below", False),
        ([1.0, 1.1, 1.2], [1.2, 1.0, 1.1], "above", None),
        ([0.5, 0.6], [1.5, 1.61], "below", True),
        ([1.0], [0.1], "above", None),  # one seed decides nothing
    ],
)
def test_verdicts_need_an_interval_without_zero(ours, theirs, way, holds) -> None:
    one, other = results(ours, theirs)
    expectation = Expectation(figure="s.x", of="a", **{way: "b"})
    assert verdict(expectation, {"a": one, "b": other})[0] is holds


def test_seeds_that_came_to_nothing_are_left_out() -> None:
    one, other = results([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    other[1] = {}
    assert len(cell(other, "s.x").values) == 2
    assert difference(one, other, "s.x").values == (0.0, 2.0)
    assert str(cell({0: {}}, "s.x")) == "–"


def test_a_summary_names_arms_values_and_what_came_out() -> None:
    """Values are of the seeds that are compared."""
    comparison = Comparison.model_validate(
        {
            "title": "Small",
            "paper": "nothing",
            "base": __file__,
            "arms": {"a": {}, "b": {}, "c": {}},
            "columns": ["s.x"],
            "scores": {"s": {"given": "t2v"}},
            "expect": [
                {"figure": "s.x", "of": "a", "above": "b"},
                {"figure": "s.x", "of": "b", "below": "c"},
                {"figure": "s.x", "of": "c", "below": "a"},
            ],
        }
    )
    one, other, third = results([1.0, 1.1, 1.2], [0.5, 0.62, 0.7], [0.1])
    assert summary(comparison, {"a": one, "b": other, "c": third}) == [
        "| Small | s: x | a: 1.1 | b: 0.607 | 3 | **as in the paper** |",
        "| Small | s: x | b: 0.5 | c: 0.1 | 1 | one seed, not with the paper |",
        "| Small | s: x | c: 0.1 | a: 1 | 1 | one seed, with the paper |",
    ]


def test_one_seed_has_the_interval_over_its_clips() -> None:
    values = np.random.default_rng(0).normal(3, 1, 200)
    values[0] = np.nan
    found = cell({0: {"s.x": values}}, "s.x")
    assert found.mean == pytest.approx(np.nanmean(values))
    assert np.ptp(found.interval) == pytest.approx(2 * 1.96 / 200**0.5, rel=0.2)


def test_table_has_a_row_for_every_arm_and_says_what_holds() -> None:
    comparison = Comparison(
        title="T", paper="P", checkpoint="nano", arms={"a": {}, "b": {}},
        scores={"s": {}}, columns=["s.x"],
        expect=[{"figure": "s.x", "of": "a", "above": "b"}],
    )  # fmt: skip
    one, other = results([1.0, 1.1, 1.2], [0.5, 0.62, 0.7])
    text = markdown(comparison, {"a": one, "b": other}, {"a": "none", "b": "none"})
    assert "| a | 1.1 [0.852, 1.35] | none |" in text
    assert "- s.x of a above b: **as in the paper**, difference 0.493 [0.465, 0.522]" in text
    assert "seeds are of sampling" in text


# --- figures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, list]:
    scenes = [scene for _, scene in held_out_prompts(40)]
    return render_clips(scenes, 16, 32), scenes


def test_true_clips_are_right_in_everything(truth) -> None:
    clips, scenes = truth
    found = clip_figures(clips[:8], clips[:8], scenes[:8])
    for name in ("colour", "background", "shape", "motion", "all"):
        assert found[name].tolist() == [1.0] * 8
    assert found["psnr"].min() > 70 and found["motion_error"].max() == 0
    assert found["distance"] == pytest.approx(0, abs=1e-9)
    assert all(value.shape in ((8,), ()) for value in found.values())


def test_distance_grows_with_what_is_wrong(truth) -> None:
    clips, _ = truth
    still = np.repeat(clips[:, :1], 16, axis=1)
    tinted = clips // 2
    grey = np.full_like(clips, 128)
    base = tracks(clips)
    assert base.shape == (40, 18)
    order = [frechet_distance(tracks(x), base) for x in (noisy(clips), still, tinted, grey)]
    assert order[0] < 0.2 < order[1] and order[2] > 0.5 and order[3] > order[2]
    shuffled = frechet_distance(tracks(clips[::-1]), base)
    assert shuffled == pytest.approx(0, abs=1e-9)  # of the set, not of pairs


def test_moving_clips_are_dynamic_and_still_ones_are_not(truth) -> None:
    clips, scenes = truth
    still = np.repeat(clips[:6, :1], 16, axis=1)
    found = [clip_figures(x, clips[:6], scenes[:6]) for x in (clips[:6], still)]
    assert found[0]["dynamic"].mean() > 0.8 and found[1]["dynamic"].max() == 0
    assert found[0]["speed"].min() > 10 * found[1]["speed"].max()


def test_first_frames_are_compared_with_what_was_given(truth) -> None:
    clips, _ = truth
    clips = clips[:6]
    kept = first_frames(clips, clips)
    assert kept["first_frame"].min() > 70 and kept["kept"].tolist() == [1.0] * 6
    other = first_frames(clips[::-1], clips)
    assert other["first_frame"].max() < 40 and other["kept"].mean() < 1
