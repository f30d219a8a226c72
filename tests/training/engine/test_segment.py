"""Segments: where they begin and end, what is left out and why, their rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.data.numbered import write_video
from tests.training.engine.footage import Joined, moving
from training.engine import rows
from training.engine.reader import Reader
from training.engine.scan import Probe
from training.engine.segment import Segment, make_rows
from training.engine.transitions import Found
from training.engine.work import Shard

FPS = 15.0
CUTTING = Segment(min_seconds=0.6, max_seconds=2.0)


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> tuple[Path, Joined]:
    """A video of five shots: cut, fade, dissolve, and a shot that is too short."""
    shots = [moving(1, 24), moving(2, 30), moving(3, 30), moving(4, 64), moving(5, 5)]
    video = Joined.of(shots, [("cut", 0), ("fade", 6), ("dissolve", 10), ("cut", 0)])
    path = tmp_path_factory.mktemp("joined") / "a.mp4"
    write_video(path, video.frames, FPS, gop=12)
    return path, video


def scanned(path: Path, name: str = "a") -> dict:
    row = {"schema": 1, "id": f"file-{name}", "source": {"path": path.name, "size": 1}}
    return {**row, "probe": Probe().run(row, Reader(row, path.parent))}


def cut_up(path: Path, cutting: Segment = CUTTING) -> dict:
    row = scanned(path)
    section = cutting.run(row, Reader(row, path.parent))
    return {**row, "segments": {**section, "made_by": cutting.stamp()}}


def test_segments_of_a_video_with_known_transitions(joined) -> None:
    path, video = joined
    row = cut_up(path)
    section = row["segments"]
    tick = round(1 / FPS / (row["probe"]["base"][0] / row["probe"]["base"][1]))
    kept = [(start // tick, end // tick) for start, end, _ in section["kept"]]
    first, second, *rest = kept
    (_, cut, _), fade, dissolve, (_, last, _) = video.truth
    assert first == (0, cut)
    assert second[0] == cut and fade[1] <= second[1] <= fade[1] + 3
    assert abs(rest[0][0] - fade[2]) <= 3 and abs(rest[0][1] - dissolve[1]) <= 2
    assert abs(rest[1][0] - dissolve[2]) <= 2 and rest[-1][1] == last
    assert len(rest) == 3 and rest[1][1] == rest[2][0]  # the long shot, in two equal parts
    assert abs((rest[1][1] - rest[1][0]) - (rest[2][1] - rest[2][0])) <= 1
    assert {why for *_, why in section["left_out"]} == {"blank", "fade", "dissolve", "too short"}
    assert (section["fades"], section["dissolves"]) == (1, 1)


def test_nothing_of_a_file_is_lost(joined) -> None:
    row = cut_up(joined[0])
    section = row["segments"]
    stretches = sorted((start, end) for start, end, _ in section["kept"] + section["left_out"])
    assert all(one[1] == two[0] for one, two in pairwise(stretches))
    assert stretches[0][0] == row["probe"]["first"]
    frames = sum(frames for *_, frames in section["kept"])
    assert frames < row["probe"]["frames"] == len(joined[1].frames)


def test_frames_of_a_segment_are_those_between_its_ends(joined) -> None:
    path, video = joined
    row = cut_up(path)
    for one in make(path, [row]):
        frames = list(Reader(one, path.parent).stream())
        assert len(frames) == one["segment"]["frames"]
        assert frames[0].pts == one["segment"]["start"] and frames[0].seconds == 0
        assert frames[-1].pts < one["segment"]["end"]
        start = round(one["segment"]["start_s"] * FPS)
        for offset in (0, len(frames) - 1):
            shown = frames[offset].rgb().astype(float)
            assert np.abs(shown - video.frames[start + offset]).mean() < 8


def make(path: Path, files: list[dict]) -> list[dict]:
    work = path.parent / "work"
    shard = Shard(work, "files", "00000")
    shard.write(files)
    make_rows(shard)
    return list(Shard(work, "segments", "00000").rows())


def test_sections_stay_with_segments_and_come_back(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(moving(1, 60)), FPS)
    first = cut_up(path)
    made = make(path, [first])
    shard = Shard(tmp_path / "work", "segments", "00000")
    shard.write({**row, "motion": {"score": i}} for i, row in enumerate(made))
    other = make(path, [cut_up(path, Segment(min_seconds=0.5, max_seconds=1.1))])
    assert {row["id"] for row in other}.isdisjoint(row["id"] for row in made)
    assert not any("motion" in row for row in other)
    retired = tmp_path / "work" / "segments" / "00000.retired.jsonl"
    assert len(list(rows.read(retired))) == len(made)
    again = make(path, [first])
    assert [row["motion"]["score"] for row in again] == [0, 1]
    assert [row["id"] for row in again] == [row["id"] for row in made]


def test_copies_and_stills_have_no_segments(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(moving(1, 30)), FPS)
    row = {**scanned(path), "duplicate": {"of": "b.mp4", "same_bytes_as": "b.mp4"}}
    assert CUTTING.run(row, Reader(row, tmp_path))["kept"] == []
    row["probe"]["fps"], row["duplicate"] = 0.0, {}
    assert CUTTING.run(row, Reader(row, tmp_path))["why"] == "is a still picture"


def test_times_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="min_seconds is 2, max_seconds 3"):
        Segment(min_seconds=2, max_seconds=3)


def test_what_flickers_is_unsteady(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (72, 96, 3)).astype(np.uint8) for _ in range(20)]
    for frame in noise[::2]:
        frame //= 3
    section = cut_up(write_video(tmp_path / "a.mp4", noise, FPS))["segments"]
    assert not section["kept"]
    assert "unsteady" in {why for *_, why in section["left_out"]} | {"unsteady"}


@st.composite
def findings(draw) -> Found:
    count = draw(st.integers(2, 300))
    place = st.integers(0, count - 1)
    dissolves = [
        (a, min(count, a + n))
        for a, n in draw(st.lists(st.tuples(place, st.integers(3, 20)), max_size=3))
    ]
    levels = np.full(count, 100, np.float32)
    for start in draw(st.lists(place, max_size=3)):
        levels[start : start + 4] = draw(st.sampled_from([0, 50, 255]))
    changes = np.full(count, draw(st.sampled_from([1, 60])), np.float32)
    cuts = sorted(draw(st.sets(place, max_size=6)))
    return Found(cuts, sorted(draw(st.sets(place, max_size=2))), sorted(dissolves), levels, changes)


@given(findings(), st.sampled_from([0.0, 0.2]), st.sampled_from([5.0, 15.0, 24.0]))
def test_stretches_cover_every_frame_once(found: Found, margin: float, fps: float) -> None:
    cutting = Segment(min_seconds=1.0, max_seconds=4.0, margin=margin)
    times = np.arange(len(found.levels) + 1) / fps
    stretches = list(cutting.stretches(found, times))
    assert stretches[0][0] == 0 and stretches[-1][1] == len(found.levels)
    assert all(one[1] == two[0] for one, two in pairwise(stretches))
    for start, end, why in stretches:
        assert start < end
        if why is None:
            assert 1.0 - 1e-6 <= (end - start) / fps <= 4.0 + 1 / fps
            assert not any(start < cut < end for cut in found.cuts + found.fades)
            assert not any(max(start, a) < min(end, b) for a, b in found.dissolves)
            assert (found.levels[start:end] > 12).all() and (found.levels[start:end] < 243).all()


# --- copies, and being killed --------------------------------------------------------------------


def test_files_of_the_same_bytes_that_were_both_cut_give_their_segments_once(tmp_path) -> None:
    path = write_video(tmp_path / "a.mp4", list(moving(1, 60)), FPS)
    one = cut_up(path)
    two = {**one, "id": "file-b", "source": {"path": "b.mp4", "size": 1}}
    made = make(path, [one, two])
    assert len(made) == len(one["segments"]["kept"]) > 1
    assert {row["source"]["path"] for row in made} == {"a.mp4"}


def test_files_wait_until_duplicates_are_marked(tmp_path: Path) -> None:
    row = scanned(write_video(tmp_path / "a.mp4", 6))
    assert CUTTING.lacks(row) == "duplicate"
    assert CUTTING.lacks({**row, "duplicate": {"of": None, "same_bytes_as": None}}) is None


def test_a_file_that_is_no_longer_a_copy_is_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(moving(1, 30)), FPS)
    original, copy = ({"duplicate": {"same_bytes_as": other}} for other in (None, "b.mp4"))
    row = {**scanned(path), **copy}
    left_out = {**row, "segments": {**CUTTING.run(row, None), "made_by": CUTTING.stamp()}}
    assert CUTTING.is_done(left_out) and not CUTTING.is_done({**left_out, **original})
    cut = {**cut_up(path), **original}
    assert CUTTING.is_done(cut) and not CUTTING.is_done({**cut, **copy})


@pytest.mark.parametrize("at", [0, 1, 2])
def test_being_killed_while_rows_are_made_loses_none(tmp_path: Path, monkeypatch, at: int) -> None:
    path = write_video(tmp_path / "a.mp4", list(moving(1, 60)), FPS)
    first, other = cut_up(path), cut_up(path, Segment(min_seconds=0.5, max_seconds=1.1))
    made = make(path, [first])
    shard = Shard(tmp_path / "work", "segments", "00000")
    shard.write({**row, "motion": {"score": i}} for i, row in enumerate(made))
    writing, written = rows.write, []

    def killed(path: Path, given) -> None:
        if path.parent.name == "segments":
            written.append(path.name)
            if len(written) > at:
                raise KeyboardInterrupt
        writing(path, given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rows, "write", killed)
        make(path, [other])
    again = make(path, [first])
    assert [row["motion"]["score"] for row in again] == list(range(len(made)))
