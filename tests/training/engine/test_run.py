"""Running steps: files that hang, crash or are broken cost themselves only; nothing is done twice;
the rows are the same for any number of workers and however often a run was killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.training.data.numbered import write_video
from tests.training.engine.small_work import CLIP, FEATURES, contents, prepare
from training.engine.run import run
from training.engine.scan import Fingerprint, Probe, list_files
from training.engine.step import NotReady, Step, make_step
from training.engine.work import Busy, Work

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def test_broken_files_are_in_quarantine_with_the_reason(prepared: Work) -> None:
    rows = {row["source"]["path"]: row for row in prepared.rows("files")}
    assert len(rows) == 7 and "error" in rows["6.mp4"]["probe"]
    assert "not a video" in rows["6.mp4"]["probe"]["error"]
    listed = "".join(p.read_text() for p in (prepared.folder / "quarantine").iterdir())
    assert '"path": "6.mp4", "step": "probe"' in listed
    assert "0.mp4" not in listed
    segments = list(prepared.rows())
    assert {row["source"]["path"] for row in segments} >= {CLIP, "0.mp4", "3.mp4"}
    assert not any(row["source"]["path"] == "6.mp4" for row in segments)


def test_two_workers_make_what_one_makes(media, prepared, work, whole, tmp_path) -> None:
    one = prepare(media, tmp_path / "one", workers=1)
    assert contents(one.folder) == contents(prepared.folder)
    run(work, [make_step(name) for name in FEATURES], workers=2)
    assert contents(work.folder) == whole


def test_finished_work_is_not_done_again(work: Work) -> None:
    first = run(work, [make_step("picture")], workers=1)
    before = contents(work.folder)
    assert first.made["picture"] == first.rows and not first.failed
    again = run(work, [make_step("picture")], workers=1)
    assert again.done == again.rows == first.rows and not again.made
    assert contents(work.folder) == before
    other = run(work, [make_step("picture", {"frames": 3})], workers=1)
    assert other.made["picture"] == first.rows  # other settings are other work


def test_steps_run_apart_make_what_they_make_together(work: Work, whole) -> None:
    for name in reversed(FEATURES):
        run(work, [make_step(name)], workers=1)
    assert contents(work.folder) == whole


SCRIPT = """
import sys
from pathlib import Path
from training.engine.job import run_steps
from training.engine.run import run
from training.engine.step import make_step
from training.engine.work import Work
folder, workers, *names = sys.argv[1:]
run(Work.open(Path(folder)), [make_step(name) for name in names], workers=int(workers))
"""


def start(work: Work, workers: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(work.folder), str(workers), *FEATURES]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def logged(work: Work) -> int:
    return sum(p.stat().st_size for p in (work.folder / "segments").glob("*.log"))


def kill_after(work: Work, least: int, timeout: float = 60) -> bool:
    """Kills a run as soon as its logs hold so many bytes; False where it ended before."""
    process = start(work)
    deadline = time.monotonic() + timeout
    while process.poll() is None and logged(work) < least and time.monotonic() < deadline:
        time.sleep(0.001)
    is_killed = process.poll() is None
    process.kill()
    process.wait()
    return is_killed


def test_a_run_that_is_killed_goes_on_and_makes_the_same(work: Work, whole) -> None:
    assert kill_after(work, 1)
    assert logged(work)
    left = logged(work)
    report = run(work, [make_step(name) for name in FEATURES], workers=2)
    assert contents(work.folder) == whole
    assert report.done >= 1 and left  # what was logged before the kill was not made again


@pytest.mark.slow  # a minute
def test_a_run_killed_at_random_points_makes_the_same(work: Work, whole) -> None:
    rng = random.Random(0)
    for _ in range(12):
        process = start(work, rng.choice([1, 2]))
        time.sleep(rng.uniform(0.3, 3.0))
        process.kill()
        process.wait()
    run(work, [make_step(name) for name in FEATURES], workers=1)
    assert contents(work.folder) == whole


def hang(work: Work, name: str) -> None:
    """Puts a pipe that nobody writes to in the place of a file."""
    path = work.media / name
    path.unlink()
    os.mkfifo(path)


@pytest.fixture
def own_media(work: Work, tmp_path: Path) -> Work:
    """The work folder with media of its own, to be damaged."""
    shutil.copytree(work.media, tmp_path / "own")
    return Work(work.folder, tmp_path / "own")


def test_a_file_that_hangs_costs_that_file_only(own_media: Work, whole) -> None:
    hang(own_media, CLIP)
    report = run(own_media, [make_step("picture")], workers=2, limit=3)
    rows = list(own_media.rows())
    stuck = [row for row in rows if row["source"]["path"] == CLIP]
    errors = [row["picture"]["error"] for row in stuck]
    assert len(stuck) >= 3
    assert all("more than 3 s" in error for error in errors[:2])
    assert all(error == "given up: the file cost 2 worker processes" for error in errors[2:])
    assert report.failed == len(stuck)
    assert all("error" not in r["picture"] for r in rows if r["source"]["path"] != CLIP)
    again = run(own_media, [make_step("picture")], workers=2, limit=3)
    assert again.done == again.rows  # failures are results, too
    (own_media.media / CLIP).unlink()
    shutil.copyfile(Work.open(own_media.folder).media / CLIP, own_media.media / CLIP)
    retried = run(own_media, [make_step("picture")], workers=2, retry=True)
    assert retried.made["picture"] == len(stuck) and not retried.failed
    assert not any((own_media.folder / "quarantine").glob("segments-*"))


def lose(work: Work, name: str, made_by: dict) -> int:
    """Notes in all rows of a file that a step lost its process; returns how many there are."""
    count = 0
    for shard in work.shards("segments"):
        marked = [dict(row) for row in shard.rows()]
        for row in marked:
            if row["source"]["path"] == CLIP:
                row[name] = {"error": "crashed", "lost": True, "made_by": made_by}
                count += 1
        shard.write(marked)
    return count


def test_what_other_settings_lost_does_not_count(work: Work) -> None:
    step = make_step("picture")
    count = lose(work, "picture", make_step("picture", {"frames": 3}).stamp())
    report = run(work, [step], workers=2)
    assert count >= 3 and report.made["picture"] == report.rows


def test_files_are_given_up_alike_by_any_number_of_workers(work: Work, tmp_path: Path) -> None:
    """Where an earlier run of one of the steps lost several processes to a file."""
    steps = [make_step(name) for name in FEATURES]
    assert lose(work, "motion", steps[0].stamp()) >= 3
    shutil.copytree(work.folder, tmp_path / "one")
    run(Work.open(tmp_path / "one"), steps, workers=1)
    run(work, steps, workers=4)
    assert contents(work.folder) == contents(tmp_path / "one")
    found = [row["picture"] for row in work.rows() if row["source"]["path"] == CLIP]
    assert ["given up" in section.get("error", "") for section in found[:3]] == [False, True, True]


def test_a_crash_costs_that_row_only(own_media: Work) -> None:
    """The process that hangs on a file is sent SIGSEGV, as a decoder that crashes."""
    hang(own_media, "0.mp4")

    def crash() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for pid in workers_of(os.getpid()):
                if any("0.mp4" in name for name in open_files(pid)):
                    os.kill(pid, signal.SIGSEGV)
            time.sleep(0.02)
            if done.is_set():
                return

    done = threading.Event()
    killer = threading.Thread(target=crash)
    killer.start()
    # the pipe is opened for writing as well, so that opening it does not hang and can be seen
    keeper = os.open(own_media.media / "0.mp4", os.O_RDWR)
    try:
        run(own_media, [make_step("picture")], workers=2, limit=30)
    finally:
        done.set()
        killer.join()
        os.close(keeper)
    for row in own_media.rows():
        error = row["picture"].get("error", "")
        assert ("SIGSEGV" in error or "given up" in error) == (row["source"]["path"] == "0.mp4")


def workers_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text()
            except OSError:
                continue
            if f"\nPPid:\t{parent}\n" in status:
                found.append(int(entry.name))
    return found


def open_files(pid: int) -> list[str]:
    try:
        return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def test_a_shard_that_another_process_works_on_is_left_to_it(work: Work, whole) -> None:
    steps = [make_step(name) for name in FEATURES]
    shard = work.shards("segments")[0]
    with shard.log(steps):
        with pytest.raises(Busy), shard.log(steps):
            pass
        report = run(work, steps, workers=1)
        assert report.busy == [shard.name] and report.made["motion"]
    run(work, steps, workers=1)
    assert contents(work.folder) == whole


def test_rows_without_what_a_step_needs_wait(media: Path, tmp_path: Path) -> None:
    work = Work.create(tmp_path / "work", media)
    list_files(work)
    report = run(work, [Fingerprint()], workers=1)
    assert report.waiting == {"probe": 7} and not report.made
    assert "7 rows without probe" in report.summary()


def test_a_missing_package_is_named_before_any_work(work: Work, monkeypatch) -> None:
    monkeypatch.setattr(Fingerprint, "packages", {"no_such_package": "its-name"})
    with pytest.raises(NotReady, match="pip install its-name"):
        run(work, [Fingerprint()], workers=1)


def test_paths_of_rows_do_not_lead_out_of_the_media_folder(work: Work) -> None:
    shard = work.shards("segments")[0]
    rows = list(shard.rows())
    for row in rows:
        row["source"]["path"] = "../../../../etc/passwd"
    shard.write(rows)
    run(work, [make_step("picture")], workers=1)
    errors = [row["picture"].get("error", "") for row in shard.rows()]
    assert all("outside" in error for error in errors), errors


def test_files_that_are_new_or_have_changed_are_found(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for number in range(5):
        write_video(media / f"{number}.mp4", 6)
    work = Work.create(tmp_path / "work", media)
    assert list_files(work, shard_files=2) == 5
    assert [len(list(shard.rows())) for shard in work.shards("files")] == [2, 2, 1]
    run(work, [Probe()], workers=1)
    assert list_files(work, shard_files=2) == 0
    write_video(media / "1.mp4", 9)
    write_video(media / "a.mp4", 6)
    write_video(media / "b.mp4", 6)
    (media / "0.mp4").unlink()
    assert list_files(work, shard_files=2) == 3
    assert [len(list(shard.rows())) for shard in work.shards("files")] == [2, 2, 2, 1]
    assert run(work, [Probe()], workers=1).made["probe"] == 3
    rows = {row["source"]["path"]: row["probe"] for row in work.rows("files")}
    assert rows["1.mp4"]["frames"] == 9 and "0.mp4" in rows


def test_captions_that_were_edited_are_seen_and_nothing_is_measured_again(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name in ("a", "b"):
        write_video(media / f"{name}.mp4", 6)
    work = Work.create(tmp_path / "work", media)
    list_files(work)
    run(work, [Probe()], workers=1)
    before = list(work.rows("files"))
    (media / "b.txt").write_text("a caption")
    assert list_files(work) == 1
    one, two = work.rows("files")
    assert one == before[0] and two["source"]["captions"] == ["a caption"]
    assert two["probe"] == before[1]["probe"] and list_files(work) == 0


def test_a_caption_that_is_too_long_costs_its_file_only(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name in ("a", "b"):
        write_video(media / f"{name}.mp4", 6)
    (media / "b.txt").write_text("x" * 2**20)
    work = Work.create(tmp_path / "work", media)
    assert list_files(work) == 1
    assert [row["source"]["path"] for row in work.rows("files")] == ["a.mp4"]
    listed = (work.folder / "quarantine" / "listing.jsonl").read_text()
    assert '"path": "b.mp4"' in listed and "expected at most 65536" in listed


@dataclass(frozen=True)
class Wordy(Step):
    """A step whose answer is as long as a model may make it."""

    name: ClassVar[str] = "picture"
    frames: int = 8

    def run(self, row, reader):
        return {"words": "x" * (2**20 if row["source"]["path"] == CLIP else 9)}


def test_an_answer_that_is_too_long_costs_its_row_only(work: Work) -> None:
    shard = next(
        shard
        for shard in work.shards("segments")
        if any(row["source"]["path"] == CLIP for row in shard.rows())
    )
    rows = list(shard.rows())
    with shard.log([Wordy()]) as log:  # as the workers' answers get there
        for row in rows:
            log.append({"id": row["id"], "sections": {"picture": Wordy().run(row, None)}})
        shard.take_in(log)
    after = list(shard.rows())
    assert [row["id"] for row in after] == [row["id"] for row in rows]
    for row in after:
        assert ("error" in row["picture"]) == (row["source"]["path"] == CLIP)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data scan --media"):
        Work.open(tmp_path)
    with pytest.raises(ValueError, match="media are not there"):
        Work.create(tmp_path / "w", tmp_path / "nothing")
