"""Several segments of a long video in one pass of the model, ahead of their turn.

They go into the store under the keys that they have when each is made alone, so that all else is
as ever: what is missing when its turn comes is made then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import comfy.model_management

from ...stiv.frames import canvas_size
from .segments import (
    Job,
    Prints,
    Recipe,
    SegmentHandle,
    Task,
    job_of,
    make_jobs,
    make_segment,
    segment_store,
)

DETERMINISTIC = (
    "euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis",
    "res_multistep", "gradient_estimation", "ddim", "uni_pc", "uni_pc_bh2",
)  # fmt: skip
"""Samplers under which a video does not depend on the others in its batch: they draw no noise on
the way, and take no step whose size all of them decide together."""


@dataclass(frozen=True)
class Ahead:
    """The value of STIV_AHEAD: what was made before its turn, and why it is not more."""

    made: tuple[SegmentHandle, ...] = ()
    note: str = ""
    """As `SegmentHandle.note`."""


def tasks_to_text(tasks: Sequence[Task]) -> str:
    """Tasks as a widget value, one a line."""
    return "\n".join(task.to_json() for task in tasks)


def tasks_from_text(text: str) -> list[Task]:
    """Raises ValueError for anything else, and for tasks that do not go into one pass."""
    tasks = [Task.from_json(line) for line in text.split("\n")]
    if len({(t.count, t.width, t.height, *(index for index, *_ in t.given)) for t in tasks}) > 1:
        raise ValueError("segments to be made together differ in size or in what is given")
    return tasks


def make_together(tasks: Sequence[Task], recipe: Recipe, earlier: Sequence[SegmentHandle]) -> Ahead:
    """Those of the segments that the store lacks, in as few passes as there is memory for.

    earlier: of all tasks one after another, each by its slots. Raises ValueError where one is
    missing.
    """
    store, jobs = segment_store(), {}
    known = Prints.of(recipe.model, recipe.vae)
    for task, own in _shared_out(tasks, earlier):
        job = job_of(task, recipe, own, known)
        if store.get(job.key) is None:
            jobs[job.key] = job
    missing = list(jobs.values())
    if len(missing) < 2:
        return Ahead()  # alone, it comes out to the last bit as ever
    number, note = _in_one_pass(tasks[0], recipe, len(missing))
    made: list[SegmentHandle] = []
    for jobs_of_pass in _passes(missing, number) if number > 1 else ():
        try:
            handles = make_jobs(jobs_of_pass, recipe)
        except comfy.model_management.OOM_EXCEPTION:
            note = f"one by one, as the memory was not enough for {len(jobs_of_pass)} at once"
            break  # each is made in its turn
        made += [replace(handle, note=note) for handle in handles]
    return Ahead(tuple(made), note)


def make_in_turn(
    task: Task, recipe: Recipe, earlier: Sequence[SegmentHandle], ahead: Ahead
) -> SegmentHandle:
    """A segment that was made ahead, or else from the store, or made now."""
    handle = make_segment(task, recipe, earlier)
    if handle.made_in:
        return replace(handle, note=ahead.note)
    as_made = {(made.name, made.key): made for made in ahead.made}
    return as_made.get((handle.name, handle.key), handle)


def _shared_out(
    tasks: Sequence[Task], earlier: Sequence[SegmentHandle]
) -> Iterator[tuple[Task, Sequence[SegmentHandle]]]:
    for task in tasks:
        count = 1 + max((slot for _, slot, _ in task.given), default=-1)
        yield task, earlier[:count]
        earlier = earlier[count:]


def _passes(jobs: Sequence[Job], number: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), number):
        yield jobs[start : start + number]


def _in_one_pass(task: Task, recipe: Recipe, wanted: int) -> tuple[int, str]:
    """How many segments go into a pass, and why it is not as many as wanted, or ""."""
    sampler = recipe.settings.sampler_name
    if sampler not in DETERMINISTIC:
        return 1, f"made one by one: at once only with {', '.join(DETERMINISTIC)}, not {sampler}"
    number = _fitting(task, recipe, wanted)
    few = f"{number} segments at once instead of {wanted}: there is no memory free for more"
    return number, "" if number == wanted else few


def _fitting(task: Task, recipe: Recipe, wanted: int) -> int:
    """How many of the wanted segments there is memory for, by the host's own estimate; at least
    1. Other models that the host would put away for it count as there to stay."""
    model = recipe.model
    free = comfy.model_management.get_free_memory(model.load_device)
    free -= model.model_size() - model.loaded_size()
    width, height = canvas_size(task.width, task.height)
    shape = [recipe.vae.latent_channels, task.count, height // 8, width // 8]
    numbers = range(wanted, 1, -1)
    return next((n for n in numbers if model.model.memory_required([2 * n, *shape]) <= free), 1)
