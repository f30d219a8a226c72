"""Who runs the shards: this process, or an engine for clusters (datatrove).

Steps do not know. With an engine a task takes every n-th shard and works on it with worker
processes of its own, exactly as the local executor does with all of them: results are the same. A
task that was finished is not started again, and one that was stopped goes on where it was.

Slurm gets a job array of as many tasks; Ray a cluster that `ray.init` finds. The work and media
folders have to be on a file system that all machines see.
"""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from .run import run
from .step import Step
from .work import Work

ROOT = Path(__file__).resolve().parents[2]


def execute(args: Namespace, work: Work, steps: Sequence[Step]) -> None:
    """Runs the steps as the options say, and prints what was done.

    Raises what `run` raises; ValueError for options that do not go together; ModuleNotFoundError
    where the engine is missing.
    """
    if args.executor == "local":
        if args.tasks != 1:
            raise ValueError(f"--tasks {args.tasks} needs --executor datatrove, slurm or ray")
        try:
            report = run(work, steps, workers=args.workers, limit=args.time_limit, retry=args.retry)
        except KeyboardInterrupt:
            sys.exit("stopped: the same command goes on where it was")
        print(report.summary())
        return
    from .tasks import ShardTask

    shards = work.shards(steps[0].kind)
    task = ShardTask(work, steps, args.workers, args.time_limit, args.retry)
    pipeline(args, task, _logs(work, steps, [shard.name for shard in shards])).run()


def _logs(work: Work, steps: Sequence[Step], shards: Sequence[str]) -> str:
    """Where an engine notes which tasks are finished: another place for other work."""
    stamps = [[step.name, step.stamp()] for step in steps]
    digest = hashlib.sha256(json.dumps([stamps, shards], sort_keys=True).encode()).hexdigest()
    names = "-".join(step.name for step in steps)[:80]
    return str(work.folder.absolute() / "tasks" / f"{names}-{digest[:12]}")


def pipeline(args: Namespace, task, logs: str):
    """An executor of datatrove with one step, our task."""
    from ..optional import need

    need("datatrove")
    common = {"pipeline": [task], "tasks": args.tasks, "workers": args.at_once, "logging_dir": logs}
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
        job_name=f"data-{task.steps[0].name}",
        env_command=f"export PYTHONPATH={ROOT}:$PYTHONPATH",
    )
