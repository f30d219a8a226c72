"""Metrics files that were cut anywhere, TensorBoard's own reader, log lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.prepare import ROOT
from training.watch.metrics import Metrics, duration, progress, read_metrics


def write(folder: Path, steps: list[int], resume_step: int = 0) -> None:
    metrics = Metrics(folder, resume_step=resume_step)
    for step in steps:
        metrics.add(step, {"loss": step / 10, "lr": 1e-4})
    metrics.close()


def test_entries_are_read_back(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "run")
    metrics.add(5, {"loss": 0.1 + 0.2, "skipped": 0})
    metrics.add(5, {"heldout/t2v@0.5": 1.5})
    metrics.add(10, {"loss": float("nan"), "grad_norm": float("inf")})
    metrics.close()
    metrics.close()
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert found == read_metrics(tmp_path / "run/metrics.jsonl")
    seconds = [entry.pop("seconds") for entry in found]
    assert seconds == sorted(seconds)
    assert found == [
        {"step": 5, "loss": 0.1 + 0.2, "skipped": 0},
        {"step": 5, "heldout/t2v@0.5": 1.5},
        {"step": 10, "loss": None, "grad_norm": None},
    ]
    assert read_metrics(tmp_path / "none.jsonl") == []


@given(
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=12).map(sorted),
    cut=st.floats(0, 1),
    resume=st.integers(0, 70),
)
@settings(max_examples=40, deadline=None)
def test_a_file_cut_at_any_byte_resumes_as_if_uncut(steps: list[int], cut: float, resume: int):
    """The kept lines are those wholly before the cut whose step is not after the resumed one."""
    with TemporaryDirectory() as folder:
        write(Path(folder), steps)
        path = Path(folder) / "metrics.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(cut * len(whole))])
        ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
        expected = [s for s, end in zip(steps, ends, strict=True) if end <= int(cut * len(whole))]
        expected = [step for step in expected if step <= resume]
        write(Path(folder), [resume + 1, resume + 2], resume_step=resume)
        entries = read_metrics(path)
        assert [entry["step"] for entry in entries] == [*expected, resume + 1, resume + 2]
        assert path.read_bytes().startswith(whole[: ends[len(expected) - 1] if expected else 0])
        seconds = [entry["seconds"] for entry in entries]
        assert seconds == sorted(seconds)  # time goes on, over sessions


def test_garbage_in_the_middle_ends_what_is_trusted(tmp_path: Path) -> None:
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    with open(path, "ab") as file:
        file.write(b"\0\0\0\n[1]\n")
    write(tmp_path, [3], resume_step=2)
    assert [entry["step"] for entry in read_metrics(path)] == [1, 2, 3]


def test_steps_go_forward(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, resume_step=10)
    with pytest.raises(ValueError, match="step 9 after step 10"):
        metrics.add(9, {"loss": 1.0})
    metrics.close()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_loses_no_entry(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\n"
        "from training.watch.metrics import Metrics\n"
        "metrics = Metrics(pathlib.Path(sys.argv[1]))\n"
        "for step in range(1, 8): metrics.add(step, {'loss': 1.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    steps = [entry["step"] for entry in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resume, steps in ((0, [1, 2, 3, 4]), (2, [3, 5])):
        metrics = Metrics(tmp_path, tensorboard=True, resume_step=resume)
        for step in steps:
            metrics.add(step, {"loss": step + resume / 10, "heldout/t2v@0.5": 2.0})
        metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    assert found == [(1, 1.0), (2, 2.0), (3, 3.2), (5, 5.2)]
    stored = read_metrics(tmp_path / "metrics.jsonl")
    assert [(entry["step"], entry["loss"]) for entry in stored] == found
    assert len(events.Scalars("heldout/t2v@0.5")) == 4


def test_the_progress_line() -> None:
    line = progress(1200, 400_000, 0.12345, 2.0, tokens_per_s=51_234, mfu=0.453)
    assert line == (
        "step 1,200/400,000 (0.3%)  loss 0.1235  2.00 steps/s  51.2k tokens/s  MFU 45.3%  "
        "ETA 2 d 7:23:20"
    )
    assert progress(5, 10, 1.0, 0.25) == "step 5/10 (50.0%)  loss 1.0000  4.00 s/step  ETA 0:00:20"
    assert progress(0, 10, float("nan"), 0.0).endswith("loss nan  ETA unknown")


@given(st.integers(0, 10**7))
def test_durations_add_up(seconds: int) -> None:
    days, _, clock = duration(seconds).rpartition(" d ")
    h, m, s = map(int, clock.split(":"))
    assert m < 60 and s < 60 and (h < 24)
    assert int(days or 0) * 86400 + h * 3600 + m * 60 + s == seconds
