"""What a process of `--workers` does with the jobs that it is handed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from training.config import TrainConfig
from training.evaluation.ablate import workers
from training.evaluation.ablate.runs import Run
from training.evaluation.ablate.workers import Job, carry_out_job


@pytest.mark.parametrize("stops", [False, KeyboardInterrupt], ids=["while training", "elsewhere"])
def test_a_process_that_was_stopped_begins_no_other_job(tiny, monkeypatch, stops) -> None:
    """The pool hands out more jobs than there are processes, and cannot take them back."""
    begun: list[str] = []

    def train(run: Run) -> bool:
        begun.append(run.name)
        if run.name != "second":
            return True
        if stops is KeyboardInterrupt:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(workers, "train", train)
    monkeypatch.setattr(workers, "_stopped", threading.Event())
    assert carry_out_job(job("first", tiny()))
    if stops is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            carry_out_job(job("second", tiny()))
    else:
        assert not carry_out_job(job("second", tiny()))
    assert not carry_out_job(job("third", tiny()))
    assert begun == ["first", "second"]


def job(name: str, config: TrainConfig) -> Job:
    return Job(Run(name, 0, Path("/nowhere") / name, config), ())
