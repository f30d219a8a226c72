"""Several runs at once: what a comparison would train and look at in turn, ahead of it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .command import needed_sets, scored
from .runs import Planner, Run, order, prepare_set, train

log = logging.getLogger(__name__)

_stopped = threading.Event()
"""Set where a signal ended a job of this process: it is to begin no other, and the pool cannot take
back those that it has handed out already."""


@dataclass(frozen=True)
class Job:
    """A run and all that looks at it."""

    run: Run
    looks: tuple[tuple[Planner, str], ...]
    """(comparison, arm) whose scores are of this run."""


def work_ahead(
    planners: Sequence[Planner],
    *,
    workers: int,
    threads: int = 1,
    only: Sequence[str] | None = None,
) -> bool:
    """Train and look at what comparisons ask for, `workers` runs at a time, each in a process of
    its own with so many CPU threads; all on the first GPU, where there is one.

    Everything lands in the cache, where the comparisons then find it: the tables are the same as
    without. False where a run was stopped. An error of one run is raised after the runs in hand.
    """
    jobs = jobs_of(planners, only)
    log.info("%d runs, %d at a time", len(jobs), workers)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_prepare,
        initargs=(threads, log.getEffectiveLevel()),
    ) as pool:
        _all(pool, [partial(prepare_set, cache, found) for cache, found in _sets(planners, only)])
        return all(_all(pool, [partial(carry_out_job, job) for job in jobs]))


def jobs_of(planners: Sequence[Planner], only: Sequence[str] | None = None) -> list[Job]:
    """Every run once: seed by seed, so that what is done early compares all arms; of a seed first
    those that start from nothing, so that nobody waits for them long."""
    runs: dict[Path, Run] = {}
    looks: dict[Path, list[tuple[Planner, str]]] = {}
    for planner in planners:
        comparison = planner.comparison
        for seed in comparison.seeds:
            for arm in comparison.arms:
                if only and arm not in only:
                    continue
                wanted = planner.run(arm, seed)
                # Of a checkpoint that is there, every arm and seed is a job of its own.
                key = wanted.folder if wanted.config else Path(comparison.title) / arm / str(seed)
                for run in order([wanted]):
                    place = key if run is wanted else run.folder
                    runs.setdefault(place, run)
                looks.setdefault(key, []).append((planner, arm))
    jobs = [Job(run, tuple(looks.get(key, ()))) for key, run in runs.items()]
    return sorted(jobs, key=lambda job: (job.run.seed, bool(job.run.parents)))


def carry_out_job(job: Job) -> bool:
    """Train a run, after those that it starts from, and look at it; False where it was stopped, or
    a job of this process was before."""
    if _stopped.is_set():
        return False
    try:
        for run in order([job.run]):
            if run.config and run.facts is None and not train(run):
                _stopped.set()
                return False
        for planner, arm in job.looks:
            scored(planner, arm, job.run)
    except KeyboardInterrupt:
        _stopped.set()
        raise
    return True


def _sets(planners: Sequence[Planner], only: Sequence[str] | None) -> list[tuple]:
    found = {}
    for planner in planners:
        comparison = planner.comparison
        wanted = [planner.run(a, s) for a in comparison.arms for s in comparison.seeds]
        if all(run.facts is not None for run in order(wanted)):
            continue
        for section in needed_sets(comparison, only):
            found[planner.cache, section.model_dump_json()] = (planner.cache, section)
    return list(found.values())


def _all(pool: ProcessPoolExecutor, calls: Sequence[partial]) -> list:
    """What the calls return, as they end; on an error those that have not begun are dropped."""
    futures: list[Future] = [pool.submit(call) for call in calls]
    try:
        return [future.result() for future in as_completed(futures)]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _prepare(threads: int, level: int) -> None:
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    logging.basicConfig(level=level, format="%(asctime)s %(process)d %(message)s")


def _end_with_parent() -> None:
    """Without its parent nobody could stop a worker: it saves its run and ends."""
    multiprocessing.parent_process().join()
    while True:  # the first one is the trainer's, which saves
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
