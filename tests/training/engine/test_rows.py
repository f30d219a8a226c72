"""Rows: what they may hold, merging, files with bad lines, logs of killed processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.engine import rows
from training.engine.rows import (
    Log,
    check_row,
    merge,
    merge_files,
    read,
    to_line,
    with_sections,
    write,
)

NAMES = st.sampled_from(["motion", "clarity", "text", "captions_dense"])
SECTIONS = st.fixed_dictionaries(
    {"made_by": st.fixed_dictionaries({"version": st.integers(1, 3)}), "score": st.floats(0, 9)},
    optional={"error": st.just("crashed")},
)
ROWS = st.dictionaries(NAMES, SECTIONS).map(lambda sections: {**row("a"), **sections})


def row(id: str, **sections) -> dict:
    return {"schema": 1, "id": id, "source": {"path": f"{id}.mp4"}, **sections}


def made(version: int, **values) -> dict:
    return {**values, "made_by": {"version": version}}


@given(ROWS)
def test_a_row_comes_back_from_its_line(one: dict) -> None:
    assert check_row(json.loads(to_line(one))) == one


@given(ROWS)
def test_equal_rows_are_equal_lines(one: dict) -> None:
    assert to_line(dict(reversed(one.items()))) == to_line(one)


@given(ROWS, ROWS, ROWS)
def test_merging(one: dict, two: dict, three: dict) -> None:
    assert merge(one, one) == one
    both = merge(one, two)
    assert set(both) == set(one) | set(two)
    for name in rows.sections(both):
        versions = [r[name]["made_by"]["version"] for r in (one, two) if name in r]
        assert both[name]["made_by"]["version"] == max(versions)
    left, right = merge(merge(one, two), three), merge(one, merge(two, three))
    assert left == right  # in whatever order shards of runs are brought together


def test_the_newer_version_wins_and_values_win_over_errors() -> None:
    old, new = row("a", motion=made(1, score=1)), row("a", motion=made(2, score=2))
    assert merge(old, new)["motion"]["score"] == merge(new, old)["motion"]["score"] == 2
    failed, fine = row("a", text=made(1, error="crashed")), row("a", text=made(1, area=0))
    assert merge(failed, fine)["text"] == merge(fine, failed)["text"] == fine["text"]
    with pytest.raises(ValueError, match="two segments, a and b"):
        merge(row("a"), row("b"))


def test_files_of_two_runs_merge_by_id(tmp_path: Path) -> None:
    one, two, out = tmp_path / "1.jsonl", tmp_path / "2.jsonl", tmp_path / "out.jsonl"
    write(one, [row("a", motion=made(1)), row("b", motion=made(1))])
    write(two, [row("b", text=made(1)), row("c", text=made(1))])
    assert merge_files([one, two], out) == 3
    assert list(read(out)) == [
        row("a", motion=made(1)),
        row("b", motion=made(1), text=made(1)),
        row("c", text=made(1)),
    ]
    assert merge_files([out, two], out) == 3


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{", "not a line of JSON"),
        ("[1]", "is a list"),
        ('{"schema": 9, "id": "b"}', "update this pack"),
        ('{"schema": 1, "id": "../x"}', "id is '../x'"),
        ('{"schema": 1, "id": "b", "source": {}}', "source.path is missing"),
        (to_line(row("b", motion=made(1))).replace('"motion"', '"Motion!"'), "a section"),
        (to_line(row("b")).replace("}}", '}, "motion": 3}'), "'motion' is '3'"),
        (to_line(row("a")), "a second time"),
        ('{"schema": 1, "id": "b", "x": "' + "y" * rows.LARGEST_ROW + '"}', "more than"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, why: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(to_line(row("a")) + bad.rstrip("\n") + "\n")
    with pytest.raises(ValueError) as error:
        list(read(path))
    assert f"{path}:2: " in str(error.value) and why in str(error.value)


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, [row("a")])
    for bad in (row("b", motion={"score": float("nan")}), row("b", x={"y": "z" * 2**20})):
        with pytest.raises(ValueError):
            write(path, [row("a"), bad])
    assert list(read(path)) == [row("a")]  # the file that was there stays


def test_odd_names_come_back(tmp_path: Path) -> None:
    path, name = tmp_path / "rows.jsonl", "b\udcff\u2028c\n.mp4"  # not UTF-8, line breaks
    write(path, [{**row("a"), "source": {"path": name}}])
    assert next(read(path))["source"]["path"] == name


@given(st.integers(0, 200))
def test_a_log_that_was_cut_anywhere_keeps_its_whole_lines(tmp_path_factory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    entries = [{"id": str(i), "sections": {"text": {"words": "ä" * i}}} for i in range(4)]
    with Log(path) as log:
        for entry in entries:
            log.append(entry)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    kept = whole[: len(whole) - cut].count(b"\n") if cut < len(whole) else 0
    with Log(path) as log:
        assert list(log.entries()) == entries[:kept]
        log.append({"id": "new"})
        assert list(log.entries()) == [*entries[:kept], {"id": "new"}]


def test_values_are_found_by_their_path() -> None:
    one = row("a", motion={"score": 2.5})
    assert rows.value(one, "motion.score") == 2.5
    assert rows.value(one, "motion.score.x") is None and rows.value(one, "clip.aesthetic") is None


def test_sections_that_make_a_row_too_long_give_way_to_an_error() -> None:
    big = made(2, text="ä" * 2**20)
    one = with_sections(row("a", motion=made(1, score=1)), {"captions_dense": big, "text": made(1)})
    assert one["motion"] == made(1, score=1) and one["text"] == made(1)
    assert "longer than" in one["captions_dense"]["error"]
    assert one["captions_dense"]["made_by"] == big["made_by"]
    assert to_line(one)
    almost = with_sections(row("a"), {"text": made(1, words="x" * (rows.LARGEST_ROW - 2**17))})
    assert "error" not in almost["text"]
