"""Steps by datatrove: as processes, on Ray, and as a job array of a real Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.prepare import ROOT
from tests.training.engine import slurm
from tests.training.engine.small_work import FEATURES, contents
from training.cli import main
from training.engine.executors import execute
from training.engine.step import make_step
from training.engine.work import Work


def options(executor: str, **changes) -> Namespace:
    values = {
        "executor": executor, "workers": 1, "time_limit": 60.0, "retry": False, "tasks": 2,
        "at_once": 2, "partition": None, "task_time": "1:00:00", "task_memory": 2, "task_gpus": 0,
    }  # fmt: skip
    return Namespace(**{**values, **changes})


def test_datatrove_makes_the_same_and_no_row_twice(work: Work, whole, capfd) -> None:
    steps = [make_step(name) for name in FEATURES]
    execute(options("datatrove"), work, steps)
    logs = work.folder / "tasks"
    assert len(list(logs.glob("*/completions/*"))) == 2
    assert contents(work.folder).items() >= whole.items()
    *_, last = work.shards("segments")
    rows = list(last.rows())
    last.write([{k: v for k, v in row.items() if k != "motion"} for row in rows])  # as new ones
    capfd.readouterr()
    execute(options("datatrove"), work, steps)
    said = capfd.readouterr().out
    assert f"motion: {len(rows)} made" in said and "picture" not in said
    shutil.rmtree(logs)
    assert contents(work.folder) == whole


def test_a_task_does_not_begin_without_the_media(work: Work) -> None:
    """On a machine that does not see them every row would be marked as broken."""
    pytest.importorskip("datatrove")
    from training.engine.tasks import ShardTask

    task = ShardTask(Work(work.folder, work.folder / "gone"), [make_step("picture")], 1, 60, False)
    with pytest.raises(ValueError, match="media are not there"):
        task.run()


@pytest.mark.slow  # half a minute
def test_ray_makes_the_same(work: Work, whole) -> None:
    pytest.importorskip("ray")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        execute(options("ray"), work, [make_step(name) for name in FEATURES])
    finally:
        ray.shutdown()
    assert len(list((work.folder / "tasks").glob("*/completions/*"))) == 2
    shutil.rmtree(work.folder / "tasks")
    assert contents(work.folder) == whole


# --- Slurm ----------------------------------------------------------------------------------------

needs_slurm = pytest.mark.skipif(bool(slurm.missing()), reason=f"Slurm {slurm.missing()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def tools(cluster: dict[str, str], monkeypatch) -> dict[str, str]:
    """Slurm's and this Python's on the PATH."""
    environment = {**cluster, "PATH": f"{Path(sys.executable).parent}:{cluster['PATH']}"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


def submit(work: Work, **changes) -> Path:
    """The features as a job array; returns the folder of its logs."""
    steps = [make_step(name) for name in FEATURES]
    execute(options("slurm", partition=slurm.PARTITION, task_memory=1, **changes), work, steps)
    (logs,) = (work.folder / "tasks").iterdir()
    return logs


def test_slurm_needs_a_partition(work: Work) -> None:
    pytest.importorskip("datatrove")
    with pytest.raises(ValueError, match="--partition"):
        execute(options("slurm"), work, [make_step("picture")])


def test_slurm_gets_a_job_array(work: Work, tmp_path: Path, monkeypatch) -> None:
    """What is submitted, without a Slurm to take it."""
    tool = tmp_path / "sbatch"
    tool.write_text("#!/bin/sh\necho Submitted batch job 7\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lines = (submit(work, workers=2) / "launch_script.slurm").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {"partition=cpu", "cpus-per-task=2", "time=1:00:00", "mem-per-cpu=1G"}
    assert any(option.startswith("array=0-1") for option in asked)
    assert f"export PYTHONPATH={ROOT}:$PYTHONPATH" in lines


def test_the_steps_of_a_scan_wait_for_each_other(work: Work, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("datatrove")
    (tmp_path / "sbatch").write_text(SBATCH.format(folder=tmp_path))
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    scan(work.media, tmp_path / "new", "--executor", "slurm", "--partition", "cpu")
    told = (tmp_path / "told").read_text().splitlines()
    arrays = [line.split()[2:-1] for line in told if "RUN_OFFSET" in line]
    assert arrays == [[], ["--dependency=afterany:1"], ["--dependency=afterany:3"]]
    rows = list(Work.open(tmp_path / "new").rows("files"))
    assert len(rows) == 7 and not any("duplicate" in row for row in rows)  # not yet
    script = (tmp_path / "new" / "tasks" / "duplicates" / "launch_script.slurm").read_text()
    assert "--cpus-per-task=1\n" in script and "--mem-per-cpu=8G\n" in script  # of 2 workers


def test_marking_duplicates_reads_rows_only(work: Work) -> None:
    pytest.importorskip("datatrove")
    from training.engine.tasks import MarkTask

    before = contents(work.folder)
    MarkTask(Work(work.folder, work.folder / "gone")).run()
    assert contents(work.folder) == before


SBATCH = """#!/bin/sh
echo sbatch "$@" >> {folder}/told
echo Submitted batch job $(wc -l < {folder}/told)
"""


def scan(media: Path, work: Path, *words: object) -> None:
    line = ["data", "scan", "--media", media, "--work", work, "--shard-files", 4, *words]
    with pytest.raises(SystemExit) as end:
        main(list(map(str, line)))
    assert not end.value.code, end.value.code


@needs_slurm
@pytest.mark.slow  # a minute
def test_a_scan_by_slurm_makes_the_same(media: Path, tools, tmp_path: Path) -> None:
    scan(media, tmp_path / "one")
    scan(media, tmp_path / "two", "--executor", "slurm", "--partition", slurm.PARTITION,
         "--tasks", 2, "--workers", 1, "--task-memory", 1)  # fmt: skip
    slurm.wait(tools)
    shutil.rmtree(tmp_path / "two" / "tasks")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@needs_slurm
@pytest.mark.slow  # a minute
def test_a_job_array_makes_the_same(work: Work, tools, whole) -> None:
    logs = submit(work)
    slurm.wait(tools)
    assert len(list(logs.glob("completions/*"))) == 2, _told(logs)
    shutil.rmtree(work.folder / "tasks")
    assert contents(work.folder) == whole


@needs_slurm
@pytest.mark.slow  # a minute
def test_a_cancelled_job_is_gone_on_with(work: Work, tools, whole) -> None:
    logs = submit(work)
    slurm.wait_for_task(tools)
    subprocess.run(["scancel", "--user=root"], check=True)
    slurm.wait(tools)
    assert len(list(logs.glob("completions/*"))) < 2
    submit(work)
    slurm.wait(tools)
    assert len(list(logs.glob("completions/*"))) == 2, _told(logs)
    shutil.rmtree(work.folder / "tasks")
    assert contents(work.folder) == whole


def _told(logs: Path) -> str:
    """What the tasks printed, for a failing test."""
    return "\n".join(path.read_text()[-2000:] for path in logs.rglob("*.out"))
