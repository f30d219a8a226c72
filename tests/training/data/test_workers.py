"""The pool outlives its processes: real ones, that crash, hang and are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.training.data.numbered import write_video
from training.data import workers as module
from training.data.cutting import Cutting, source_to_json
from training.data.formats import Source
from training.data.workers import Workers

CUTTING = asdict(Cutting(sizes=[[48, 64]], frames=[1, 4]))
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def plan(path: Path) -> dict:
    source = source_to_json(Source(path, (), path.parent))
    return {"job": "plan", "source": source, "cutting": CUTTING}


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A file that never gives a byte: a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "hang.mp4")
    return tmp_path / "hang.mp4"


def test_a_process_that_hangs_is_stopped_and_replaced(tmp_path: Path, hanging: Path) -> None:
    good = write_video(tmp_path / "a.mp4", 6)
    with Workers(1, limit=3) as pool:
        first, stuck, after = (pool.submit(plan(p)) for p in (good, hanging, good))
        assert "took more than 3 s" in stuck.result()[0]["error"]
        assert first.result() == after.result()
        assert first.result()[0]["cuts"][0]["key"] == "a.mp4#0"
        assert pool.replaced == 1


@pytest.mark.parametrize("sent", [signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_crashes_is_replaced(
    sent: signal.Signals, tmp_path: Path, hanging: Path
) -> None:
    good = write_video(tmp_path / "a.mp4", 6)
    with Workers(1, limit=60) as pool:
        pool.submit(plan(good)).result()
        victim, after = pool.submit(plan(hanging)), pool.submit(plan(good))
        (pid,) = pool.pids()
        os.kill(pid, sent)
        assert victim.result()[0]["error"] == f"its process crashed ({sent.name})"
        assert "cuts" in after.result()[0]
        assert pid not in pool.pids()


def test_closing_ends_busy_processes(hanging: Path) -> None:
    with Workers(1, limit=600) as pool:
        future = pool.submit(plan(hanging))
        while not pool.pids():
            time.sleep(0.01)
        pids = pool.pids()
    assert future.done()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_processes_that_cannot_start_are_an_error_not_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    with Workers(1) as pool, pytest.raises(RuntimeError, match=r"do not start.*training"):
        pool.submit(plan(tmp_path / "a.mp4")).result()


def test_answers_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{i}.mp4", 4 + 20 * (i % 2)) for i in range(6)]
    with Workers(2) as pool:
        answers = list(pool.ordered(paths, plan, ahead=3))
    assert [path for path, _ in answers] == paths
    keys = [header["cuts"][0]["key"] for _, (header, _) in answers]
    assert keys == [f"{path.name}#0" for path in paths]
    json.dumps(answers[0][1][0])  # plain data only


def test_a_pool_needs_a_process() -> None:
    with pytest.raises(ValueError, match="0 workers"):
        Workers(0)
