"""Rules, thresholds, the best of a set, and the list that the trainer reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.training.data.numbered import read as number_of
from tests.training.data.numbered import write_video
from training.data.clips import clips
from training.data.sources import DataSpec
from training.engine.export import export
from training.engine.filter import NOT_CHOSEN, Filter, Rule, load_filter, run_filter
from training.engine.rows import SCHEMA
from training.engine.select import Top, chosen, key
from training.engine.step import STEPS, step_class
from training.engine.work import Work

NUMBERS = st.one_of(st.none(), st.floats(-5, 5), st.just("x"), st.just(float("nan")), st.booleans())


def row(id: str, file: str = "a.mp4", start: float = 0.0, end: float = 1.0, **sections) -> dict:
    source = {"path": file, "base": [1, 1000], "captions": ["of the file"], "orientation": "square"}
    segment = {"start": round(1000 * start), "end": round(1000 * end), "start_s": start}
    segment |= {"end_s": end, "seconds": end - start, "frames": round(30 * (end - start))}
    return {"schema": SCHEMA, "id": id, "source": source, "segment": segment, **sections}


def work_of(folder: Path, rows: list[dict], media: Path | None = None) -> Work:
    work = Work.create(folder / "work", media or folder)
    for number in range(0, len(rows), 3):  # several shards
        work.shard("segments", number // 3).write(rows[number : number + 3])
    return work


@given(NUMBERS, st.floats(-5, 5), st.floats(0, 5), st.sampled_from(["keep", "drop"]))
def test_a_number_is_kept_between_min_and_max(found, least: float, reach: float, missing) -> None:
    rule = Rule(value="motion.score", min=least, max=least + reach, missing=missing)
    broken = rule.broken(row("a", motion={"score": found}))
    is_number = isinstance(found, float) and found == found
    if is_number:
        assert (broken is None) == (least <= found <= least + reach)
    else:
        assert (broken is None) == (missing == "keep")
    assert broken is None or broken in rule.reasons()


@given(NUMBERS, st.floats(-5, 5), st.floats(0.1, 5))
def test_a_stricter_threshold_keeps_no_more(found, least: float, more: float) -> None:
    one = row("a", motion={"score": found})
    loose, strict = (Rule(value="motion.score", min=m) for m in (least, least + more))
    assert strict.broken(one) or not loose.broken(one)


def test_values_that_are_no_numbers() -> None:
    square = Rule.model_validate({"value": "source.orientation", "in": ["square", "portrait"]})
    assert square.broken(row("a")) is None
    wide = Rule.model_validate({"value": "source.orientation", "in": ["landscape"]})
    assert wide.broken(row("a")) == "source.orientation not in landscape" == wide.reasons()[0]
    copy = Rule(value="source.duplicate_of", empty=True)
    one = row("a")
    assert copy.broken(one) is None
    one["source"]["duplicate_of"] = "b.mp4"
    assert copy.broken(one) == "source.duplicate_of is there"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rules: []", "rules"),
        ("rules: [{value: motion.score}]", "expected min, max, in or empty"),
        ("rules: [{value: motion.score, min: 3, max: 2}]", "nothing is between"),
        ("rules: [{value: motoin.score, min: 3}]", "'motoin.score': expected source, segment"),
        ("rules: [{value: motion, min: 3}]", "as motion.score"),
        ("rules: [{value: motion.score, least: 3}]", "least"),
        ("rules: [{value: motion.score, min: much}]", "min"),
        ("rules: {", "not a readable YAML"),
    ],
)
def test_bad_rules_are_named_with_their_file(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        load_filter(path)
    assert str(path) in str(error.value) and why in str(error.value)


def test_an_unknown_preset_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="pretrain, sft20k"):
        load_filter("pretraining")


def test_presets_ask_for_values_that_steps_make() -> None:
    for name in ("pretrain", "sft20k"):
        _, rules = load_filter(name)
        for rule in rules.rules:
            section = rule.value.split(".")[0]
            assert section in ("source", "segment") or step_class(section).name == section
        assert len(set(rules.reasons())) == len(rules.reasons())
    assert rules.top.count == 20_000 and {path.split(".")[0] for path in rules.top.by} <= set(STEPS)


def test_filtering_says_why_and_deletes_nothing(tmp_path: Path) -> None:
    rows = [row(f"r{i}", motion={"score": i}, clarity={"score": 10 - i}) for i in range(10)]
    work = work_of(tmp_path, rows)
    rules = Filter(rules=[Rule(value="motion.score", min=3), Rule(value="clarity.score", min=2)])
    done = run_filter(work, "mine", rules)
    after = list(work.rows())
    assert [one["id"] for one in after] == [one["id"] for one in rows]
    assert [{k: v for k, v in one.items() if k != "filter"} for one in after] == rows
    assert [one["filter"]["keep"] for one in after] == [3 <= i <= 8 for i in range(10)]
    assert after[0]["filter"]["reasons"] == ["motion.score below 3"]
    assert after[9]["filter"]["reasons"] == ["clarity.score below 2"]
    assert done.kept == 6 and done.reasons == {
        "motion.score below 3": 3,
        "clarity.score below 2": 1,
    }
    again = run_filter(work, "mine", Filter(rules=[Rule(value="motion.score", min=0)]))
    assert again.kept == 10 and all(one["filter"]["keep"] for one in work.rows())
    assert next(rules.thresholds()) == ("motion.score below 3", "motion.score", "below", 3)


def test_a_value_that_no_row_has_is_told(tmp_path: Path) -> None:
    work = work_of(tmp_path, [row("a"), row("b")])
    done = run_filter(work, "mine", Filter(rules=[Rule(value="clip.aesthetic", min=5)]))
    assert done.kept == 0 and "no row has clip.aesthetic" in done.summary()


# --- the best ------------------------------------------------------------------------------------


def test_the_best_by_ranks_few_of_each_file_and_balanced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(f"r{i:02}", f"{i % 7}.mp4", categorize={"category": "abc"[i % 3]},
            clip={"aesthetic": float(rng.normal())}, clarity={"score": float(rng.normal())})
        for i in range(42)
    ]  # fmt: skip
    work = work_of(tmp_path, rows)
    by_one = chosen(work, Top(count=5, by={"clip.aesthetic": 1}), lambda one: True)
    best = sorted(rows, key=lambda one: -one["clip"]["aesthetic"])
    assert by_one == {key(one["id"]) for one in best[:5]}
    worst = chosen(work, Top(count=5, by={"clip.aesthetic": -1}), lambda one: True)
    assert worst == {key(one["id"]) for one in best[-5:]}
    few = chosen(work, Top(count=9, by={"clip.aesthetic": 1}, per_file=1), lambda one: True)
    assert len(few) == 7  # files
    even = chosen(
        work,
        Top(count=12, by={"clip.aesthetic": 1, "clarity.score": 1}, balance="categorize.category"),
        lambda one: one["id"] != "r00",
    )
    kinds = [one["categorize"]["category"] for one in rows if key(one["id"]) in even]
    assert sorted(kinds.count(kind) for kind in "abc") == [4, 4, 4] and key("r00") not in even


def test_a_value_that_is_missing_does_not_count(tmp_path: Path) -> None:
    rows = [row("a", clarity={"score": 1}), row("b", clarity={"score": 2}), row("c")]
    by = {"clip.aesthetic": 2, "clarity.score": 1}
    assert chosen(work_of(tmp_path, rows), Top(count=1, by=by), lambda one: True) == {key("b")}


def test_rows_that_are_not_the_best_are_told_so(tmp_path: Path) -> None:
    work = work_of(tmp_path, [row(f"r{i}", motion={"score": i}) for i in range(4)])
    rules = Filter(
        rules=[Rule(value="motion.score", min=1)], top=Top(count=1, by={"motion.score": 1})
    )
    assert run_filter(work, "best", rules).kept == 1
    reasons = [one["filter"]["reasons"] for one in work.rows()]
    assert reasons == [["motion.score below 1"], [NOT_CHOSEN], [NOT_CHOSEN], []]


# --- the trainer ---------------------------------------------------------------------------------


def test_the_trainer_decodes_exactly_the_kept_segments(tmp_path: Path) -> None:
    media = tmp_path / "media"
    (media / "sub").mkdir(parents=True)
    write_video(media / "sub" / "a.mp4", 60, 30)
    spans = [(0, 20), (20, 40), (40, 60)]
    rows = [
        row(f"r{a}", "sub/a.mp4", round(a / 30, 6), round(b / 30, 6), motion={"score": a},
            captions_dense={"text": f"frames {a} to {b}"})
        for a, b in spans
    ]  # fmt: skip
    work = work_of(tmp_path, rows, media)
    run_filter(work, "mine", Filter(rules=[Rule(value="motion.score", min=10)]))
    out = tmp_path / "set" / "metadata.jsonl"
    assert export(work, out).kept == 2
    spec = DataSpec(path=out, media=media, sizes=[[48, 64]], frames=[20], stride=1)
    made = list(clips(spec, workers=1))
    assert [[number_of(frame) for frame in clip.frames] for clip in made] == [
        list(range(20, 40)),
        list(range(40, 60)),
    ]
    assert made[0].captions == ("frames 20 to 40", "of the file")
    export(work, out, ["source"])
    assert json.loads(out.read_text().splitlines()[0])["captions"] == ["of the file"]


def test_there_has_to_be_something_to_export(tmp_path: Path) -> None:
    work = work_of(tmp_path, [row("a", motion={"score": 1})])
    with pytest.raises(ValueError, match="run `data filter` first"):
        export(work, tmp_path / "m.jsonl")
    run_filter(work, "mine", Filter(rules=[Rule(value="motion.score", min=2)]))
    with pytest.raises(ValueError, match="no segment was kept"):
        export(work, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_presets_are_yaml_that_people_can_copy() -> None:
    from training.engine.filter import PRESETS

    for path in PRESETS.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["about"]


def test_rows_of_a_kind_that_is_balanced_come_in_the_order_of_its_best(tmp_path: Path) -> None:
    found = [("a", 9), ("a", 8), ("b", 7), ("c", 6), ("b", 5), ("a", 4)]
    rows = [
        row(f"r{score}", categorize={"category": kind}, motion={"score": score})
        for kind, score in found
    ]
    for count, expected in enumerate([[9], [9, 7], [9, 7, 6], [9, 7, 6, 8], [9, 7, 6, 8, 5]], 1):
        top = Top(count=count, by={"motion.score": 1}, balance="categorize.category")
        (tmp_path / str(count)).mkdir()
        work = work_of(tmp_path / str(count), rows)
        assert chosen(work, top, lambda one: True) == {key(f"r{score}") for score in expected}
