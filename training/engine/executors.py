"""Who runs the shards: this process, or an engine for clusters (datatrove).

Steps do not know. With an engine a task takes every n-th shard and works on it with worker
processes of its own, exactly as the local executor does with all of them: results are the same.
Every task is started every time: the rows know what is done, and no other list could know what is
new in them.

Slurm gets a job array of as many tasks, which runs after this process has ended; Ray a cluster that
`ray.init` finds. The work and media folders have to be on a file system that all machines see.
"""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ..optional import need
from .run import run
from .step import Step
from .work import Work

ROOT = Path(__file__).resolve().parents[2]


def execute(
    args: Namespace, work: Work, steps: Sequence[Step], after: str | None = None
) -> str | None:
    """Runs the steps as the options say, and prints what was done.

    Returns None where they have ended; of Slurm the job, which has only been submitted and begins
    when the job `after` has ended. Raises what `run` raises; ValueError for options that do not go
    together or where there are no segments to run over; ModuleNotFoundError where the engine is
    missing.
    """
    if steps[0].kind == "segments":
        work.need_segments()
    if args.executor == "local":
        if args.tasks != 1:
            raise ValueError(f"--tasks {args.tasks} needs --executor datatrove, slurm or ray")
        try:
            report = run(work, steps, workers=args.workers, limit=args.time_limit, retry=args.retry)
        except KeyboardInterrupt:
            sys.exit("stopped: the same command goes on where it was")
        print(report.summary())
        return None
    need("datatrove")
    from .tasks import ShardTask

    task = ShardTask(work, steps, args.workers, args.time_limit, args.retry)
    stamps = [[step.name, step.stamp()] for step in steps]
    digest = hashlib.sha256(json.dumps(stamps, sort_keys=True).encode()).hexdigest()
    return _submit(args, task, _logs(work, f"{task.name}-{digest[:12]}"), after)


def mark(args: Namespace, work: Work, after: str | None = None) -> None:
    """Marks the duplicates among the files: when Slurm's job `after` has ended, else now."""
    from .duplicates import mark_duplicates

    if after is None:
        print(f"{mark_duplicates(work)} files show what another shows")
        return
    from .tasks import MarkTask

    memory = args.workers * args.task_memory  # of one process, which holds all files
    changed = {"tasks": 1, "workers": 1, "task_memory": memory, "task_gpus": 0}
    alone = Namespace(**{**vars(args), **changed})
    _submit(alone, MarkTask(work), _logs(work, "duplicates"), after)


def _submit(args: Namespace, task, logs: str, after: str | None) -> str | None:
    """Hands the task to the engine; see `execute`."""
    engine = pipeline(args, task, logs, after)
    engine.run()
    job = getattr(engine, "job_id", None)  # only Slurm's returns before the work is done
    if job is not None:
        print(
            f"job {job} of Slurm does {task.name}: squeue shows it, "
            f"`data status --work {task.folder}` how far it is"
        )
    return job


def _logs(work: Work, name: str) -> str:
    """Where an engine keeps what its tasks print."""
    return str(work.folder.absolute() / "tasks" / name)


def pipeline(args: Namespace, task, logs: str, after: str | None = None):
    """An executor of datatrove with one step, our task; Slurm's waits for the job `after`."""
    common = {
        "pipeline": [task],
        "tasks": args.tasks,
        "workers": args.at_once,
        "logging_dir": logs,
        "skip_completed": False,
    }
    if args.executor == "datatrove":
        from datatrove.executor import LocalPipelineExecutor

        return LocalPipelineExecutor(**common, start_method="spawn")
    if args.executor == "ray":
        need("ray")
        from datatrove.executor.ray import RayPipelineExecutor

        return RayPipelineExecutor(
            **common,
            cpus_per_task=args.workers,
            mem_per_cpu_gb=args.task_memory,
            gpus_per_task=args.task_gpus,
        )
    from datatrove.executor import SlurmPipelineExecutor

    if not args.partition:
        raise ValueError("--executor slurm needs --partition, as sinfo lists them")
    return SlurmPipelineExecutor(
        **common,
        time=args.task_time,
        partition=args.partition,
        cpus_per_task=args.workers,
        mem_per_cpu_gb=args.task_memory,
        gpus_per_task=args.task_gpus,
        job_name=f"data-{task.name}",
        depends_job_id=after,
        run_on_dependency_fail=True,  # a task that failed leaves the rows of the others to do
        env_command=f"export PYTHONPATH={ROOT}:$PYTHONPATH",
    )
