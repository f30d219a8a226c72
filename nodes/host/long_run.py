"""Before and after a long video: what would be made, what it costs, and how it came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import folder_paths
from comfy_execution.utils import get_executing_context

from ...stiv.frames import GivenFrames, canvas_size
from ...stiv.plan import Plan, Segment
from ...stiv.plan_view import plan_view
from ...stiv.seams import seam_report, to_text
from ...stiv.store import StoreError, as_text
from ...stiv.timeline import seams
from ..text import STIVTextEncode
from .disk import check_disk
from .model import require_stiv
from .panel import seams_to_json, source_prompt, tell_run
from .segments import (
    LongVideo,
    Prints,
    Recipe,
    SegmentHandle,
    Settings,
    Task,
    sample_segments,
    segment_key,
    segment_store,
    task_of,
)
from .stretches import FilmHandle, bytes_of, film_bytes, statistics, unfinished_folder
from .vae import check_vae

_NODE = "STIV Long Video"
_LISTED = 40  # segments named one by one
_FEW_TEXTS = 16  # prompts that are quickly encoded once more, to know beforehand what is kept


@dataclass(frozen=True)
class Cost:
    """What making some segments takes."""

    memory: int
    """Bytes for the model and a step, by the host's own estimate."""
    disk: int
    """Bytes in the store."""
    seconds: float | None = None
    """Not counting the VAE; None where nothing was timed."""


def check(
    video: LongVideo, model: Any, clip: Any, vae: Any, negative: str, settings: Settings
) -> None:
    """Raise, before the work starts, for whatever would stop it in the middle.

    ValueError for the wrong model, text encoder, VAE or given latents, and for a list of inputs;
    OSError where a disk is full or cannot be written.
    """
    require_stiv(model, _NODE)
    check_vae(vae, _NODE)
    if clip is None:
        raise ValueError(f"{_NODE}: there is no CLIP: connect the model's text encoder")
    context = get_executing_context()
    if context is not None and context.list_index:
        raise ValueError(f"{_NODE} makes one video: give it one model, plan, and so on, no list")
    _check_latents(video, vae)
    films = (unfinished_folder(), Path(folder_paths.get_temp_directory()))
    check_disk(dict.fromkeys(films, film_bytes(video.plan)), "the video")
    store = segment_store()
    store.check_writable()
    needed = _bytes(video.plan.segments, video.plan, vae) + bytes_of(video.plan)
    try:
        store.check_room(needed)
    except StoreError:  # much of it may be there already
        _, missing, _ = _keys(video, model, clip, vae, negative, settings)
        left = _bytes(missing, video.plan, vae) + bytes_of(video.plan)
        store.check_room(left, needed - left)


def _check_latents(video: LongVideo, vae: Any) -> None:
    wanted = (vae.latent_channels, *_latent_size(video.plan))
    for position, frame in video.frames.items():
        found = tuple(frame.frame.shape)
        if frame.kind == "latent" and found != wanted:
            raise ValueError(
                f"{_NODE}: the latent given at frame {position} has the shape {found} (channels, "
                f"height, width), the plan and the VAE need {wanted}: give the plan the latent's "
                "size, or encode it with this VAE"
            )


def _keys(
    video: LongVideo, model: Any, clip: Any, vae: Any, negative: str, settings: Settings
) -> tuple[list[str], list[Segment], str]:
    """Keys of all segments, those that the store lacks, and why a key does not last, or ""."""
    plan, store = video.plan, segment_store()
    conds = _encoder(clip, negative)
    keys: list[str] = []
    missing, unsure = [], set()
    known = Prints.of(model, vae)
    for segment in plan.segments:
        task, slots = task_of(plan, segment)
        earlier = [keys[slot] for slot in slots]
        recipe = Recipe(settings, model, *conds(segment), vae, video)
        key, why = segment_key(task, recipe, earlier, known)
        keys.append(key)
        unsure |= {why} - {""}
        if not store.has(key):
            missing.append(segment)
    return keys, missing, "; ".join(sorted(unsure))


def _encoder(clip: Any, negative: str) -> Callable[[Segment], tuple[Any, Any]]:
    encoded: dict[tuple[str, int], Any] = {}

    def conds(segment: Segment) -> tuple[Any, Any]:
        for text in (segment.prompt, negative):
            if (text, segment.step) not in encoded:
                (cond,) = STIVTextEncode.execute(clip, text, stride=segment.step).result
                encoded[text, segment.step] = cond
        return encoded[segment.prompt, segment.step], encoded[negative, segment.step]

    return conds


def announce(
    video: LongVideo, model: Any, clip: Any, vae: Any, negative: str, settings: Settings
) -> None:
    """Let the store keep what it has of the video, and tell the plan panel what a run begins with.

    Which segments there are is left open where looking would take a while: with many prompts. Then
    a full store may remove some before the run comes to them.
    """
    plan = video.plan
    kept, missing = None, plan.segments
    if len({(segment.prompt, segment.step) for segment in plan.segments}) <= _FEW_TEXTS:
        keys, missing, _ = _keys(video, model, clip, vae, negative, settings)
        # A full store would make room for the first new segments by removing the next old ones.
        segment_store().keep(keys)
        kept = _others(plan, missing)
    tell_run("start", lambda: _outlook(plan, kept, _cost(missing, plan, model, vae)))


def dry_run(
    video: LongVideo, model: Any, clip: Any, vae: Any, negative: str, settings: Settings
) -> str:
    """What a run would make and cost: the plan, segments to make, time, memory and disk."""
    plan = video.plan
    keys, missing, unsure = _keys(video, model, clip, vae, negative, settings)
    passes = 1 if settings.cfg == 1.0 else 2
    lines = [plan.describe(settings.steps, passes)]
    lines.append(f"in the store: {len(keys) - len(missing)} of {len(keys)} segments")
    cost = _cost(missing, plan, model, vae)
    if missing:
        lines.append("to make: " + _names(missing))
        count = max(segment.count for segment in missing)
        step = _seconds_of_a_step(
            count, plan, model, vae, settings, _encoder(clip, negative)(missing[0])
        )
        frames = sum(segment.count for segment in missing)
        cost = replace(cost, seconds=step * settings.steps * frames / count)
        lines += [
            f"about {_duration(cost.seconds)} (one step of {count} frames took {step:.3g} s), not "
            "counting the VAE",
            f"about {as_text(cost.memory)} of memory for the model and a step, "
            f"{as_text(cost.disk)} on disk",
        ]
    if unsure:
        lines.append(f"not for after a restart: {unsure}")
    tell_run("check", lambda: _outlook(plan, _others(plan, missing), cost))
    return "\n".join(lines)


def _outlook(plan: Plan, kept: list[str] | None, cost: Cost) -> dict[str, Any]:
    return {
        "plan": plan_view(plan),
        "prompt": source_prompt(),
        "kept": kept,
        "memory": cost.memory,
        "disk": cost.disk,
        "seconds": cost.seconds,
    }


def _others(plan: Plan, missing: Sequence[Segment]) -> list[str]:
    names = {segment.name for segment in missing}
    return [segment.name for segment in plan.segments if segment.name not in names]


def report(plan: Plan, handles: Sequence[SegmentHandle], film: FilmHandle) -> str:
    """What was made, and how the seams came out."""
    context = get_executing_context()
    run = "" if context is None else context.prompt_id
    made = [handle for handle in handles if handle.made_in and handle.made_in == run]
    seconds = sum(handle.seconds for handle in made)
    lines = [
        plan.describe(),
        f"made now: {len(made)} of {len(handles)} segments in {seconds:.1f} s",
    ]
    lines += sorted({handle.note for handle in made} - {""})
    numbers = statistics(film)
    found = [] if numbers is None else seam_report(numbers, seams(plan))
    if numbers is not None:
        lines.append(to_text(found))
    told = {"made": [handle.name for handle in made], "seconds": seconds}
    tell_run("end", lambda: told | {"seams": seams_to_json(found)})
    return "\n".join(lines)


def _bytes(segments: Sequence[Segment], plan: Plan, vae: Any) -> int:
    """Of the latents of some segments, in float32."""
    frames = sum(segment.count for segment in segments)
    return frames * vae.latent_channels * prod(_latent_size(plan)) * 4


def _latent_size(plan: Plan) -> tuple[int, int]:
    """(h, w) of the latents."""
    width, height = canvas_size(plan.width, plan.height)
    return height // 8, width // 8


def _names(segments: list[Segment]) -> str:
    names = ", ".join(segment.name for segment in segments[:_LISTED])
    more = len(segments) - _LISTED
    return names + (f" and {more:,} more" if more > 0 else "")


def _cost(missing: Sequence[Segment], plan: Plan, model: Any, vae: Any) -> Cost:
    count = max((segment.count for segment in missing), default=1)
    shape = [2, vae.latent_channels, count, *_latent_size(plan)]
    memory = model.model_size() + model.model.memory_required(shape)
    return Cost(int(memory), _bytes(missing, plan, vae) + bytes_of(plan))


def _seconds_of_a_step(
    count: int, plan: Plan, model: Any, vae: Any, settings: Settings, conds: tuple[Any, Any]
) -> float:
    """Of a step that is really made."""
    task = Task("of the measurement", count, plan.width, plan.height, 0, ())
    recipe = Recipe(replace(settings, steps=1), model, *conds, vae)
    for _ in range(2):  # the first also loads the model
        begun = time.monotonic()
        sample_segments([task], recipe, [GivenFrames()])
        step = time.monotonic() - begun
    return step


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
