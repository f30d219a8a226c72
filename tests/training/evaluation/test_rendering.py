"""Many videos into a folder: what is kept, what is made again, wherever a run is ended."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training.evaluation.rendering import RECORD, Job, render

JOBS = [Job(f"{number}.mkv", f"prompt {number}", seed=number) for number in range(3)]


class Fake:
    """A sampler whose clips hold their seed."""

    def clips(self, prompts: Sequence[str], clean, mask, seeds: Sequence[int]) -> np.ndarray:
        return np.array(seeds, np.uint8).reshape(-1, 1, 1, 1, 1)


def made(folder: Path, jobs: Sequence[Job] = JOBS, **settings: object) -> int:
    def write(path: Path, clip: np.ndarray) -> None:
        path.write_bytes(clip.tobytes())

    return render(jobs, Fake(), folder, write, settings, batch=2)


def seeds(folder: Path) -> dict[str, int]:
    """What the videos hold."""
    return {path.name: path.read_bytes()[0] for path in sorted(folder.glob("*.mkv"))}


def recorded(folder: Path) -> dict[str, dict]:
    rows = map(json.loads, (folder / RECORD).read_text().splitlines())
    return {row["video"]: row for row in rows}


OTHERS = [
    Job("1.mkv", "another", 1),
    Job("1.mkv", "prompt 1", 7),
    Job("1.mkv", "prompt 1", 1, given_id="5ac3"),
]


@pytest.mark.parametrize("other", OTHERS, ids=["prompt", "seed", "given"])
def test_a_video_for_something_else_is_made_again(tmp_path, caplog, other) -> None:
    assert made(tmp_path) == 3 and made(tmp_path) == 0
    jobs = [JOBS[0], other, JOBS[2]]
    kept = (tmp_path / "0.mkv").stat().st_mtime_ns
    assert made(tmp_path, jobs) == 1
    assert "1 videos were made for another prompt, seed or given clip" in caplog.text
    assert "1.mkv" in caplog.text
    assert seeds(tmp_path) == {job.name: job.seed for job in jobs}
    row = {"video": "1.mkv", "caption": other.prompt, "seed": other.seed}
    given = {"given": other.given_id} if other.given_id else {}
    assert recorded(tmp_path)["1.mkv"] == {**row, **given}
    assert (tmp_path / "0.mkv").stat().st_mtime_ns == kept
    assert made(tmp_path, jobs) == 0


def test_a_video_of_which_nothing_is_known_is_made_again(tmp_path) -> None:
    made(tmp_path)
    record = tmp_path / RECORD
    lines = record.read_text().splitlines()
    record.write_text(f"{lines[0]}\n[]\n{lines[1]}\n{lines[2][:-9]}")  # cut off by a kill
    (tmp_path / "2.mkv").write_bytes(b"\x63")
    assert made(tmp_path) == 1
    assert seeds(tmp_path) == {"0.mkv": 0, "1.mkv": 1, "2.mkv": 2}
    assert made(tmp_path) == 0


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_run_killed_at_the_rename_leaves_no_video_with_another_row(
    tmp_path, monkeypatch, before
) -> None:
    made(tmp_path)
    jobs = [JOBS[0], Job("1.mkv", "another", 7), JOBS[2]]
    replace = os.replace

    def killed(part, path) -> None:
        if not before:
            replace(part, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, jobs)
    monkeypatch.undo()
    assert recorded(tmp_path)["1.mkv"]["seed"] == 7
    assert seeds(tmp_path).get("1.mkv") == (None if before else 7)
    assert made(tmp_path, jobs) == before
    assert seeds(tmp_path) == {"0.mkv": 0, "1.mkv": 7, "2.mkv": 2}


def test_videos_of_other_settings_are_refused(tmp_path) -> None:
    made(tmp_path, steps=2)
    with pytest.raises(ValueError, match="made with steps 2, now it is 3: give another folder"):
        made(tmp_path, steps=3)
