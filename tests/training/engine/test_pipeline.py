"""All commands of the engine over real clips, by the command line; and a clip of 4K."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.data_engine import _measure, write_clip
from scripts.prepare import ROOT
from scripts.real_clips import installed_clips, read_facts
from tests.training.data.numbered import write_video
from tests.training.engine.footage import Joined, moving, save_real_clips
from tests.training.engine.small_work import contents
from training.cli import main
from training.data.clips import clips
from training.data.sources import DataSpec
from training.engine.step import make_step
from training.engine.work import Work

RULES = """
rules:
  - {value: source.duplicate_of, empty: true}
  - {value: segment.seconds, min: 1}
  - {value: motion.score, min: 1}
  - {value: text.area, max: 0.05}
  - {value: clip.aesthetic, min: 5, missing: keep}
"""


def command(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", *map(str, words)])
    assert not end.value.code, end.value.code


def test_from_a_folder_of_footage_to_the_trainers_list(tmp_path: Path, capsys) -> None:
    media, work = tmp_path / "media", tmp_path / "work"
    save_real_clips(media, ["video_causal_forcing_i2v-1.webp", "wan2.1_flf2v_720_f16-1.webp"])
    (media / "video_causal_forcing_i2v-1.txt").write_text("a caption of its own")
    joined = Joined.of([moving(1, 24), moving(2, 24)], [("cut", 0)])
    write_video(media / "joined.mp4", joined.frames, 15)
    write_video(media / "still.mp4", [moving(3, 1)[0]] * 30, 15)
    (media / "broken.mp4").write_bytes(b"?" * 999)
    rules = tmp_path / "mine.yaml"
    rules.write_text(RULES)

    command("scan", "--media", media, "--work", work)
    command("segment", "--work", work, "--min-seconds", 1, "--max-seconds", 4)
    command("features", "--work", work, "--set", "text.frames=1", "--set", "clarity.frames=2")
    command("filter", rules, "--work", work)
    command("export", "--work", work, "--out", tmp_path / "metadata.jsonl")
    command("status", "--work", work)

    rows = list(Work.open(work).rows())
    by_file: dict[str, list] = {}
    for row in rows:
        by_file.setdefault(row["source"]["path"], []).append(row)
        for section in ("motion", "clarity", "picture", "text"):
            assert "error" not in row[section] and row[section]["made_by"]["version"] >= 1
    assert {name: len(found) for name, found in by_file.items()} == {
        "joined.mp4": 2,
        "still.mp4": 1,
        "video_causal_forcing_i2v-1.webp": 1,
        "wan2.1_flf2v_720_f16-1.webp": 1,
    }
    assert by_file["still.mp4"][0]["filter"]["reasons"] == ["motion.score below 1"]
    listed = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["filter"]["keep"]]
    assert [entry["id"] for entry in listed] == [row["id"] for row in kept]
    captions = {entry["path"]: entry["captions"] for entry in listed}
    assert captions["video_causal_forcing_i2v-1.webp"] == ["a caption of its own"]
    said = capsys.readouterr().out
    assert "1 failed" in said and "motion.score below 1" in said

    command("filter", "sft20k", "--work", work)  # thresholds change without any measuring
    after = list(Work.open(work).rows())
    assert [{**row, "filter": 0} for row in after] == [{**row, "filter": 0} for row in rows]
    assert all("segment.seconds below 3" in row["filter"]["reasons"] for row in after)


@pytest.mark.slow  # two minutes
def test_the_whole_pipeline_killed_at_random_points_makes_the_same(tmp_path: Path) -> None:
    """Every command up to the report, killed and given again until it ends by itself."""
    media, rules = tmp_path / "media", tmp_path / "mine.yaml"
    save_real_clips(media, ["wan2.1_flf2v_720_f16-1.webp"])
    for number in range(3):
        write_video(media / f"{number}.mp4", list(moving(number, 30)), 15)
    rules.write_text(RULES)
    folder, rng, killed = tmp_path / "work", random.Random(0), 0
    lines = [
        ("scan", "--media", media, "--workers", 2),
        ("segment", "--min-seconds", 1, "--workers", 2),
        ("features", "--set", "text.frames=1", "--workers", 2),
        ("filter", rules),
        ("stats", "--out", folder / "report"),
    ]

    def ends(words: tuple, seconds: float) -> bool:
        line = map(str, (sys.executable, "-m", "training", "data", *words, "--work", folder))
        process = subprocess.Popen(list(line), cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            assert process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        return True

    took = []
    for words in lines:
        began = time.monotonic()
        assert ends(words, 300)
        took.append(time.monotonic() - began)
    whole = contents(folder)
    assert any(name.startswith("report") for name in whole)
    shutil.rmtree(folder)
    for words, seconds in zip(lines, took, strict=True):
        for _ in range(3):
            killed += not ends(words, rng.uniform(0.3, 0.95) * seconds)
        assert ends(words, 300)
    assert contents(folder) == whole
    assert killed >= 8


def test_videos_in_tars_and_folders_of_frames(tmp_path: Path) -> None:
    frames = list(moving(1, 36))
    tars, folders = tmp_path / "tars", tmp_path / "folders"
    tars.mkdir()
    video = write_video(tmp_path / "a.mp4", frames, 15)
    with tarfile.open(tars / "0.tar", "w") as tar:
        for name in ("one.mp4", "two.mp4"):
            tar.add(video, name)
    for index, frame in enumerate(frames):
        (folders / "clip").mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(folders / "clip" / f"{index}.png")
    for media, format in ((tars, "webdataset"), (folders, "frames")):
        work = tmp_path / f"work-{format}"
        command("scan", "--media", media, "--work", work, "--format", format)
        command("segment", "--work", work, "--min-seconds", 1)
        command("features", "--work", work, "--only", "motion")
        (row,) = Work.open(work).rows()  # of the tar's two videos one is a copy
        assert row["segment"]["frames"] == 36 and row["motion"]["score"] > 10
        (work / "rules.yaml").write_text("rules: [{value: motion.score, min: 1}]")
        command("filter", work / "rules.yaml", "--work", work)
    command("export", "--work", work, "--out", tmp_path / "metadata.jsonl")
    (line,) = (tmp_path / "metadata.jsonl").read_text().splitlines()
    listed = {"path": tmp_path / "metadata.jsonl", "media": folders, "uncaptioned": "empty"}
    spec = DataSpec(**listed, sizes=[[96, 128]], frames=[12], extract="first")
    (clip,) = clips(spec, workers=1)
    assert json.loads(line)["fps"] == 24 and (clip.frames == frames[:36:3]).all()


def test_rows_are_read_without_the_media_and_those_of_two_runs_merge(tmp_path, capsys) -> None:
    media, one, two = (tmp_path / name for name in ("media", "one", "two"))
    media.mkdir()
    write_video(media / "a.mp4", list(moving(1, 45)), 15)
    command("scan", "--media", media, "--work", one)
    for words in (("features",), ("filter", "pretrain"), ("export", "--out", tmp_path / "x.jsonl")):
        with pytest.raises(SystemExit, match=f"has no segments yet: run .* --work {one}` first"):
            main(["data", *map(str, words), "--work", str(one)])
    command("segment", "--work", one)
    shutil.copytree(one, two)
    command("features", "--work", one, "--only", "motion")
    command("features", "--work", two, "--only", "clarity")
    media.rename(tmp_path / "moved")
    (shard,) = Work.open(two, is_read=False).shards("segments")
    (found,) = shard.rows()
    clarity = found.pop("clarity")
    shard.write([found])
    with shard.log([make_step("clarity")]) as log:  # as a run leaves it that was killed
        log.append({"id": found["id"], "sections": {"clarity": clarity}})
        command("merge", two, "--into", one)
        assert f"another process works on {shard.path}" in capsys.readouterr().out
    (row,) = Work.open(one, is_read=False).rows()
    assert row["motion"]["score"] > 0 and "clarity" not in row
    command("merge", two, "--into", one)
    (row,) = Work.open(one, is_read=False).rows()
    assert row["motion"]["score"] > 0 and row["clarity"] == clarity
    rules = tmp_path / "mine.yaml"
    rules.write_text("rules: [{value: motion.score, min: 1}, {value: clarity.score, min: 1}]")
    command("status", "--work", one)
    command("filter", rules, "--work", one)
    command("stats", "--work", one, "--no-pictures")
    command("export", "--work", one, "--out", tmp_path / "metadata.jsonl")
    said = capsys.readouterr().out
    assert "the sections of 1 segments" in said and "left out" not in said
    assert f"metadata.jsonl: 1 clips; in the recipe's data.sets their media is {media}" in said
    with pytest.raises(SystemExit):
        main(["data", "filter", str(rules), "--work", str(one), "--media", str(media)])
    assert "unrecognized arguments: --media" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="media are not there"):
        main(["data", "features", "--work", str(one)])


def test_segments_that_are_not_there_are_not_merged(tmp_path: Path, capsys) -> None:
    for name in ("one", "two"):
        work = Work.create(tmp_path / name, tmp_path)
        row = {"schema": 1, "id": f"id-{name}", "source": {"path": "a.mp4"}}
        work.shard("segments", 0).write([row])
    command("merge", tmp_path / "two", "--into", tmp_path / "one")
    assert [row["id"] for row in Work.open(tmp_path / "one").rows()] == ["id-one"]
    assert "1 segments are in no shard of the same number" in capsys.readouterr().out


def test_what_cannot_be_done_ends_in_a_line(tmp_path: Path) -> None:
    for words, why in [
        (("segment", "--work", tmp_path), "data scan --media"),
        (("scan", "--media", tmp_path / "no", "--work", tmp_path / "w"), "media are not there"),
        (("merge", tmp_path / "a.jsonl", "--out", tmp_path / "b.jsonl"), "a.jsonl"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(["data", *map(str, words)])
        assert why in str(end.value.code)


@pytest.mark.slow  # two minutes: every template clip of the host
def test_every_real_clip(tmp_path: Path, capsys) -> None:
    media, work = tmp_path / "media", tmp_path / "work"
    there = installed_clips()
    names = [fact["webp"] for fact in read_facts() if fact["webp"] in there]
    save_real_clips(media, names)
    command("scan", "--media", media, "--work", work, "--shard-files", 20)
    command("segment", "--work", work)
    command("features", "--work", work)
    command("filter", "pretrain", "--work", work)
    files, rows = (list(Work.open(work).rows(kind)) for kind in ("files", "segments"))
    assert len(files) == len(names) and len(rows) > len(names) / 2
    assert not list((work / "quarantine").glob("*"))
    print(capsys.readouterr().out)


@pytest.mark.slow  # a minute
def test_memory_does_not_grow_with_the_length_of_a_4k_clip(tmp_path: Path) -> None:
    peaks = []
    for seconds in (2, 8):
        write_clip(tmp_path / f"{seconds}.mp4", 2160, 3840, seconds)
        (row,) = _measure(tmp_path / f"{seconds}.mp4", "memory")
        peaks.append(row["peak_mib"])
    assert peaks[1] < 1.15 * peaks[0] and peaks[1] < 700
