"""DSG-Video: the two numbers by cases computed by hand, and what they are counted from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from training.engine.dsg import (
    Counts,
    Mentioned,
    count,
    counts_of,
    merge_objects,
    share_interval,
    split_sentences,
    summary,
)


def thing(seen: int | None, *sentences: int) -> dict:
    return {"name": "x", "question": "Is there x?", "sentences": list(sentences), "seen": seen}


@pytest.mark.parametrize(
    ("objects", "sentences", "i", "s"),
    [
        ([thing(0, 1), thing(3, 2)], 2, 0.0, 0.0),
        ([thing(None, 1), thing(None, 2)], 2, 1.0, 1.0),
        ([thing(None, 1), thing(0, 1), thing(7, 2), thing(0, 3)], 4, 1 / 4, 1 / 4),
        ([thing(None, 1, 3), thing(0, 1, 2)], 3, 1 / 2, 2 / 3),  # one object in two sentences
        ([thing(None, 2), thing(None, 2), thing(0, 1)], 2, 2 / 3, 1 / 2),  # two in one sentence
        ([], 3, None, 0.0),
        ([], 0, None, None),
    ],
)
def test_the_two_numbers(objects, sentences, i, s) -> None:
    counts = count(objects, sentences)
    assert counts.i == (None if i is None else pytest.approx(i))
    assert counts.s == (None if s is None else pytest.approx(s))


def test_a_set_is_the_sum_of_its_captions() -> None:
    rows = [
        {"id": "1", "dsg_dense": {"objects": [thing(None, 1)], "sentences": 1}},
        {"id": "2", "dsg_dense": {"objects": [thing(0, 1)] * 9, "sentences": 3}},
        {"id": "3", "dsg_dense": {"error": "no answer"}},
        {"id": "4"},
    ]
    counts = list(counts_of(rows))
    assert counts == [Counts(1, 1, 1, 1), Counts(0, 9, 0, 3)]
    total = sum(counts, Counts())
    assert (total.i, total.s) == (0.1, 0.25)  # not the means 1/2 and 1/2 of the captions
    assert "i 10.00 %" in summary(rows) and "2 captions" in summary(rows)
    assert "(95 %" not in summary(rows[:1])
    assert "no caption" in summary(rows[2:])
    with pytest.raises(ValueError, match="row 5: dsg_dense"):
        summary([{"id": "5", "dsg_dense": {"objects": [{}], "sentences": 1}}])


def test_the_interval_is_that_of_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(0)
    wholes = rng.integers(1, 12, 200)
    parts = rng.binomial(wholes, 0.15)
    low, high = share_interval(parts, wholes)
    direct = bootstrap(
        (parts, wholes),
        lambda part, whole, axis: part.sum(axis) / whole.sum(axis),
        paired=True,
        n_resamples=2000,
        rng=rng,
    ).confidence_interval
    assert low == pytest.approx(direct.low, abs=0.004)
    assert high == pytest.approx(direct.high, abs=0.004)
    assert high - low > 0.03
    assert share_interval(np.zeros(3), np.array([1, 2, 3])) == (0, 0)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A dog runs. It barks!  Does it stop?", ["A dog runs.", "It barks!", "Does it stop?"]),
        ("No end", ["No end"]),
        ('He says "Go." Then he goes.', ['He says "Go."', "Then he goes."]),
        (
            "Dr. Who walks 3.5 m. A car, e.g. a taxi, waits.",
            ["Dr. Who walks 3.5 m.", "A car, e.g. a taxi, waits."],
        ),
        ("It rains... and stops. Sun.", ["It rains... and stops.", "Sun."]),
        ("一只狗。它跑了！好", ["一只狗。", "它跑了！", "好"]),
        (" \n ", []),
    ],
)
def test_sentences(text, sentences) -> None:
    assert split_sentences(text) == sentences


def test_an_object_that_is_listed_twice_is_one() -> None:
    def mentioned(name: str, *sentences: int) -> Mentioned:
        return Mentioned(name=name, question=f"Is there a {name}?", sentences=list(sentences))

    merged = merge_objects([mentioned("dog", 3, 1), mentioned("cat", 2), mentioned(" Dog", 2, 3)])
    assert [(m["name"], m["sentences"]) for m in merged] == [("dog", [1, 2, 3]), ("cat", [2])]
