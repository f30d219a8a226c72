"""The figures against what is counted by hand, and against a plain sort of all rows."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from tests.training.engine.stats.sets import CUTS, RULES, filtered, row, small_set
from training.engine.rows import Row, value
from training.engine.stats.collect import Collector
from training.engine.stats.files import count_files
from training.engine.stats.measures import MEASURES, Cut


def figures_of(rows: list[Row], **options: Any) -> dict[str, Any]:
    options = {"cuts": CUTS, "rules": RULES, **options}
    collector = Collector(**options)
    collector.add_all(rows)
    return collector.figures()[0]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return figures_of(small_set())


def test_totals(figures) -> None:
    assert figures["totals"] == {
        "rows": 8,
        "kept": 4,
        "dropped": 4,
        "seconds": 34.0,
        "kept_seconds": 22.0,
    }


def test_funnel(figures) -> None:
    assert figures["filter"] == {
        "rows": 8,
        "kept": 4,
        "rules": [
            {"rule": "motion", "first": 3, "any": 3, "only": 2, "left": 5},
            {"rule": "clarity", "first": 1, "any": 2, "only": 1, "left": 4},
        ],
    }


def test_what_each_threshold_cuts_off(figures) -> None:
    motion, clarity = (figures["measures"][f"{name}.score"] for name in RULES)
    assert motion["cuts"] == [
        {"rule": "motion", "side": "below", "at": 2.0, "rows": 2},
        {"rule": "motion", "side": "above", "at": 50.0, "rows": 1},
    ]
    assert [cut["rows"] for cut in clarity["cuts"]] == [2]
    assert figures["measures"]["picture.brightness"]["cuts"] == []


def test_distribution(figures) -> None:
    motion = figures["measures"]["motion.score"]
    assert (motion["count"], motion["missing"], motion["min"], motion["max"]) == (8, 0, 1.0, 64.0)
    assert motion["mean"] == pytest.approx((1 + 1.9 + 2 + 4 + 8 + 16 + 32 + 64) / 8, rel=1e-5)
    assert motion["quantiles"]["0.5"] == 4.0 and motion["quantiles"]["0.25"] == pytest.approx(
        1.9, rel=1e-3
    )
    bars = motion["histogram"]
    assert sum(bars["kept"]) == 4 and sum(bars["dropped"]) == 4
    for low, high, kept, dropped in zip(
        bars["edges"], bars["edges"][1:], bars["kept"], bars["dropped"], strict=False
    ):
        inside = [v for v in (1, 1.9, 2, 4, 8, 16, 32, 64) if low <= v < high]
        stays = [v for v in inside if v in (2, 8, 16, 32)]
        assert (kept, dropped) == (len(stays), len(inside) - len(stays))


def test_two_scores_together(figures) -> None:
    joint = figures["joint"]
    assert (joint["x"], joint["y"]) == ("motion.score", "clarity.score")
    counts = {key: joint[key] for key in ("both", "only_x", "only_y", "neither")}
    assert counts == {"both": 1, "only_x": 2, "only_y": 1, "neither": 4}
    assert sorted(joint["points"])[0] == [1.0, 50.0, False] and len(joint["points"]) == 8


def test_tallies_and_stamps(figures) -> None:
    assert figures["tallies"]["category"] == [
        {"value": "people", "kept": 2, "dropped": 3},
        {"value": "nature", "kept": 2, "dropped": 1},
    ]
    assert figures["tallies"]["resolution"] == [{"value": "640 × 480", "kept": 4, "dropped": 4}]
    assert {"section": "motion", "text": '{"version": 1}', "rows": 8} in figures["made_by"]


def test_sheets_show_both_ends_and_both_sides_of_thresholds(figures) -> None:
    def shown(path: str) -> dict[tuple[str, str], list[float]]:
        clips = figures["clips"]
        return {
            (strip["title"], strip["about"]): [clips[id]["values"][path] for id in strip["clips"]]
            for strip in figures["sheets"][path]
        }

    assert shown("motion.score") == {
        ("Lowest", ""): [1.0, 1.9, 2.0, 4.0, 8.0, 16.0],
        ("Borderline", "just below 2, dropped"): [1.9, 1.0],
        ("Borderline", "2 or just above, kept"): [2.0, 4.0, 8.0],
        ("Borderline", "50 or just below, kept"): [32.0, 16.0, 8.0],
        ("Borderline", "just above 50, dropped"): [64.0],
        ("Highest", ""): [64.0, 32.0, 16.0, 8.0, 4.0, 2.0],
    }
    assert next(iter(shown("clarity.score"))) == ("Best", "highest values")
    between = shown("picture.brightness")["In between", "even steps from one end to the other"]
    assert between == [0.1, 0.3, 0.4, 0.5, 0.7, 0.8]
    text = next(clip["caption"] for clip in figures["clips"].values())
    assert text.startswith("caption ") and "source.fps" not in figures["sheets"]


def test_without_optional_scores_the_rest_is_there() -> None:
    found = figures_of([row(number) for number in range(3)], cuts=(), rules=())
    assert found["filter"] == {"rows": 0, "kept": 0, "rules": []}
    assert found["joint"] is None and found["totals"]["kept"] == 3
    aesthetic = found["measures"]["clip.aesthetic"]
    assert aesthetic["count"] == 0 and aesthetic["missing"] == 3
    assert aesthetic["step"].startswith("features --clip") and "histogram" not in aesthetic
    assert found["measures"]["segment.seconds"]["count"] == 3
    assert list(found["sheets"]) == ["segment.seconds"]


def test_an_empty_set_has_figures() -> None:
    found = figures_of([])
    assert found["totals"]["rows"] == 0 and found["clips"] == {} and found["sheets"] == {}
    assert [rule["left"] for rule in found["filter"]["rules"]] == [0, 0]
    assert list(found["measures"]) == [measure.path for measure in MEASURES]


def test_numbers_that_only_a_rule_knows_are_measured() -> None:
    rows = [filtered(row(n, sound={"loudness": -20.0 - n})) for n in range(4)]
    found = figures_of(rows, cuts=[Cut("quiet", "sound.loudness", "below", -22.0)], rules=["quiet"])
    assert found["measures"]["sound.loudness"]["cuts"][0]["rows"] == 1
    assert found["measures"]["sound.loudness"]["min"] == -23.0


@pytest.mark.parametrize(
    "odd", [float("nan"), float("inf"), 10**400, -1e300, True, "5", None, [1.0], {"a": 1}]
)
def test_what_is_no_number_is_not_measured(odd: Any) -> None:
    found = figures_of([*small_set(), row(9, motion={"score": odd})])
    assert found["measures"]["motion.score"]["missing"] == 1
    assert found["measures"]["motion.score"]["max"] == 64.0
    json.dumps(found, allow_nan=False)


def test_damaged_rows_do_no_harm() -> None:
    bad = row(9)
    bad["segment"] = {"start_s": "a"}
    bad["source"] = {"path": "x"}
    bad["filter"] = {"keep": False, "reasons": [["a"], None, "motion"] * 100}
    found = figures_of(
        [bad, {**bad, "id": "b", "filter": {"keep": "yes"}, "motion": {"error": "e"}}]
    )
    assert found["totals"]["seconds"] == 0.0 and found["filter"]["rows"] == 1
    assert [rule["any"] for rule in found["filter"]["rules"]] == [1, 0, 1, 1]
    assert found["failed"] == [{"section": "motion", "text": "e", "rows": 1}]


def many(count: int) -> list[Row]:
    draw = random.Random(1)
    return [
        filtered(
            row(
                number,
                file=f"film-{number % 40}.mp4",
                motion={"score": round(draw.lognormvariate(2, 1), 1)},
                clarity={"score": float(draw.randrange(0, 500, 50))},
            )
        )
        for number in range(count)
    ]


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = many(700)
    found = figures_of(rows)
    assert figures_of(random.Random(2).sample(rows, len(rows))) == found
    assert figures_of(rows, seed=1)["sheets"] != found["sheets"]  # of equals, others are drawn


def test_sheets_against_a_plain_sort() -> None:
    rows = many(700)
    found = figures_of(rows)
    scores = {r["id"]: value(r, "motion.score") for r in rows}
    files = {r["id"]: r["source"]["path"] for r in rows}
    strips = {strip["about"]: strip for strip in found["sheets"]["motion.score"]}
    lowest = found["sheets"]["motion.score"][0]["clips"]
    by_file = {
        file: min(s for i, s in scores.items() if files[i] == file) for file in files.values()
    }
    assert [scores[id] for id in lowest] == sorted(by_file.values())[:6]
    assert len({files[id] for id in lowest}) == 6
    below = [scores[id] for id in strips["just below 2, dropped"]["clips"]]
    assert all(s < 2 for s in below) and max(below) == max(s for s in scores.values() if s < 2)
    for path in ("motion.score", "clarity.score"):
        values = np.array([value(r, path) for r in rows])
        off = np.any([cut.inside(values) < 0 for cut in CUTS if cut.path == path], axis=0)
        assert sum(c["rows"] for c in found["measures"][path]["cuts"]) == off.sum()


def test_clips_of_one_file_fill_a_strip() -> None:
    rows = [filtered(row(n, file="film.mp4", motion={"score": float(n)})) for n in range(30)]
    lowest = figures_of(rows)["sheets"]["motion.score"][0]["clips"]
    assert lowest == [rows[n]["id"] for n in range(6)]


def test_words_that_rows_choose_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr("training.engine.stats.column._TOLD_APART", 30)
    rows = [
        row(n, categorize={"category": f"c{n}" * 1000}, text={"error": f"e{n}"}) for n in range(100)
    ]
    found = figures_of(rows, size=0)
    *named, others = found["tallies"]["category"]
    assert len(named) == 20 and others == {"value": None, "kept": 80, "dropped": 0}
    assert max(len(entry["value"]) for entry in named) <= 200
    assert sum(entry["rows"] for entry in found["failed"]) == 100 and len(found["failed"]) == 6
    assert found["sheets"] == {}


def test_files_before_there_are_segments() -> None:
    probe = {"base": [1, 10], "first": 0}
    rows = [
        {"id": "a", "source": {"path": "a"}, "probe": {"error": "broken"}},
        {"id": "b", "source": {"path": "b"}, "probe": probe, "duplicate": {"of": None}},
        {
            "id": "c",
            "source": {"path": "c"},
            "probe": probe,
            "duplicate": {"of": "b", "same_bytes_as": "b"},
            "segments": {"kept": [], "left_out": [], "why": "has the same bytes"},
        },
        {
            "id": "d",
            "source": {"path": "d"},
            "probe": probe,
            "duplicate": {"of": "b"},
            "segments": {"kept": [[0, 5, 5]], "left_out": [[5, 15, "fade"], [15, 20, "blank"]]},
        },
        {
            "id": "e",
            "source": {"path": "e"},
            "probe": probe,
            "segments": {"kept": [], "left_out": [[0, 10, "blank"]]},
        },
        {"id": "f", "source": {"path": "f"}, "probe": probe},
    ]
    assert count_files(rows) == {
        "files": 6,
        "unreadable": 1,
        "copies": 1,
        "not_cut": 2,
        "without_segments": 1,
        "duplicates": 2,
        "left_out": [
            {"reason": "blank", "stretches": 2, "seconds": 1.5},
            {"reason": "fade", "stretches": 1, "seconds": 1.0},
        ],
    }
