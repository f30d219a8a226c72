"""Segments of a long video on the host: made once, kept in the store, found again.

Values on the wires are handles, never tensors: the host's cache of a video of thousands of frames
then holds a few numbers for each segment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.utils
import folder_paths
import latent_preview
import node_helpers
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...stiv.frames import GivenFrame, GivenFrames, canvas_size
from ...stiv.plan import Plan, Segment
from ...stiv.store import SegmentStore
from ...stiv.store_entries import check_key
from ...stiv.timeline import Block, Stretch, blocks, given_sources, stretches
from ..frames import STIVEmptyLatent, STIVFrameReplacement, fit_to_canvas
from .fingerprint import (
    Fingerprint,
    conditioning_fingerprint,
    fingerprint,
    model_fingerprint,
    vae_fingerprint,
)
from .replacement import FRAMES, CleanFrames

VERSION = 1
"""Of what a segment's key stands for; raised when the same settings give another result."""
LIMIT_VARIABLE, LIMIT_GB = "STIV_STORE_GB", 20.0
_GRACE_SECONDS = 24 * 3600.0  # longer than a video takes: it loses nothing before it is joined
_ARTIST = -1


@dataclass(frozen=True, eq=False)
class LongVideo:
    """The value of STIV_PLAN: the plan, and the frames that the artist gives on its timeline."""

    plan: Plan
    given: GivenFrames

    @cached_property
    def frames(self) -> dict[int, GivenFrame]:
        """The artist's frames by timeline position."""
        return {frame.position: frame for frame in self.given.resolve(self.plan.span)}

    def frame(self, position: int) -> GivenFrame:
        """The artist's frame at a timeline position. Raises ValueError where none is given."""
        if position not in self.frames:
            raise ValueError(
                f"the plan has no given frame at {position}: connect the plan that this was made "
                "from, or use STIV Long Video"
            )
        return self.frames[position]

    @cached_property
    def identity(self) -> str:
        """Tells it from every other one: a hash, the same after a restart."""
        given = [(place, frame.kind, frame.frame) for place, frame in self.frames.items()]
        return fingerprint((self.plan.to_json(), given)).digest

    @cached_property
    def blocks(self) -> list[Block]:
        """How the work is divided; every block asks."""
        return blocks(self.plan)

    @cached_property
    def stretches(self) -> list[Stretch]:
        """In which pieces the video is written."""
        return stretches(self.plan)


@dataclass(frozen=True)
class Settings:
    """How every segment is sampled."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a segment is made with."""

    settings: Settings
    model: Any
    positive: Any
    negative: Any
    vae: Any
    video: LongVideo | None = None
    """For the artist's frames; None where a task takes none."""


@dataclass(frozen=True)
class Prints:
    """Fingerprints of what many segments are made with: taking them goes through whole models."""

    model: Fingerprint
    vae: Fingerprint

    @classmethod
    def of(cls, model: Any, vae: Any) -> Prints:
        return cls(model_fingerprint(model), vae_fingerprint(vae))


@dataclass(frozen=True)
class Task:
    """What one segment is made of: plain numbers, so that it travels as a widget value."""

    name: str
    count: int
    width: int
    """Pixels of the video, as the height; what is made is its `canvas_size`."""
    height: int
    seed: int
    given: tuple[tuple[int, int, int], ...]
    """(index in the segment, slot, where): slot counts the earlier segments that are connected and
    `where` is an index in that one; slot -1 is the artist, `where` then a timeline position."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Raises ValueError for anything that `to_json` does not write."""
        try:
            values = json.loads(text)
            given = tuple(tuple(map(_integer, item)) for item in values.pop("given"))
            numbers = {name: _integer(values.pop(name)) for name in _NUMBERS}
            task = cls(name=str(values.pop("name")), given=given, **numbers)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"a segment's task is not understood: {error!r}") from None
        if values or any(len(item) != 3 for item in given):
            raise ValueError("a segment's task holds more than it should: make it from a plan")
        if not (1 <= task.count <= 4096 and min(task.width, task.height) >= 16):
            raise ValueError(f"a segment's task of {task.count} frames: expected 1 to 4096")
        if max(task.width, task.height) > 16384 or not 0 <= task.seed < 2**64:
            raise ValueError("a segment's task is out of range: make it from a plan")
        return task


_NUMBERS = ("count", "width", "height", "seed")


@dataclass(frozen=True)
class SegmentHandle:
    """The value of STIV_SEGMENT: where a finished segment lies in the store."""

    name: str
    key: str
    seconds: float
    """How long it took to make, whenever that was."""
    made_in: str
    """The run that made it; empty when the store had it."""
    note: str = ""
    """Why fewer were made in one pass than the artist allowed, or ""."""

    def latents(self, store: SegmentStore) -> Tensor:
        """(C, T, h, w). Raises ValueError when the store has lost it."""
        tensors = store.get(self.key)
        if tensors is None:
            store.note_removal()
            raise ValueError(
                f"STIV Long Video: segment {self.name} is no longer in the store {store.folder} "
                "(removed, or damaged): press Run again and it is made anew"
            )
        return tensors["latents"]


def known_to_json(handles: Mapping[int, SegmentHandle]) -> str:
    """Handles by slot as a widget value: what they are, not when they were made."""
    return json.dumps({slot: [handle.name, handle.key] for slot, handle in handles.items()})


def known_from_json(text: str) -> dict[int, SegmentHandle]:
    """Raises ValueError for anything that `known_to_json` does not write."""
    try:
        found = {}
        for slot, (name, key) in json.loads(text).items():
            check_key(key)
            found[int(slot)] = SegmentHandle(str(name), key, 0.0, "")
        return found
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"segments made before are not understood: {error!r}") from None


def segment_store() -> SegmentStore:
    """The store of this ComfyUI: in its user folder, of `STIV_STORE_GB` gigabytes (20).

    Raises ValueError for a limit that is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text) if text else LIMIT_GB
    except ValueError:
        limit = -1.0
    if not 0 < limit < 1e9:
        raise ValueError(
            f"the environment variable {LIMIT_VARIABLE} is {text!r}: expected gigabytes, like 20"
        )
    folder = Path(folder_paths.get_user_directory()) / "stiv" / "segments"
    return _store(folder, int(limit * 1e9), _GRACE_SECONDS)


_store = lru_cache(maxsize=4)(SegmentStore)  # it counts what it holds, now and then


def task_of(plan: Plan, segment: Segment) -> tuple[Task, list[int]]:
    """A segment as a task, and the indices of the segments that its slots stand for."""
    sources = given_sources(plan, segment)
    slots = sorted({source.segment for _, source in sources} - {None})
    given = tuple(
        (index, _ARTIST if source.segment is None else slots.index(source.segment), source.index)
        for index, source in sources
    )
    task = Task(segment.name, segment.count, plan.width, plan.height, segment.seed, given)
    return task, slots


def takes_artists_frames(task: Task) -> bool:
    """Whether the artist's frames are needed to make it."""
    return any(slot == _ARTIST for _, slot, _ in task.given)


def segment_key(
    task: Task, recipe: Recipe, earlier: Sequence[str], known: Prints
) -> tuple[str, str]:
    """What decides a segment's latents, as a key; and why it will not do after a restart, or "".

    earlier: the keys of the segments in the task's slots. known: of the recipe's model and VAE.
    The name is left out: a segment of another plan with the same content is the same.
    """
    video = recipe.video
    artists = [
        video.frame(where).frame for _, slot, where in task.given if slot == _ARTIST and video
    ]
    prints = [known.model]
    prints += [conditioning_fingerprint(cond) for cond in (recipe.positive, recipe.negative)]
    prints += [known.vae, fingerprint(artists)]
    numbers = {**asdict(task), "name": "", **asdict(recipe.settings)}
    digest = fingerprint((VERSION, numbers, [p.digest for p in prints], list(earlier))).digest
    return digest, "; ".join(p.reason for p in prints if not p.lasting)


def given_to(task: Task, video: LongVideo | None, latents: Mapping[int, Tensor]) -> GivenFrames:
    """STIV_FRAMES of one segment. latents: (C, T, h, w) of the earlier segments, by slot."""
    given = GivenFrames()
    for index, slot, where in task.given:
        if slot == _ARTIST:
            frame = video.frame(where)
            given = given.place(as_given(frame, task.width, task.height), str(index), frame.kind)
        else:
            given = given.place(latents[slot][:, where : where + 1], str(index), "latent")
    return given


def as_given(frame: GivenFrame, width: int, height: int) -> Tensor:
    """The artist's frame as a segment of a video of this size takes it: a latent (C, 1, h, w) as
    it is, a picture (1, H, W, 3) on the canvas."""
    if frame.kind == "latent":
        return frame.frame.unsqueeze(1)
    return fit_to_canvas(frame.frame[..., :3], width, height).unsqueeze(0)


def sample_segments(
    tasks: Sequence[Task], recipe: Recipe, given: Sequence[GivenFrames]
) -> list[Tensor]:
    """Latents (C, T, h, w) of some segments, made in one pass.

    Each is what the nodes make that an artist would wire for it, but for rounding; of one segment,
    to the last bit. The tasks differ in seed and in what is given, not in size or given indices.
    Raises ValueError naming the segment when the model makes NaN or infinity.
    """
    latents, frames = [], []
    for task, its_given in zip(tasks, given, strict=True):
        size = canvas_size(task.width, task.height)
        (latent,) = STIVEmptyLatent.execute(*size, task.count, 1).result
        positive, negative, latent = STIVFrameReplacement.execute(
            recipe.positive, recipe.negative, recipe.vae, latent, its_given
        ).result
        ratio = latent.get("downscale_ratio_spacial")
        z = comfy.sample.fix_empty_latent_channels(recipe.model, latent["samples"], ratio)
        latents.append(z)
        frames += [positive[0][1][FRAMES]] if FRAMES in positive[0][1] else []
    if frames:
        together = {FRAMES: CleanFrames.batch(frames)}
        positive = node_helpers.conditioning_set_values(recipe.positive, together)
    noise = [
        comfy.sample.prepare_noise(z, task.seed) for z, task in zip(latents, tasks, strict=True)
    ]
    settings = recipe.settings
    samples = comfy.sample.sample(
        recipe.model, torch.cat(noise), settings.steps, settings.cfg, settings.sampler_name,
        settings.scheduler, positive, negative,
        # Of kept frames on the CPU, of pictures where the VAE put them.
        torch.cat([z.to(latents[0].device) for z in latents]), seed=tasks[0].seed,
        callback=latent_preview.prepare_callback(recipe.model, settings.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
    )  # fmt: skip
    for task, made in zip(tasks, samples, strict=True):
        _check_finite(task, recipe, made)
    return list(samples)


def _check_finite(task: Task, recipe: Recipe, samples: Tensor) -> None:
    if not torch.isfinite(samples).all():
        bad = torch.isfinite(samples).movedim(1, 0).flatten(1).all(1).logical_not().nonzero()
        dtype = str(recipe.model.model.get_dtype()).removeprefix("torch.")
        raise ValueError(
            f"STIV Long Video: segment {task.name} has NaN or infinity in frame {int(bad[0])} "
            f"after {recipe.settings.steps} steps in {dtype}: use another weight_dtype (bf16, or "
            "fp32 to be sure) or a lower cfg; the segments made so far are kept"
        )


@dataclass(frozen=True)
class Job:
    """A segment to find in the store, or to make."""

    task: Task
    earlier: Sequence[SegmentHandle]
    """By the task's slots."""
    key: str
    unsure: str
    """Why the key will not do after a restart, or ""."""


def job_of(task: Task, recipe: Recipe, earlier: Sequence[SegmentHandle], known: Prints) -> Job:
    """Raises ValueError where something is missing that the task needs."""
    if not {slot for _, slot, _ in task.given} <= set(range(_ARTIST, len(earlier))):
        raise ValueError(f"segment {task.name} needs earlier segments that are not connected")
    if takes_artists_frames(task) and recipe.video is None:
        raise ValueError(f"segment {task.name} needs given frames, but no plan is connected")
    keys = [handle.key for handle in earlier]
    return Job(task, earlier, *segment_key(task, recipe, keys, known))


def make_jobs(jobs: Sequence[Job], recipe: Recipe) -> list[SegmentHandle]:
    """Make segments in one pass, and put each of them into the store."""
    store, begun = segment_store(), time.monotonic()
    given = []
    for job in jobs:
        slots = {slot for _, slot, _ in job.task.given if slot != _ARTIST}
        latents = {slot: job.earlier[slot].latents(store) for slot in slots}
        given.append(given_to(job.task, recipe.video, latents))
    made = sample_segments([job.task for job in jobs], recipe, given)
    seconds = (time.monotonic() - begun) / len(jobs)
    for job, samples in zip(jobs, made, strict=True):
        info = {"name": job.task.name, "seconds": seconds, "steps": recipe.settings.steps}
        store.put(job.key, {"latents": samples.contiguous()}, info | {"unsure": job.unsure})
    return [SegmentHandle(job.task.name, job.key, seconds, _this_run()) for job in jobs]


def make_segment(task: Task, recipe: Recipe, earlier: Sequence[SegmentHandle]) -> SegmentHandle:
    """The segment from the store, or made and put there."""
    known, store = Prints.of(recipe.model, recipe.vae), segment_store()
    job = job_of(task, recipe, earlier, known)
    if store.get(job.key) is not None:  # read, not only there: a damaged one is made again
        info = store.info(job.key) or {}
        return SegmentHandle(task.name, job.key, float(info.get("seconds", 0)), "")
    (handle,) = make_jobs([job], recipe)
    return handle


def chain(handle: Any) -> Iterator[Any]:
    """A linked list of handles from its end to its beginning."""
    while handle is not None:
        yield handle
        handle = handle.before


def _this_run() -> str:
    context = get_executing_context()
    return "" if context is None else context.prompt_id


def _integer(value: object) -> int:
    if type(value) is not int or abs(value) >= 2**64:
        raise ValueError(f"{value!r} is no whole number")
    return value
