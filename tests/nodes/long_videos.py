"""Plans, and their segments made without a server."""

from __future__ import annotations

from typing import Any

import torch
from ComfyUI_STIV.nodes.host import segments
from ComfyUI_STIV.stiv.plan import Segment
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded

SETTINGS = segments.Settings(3, 3.0, "euler", "simple")
SIZE = {"width": 64, "height": 64, "fps": 8.0}


def plan_of(kind: str = "LongVideo", **inputs: Any) -> segments.LongVideo:
    defaults: dict[str, Any] = {"prompts": "a red circle", "seed": 4, **SIZE}
    defaults |= {
        "LongVideo": {"key_frames": 3, "stride": 3, "closing": False, "window": 4, "carry": 1},
        "Prediction": {"frames": 10, "window": 4, "carry": 2},
    }[kind]
    plan, _ = tiny.run(f"STIV{kind}Plan", **(defaults | inputs))
    return plan


def recipe_of(
    loaded: Loaded,
    video: segments.LongVideo,
    segment: Segment,
    settings: segments.Settings = SETTINGS,
) -> segments.Recipe:
    positive = loaded.text(segment.prompt, stride=segment.step)
    negative = loaded.text("", stride=segment.step)
    return segments.Recipe(settings, loaded.model, positive, negative, loaded.vae, video)


def make_all(
    loaded: Loaded, video: segments.LongVideo, settings: segments.Settings = SETTINGS
) -> list[segments.SegmentHandle]:
    handles: list[segments.SegmentHandle] = []
    for segment in video.plan.segments:
        task, slots = segments.task_of(video.plan, segment)
        again = segments.Task.from_json(task.to_json())
        assert again == task
        recipe = recipe_of(loaded, video, segment, settings)
        handles.append(segments.make_segment(task, recipe, [handles[slot] for slot in slots]))
    return handles


def sampled(loaded: Loaded, parts: tuple) -> Tensor:
    """What an artist wires after STIV Segment."""
    latent, given, prompt, seed, stride = parts[:5]
    positive, negative, latent = tiny.run(
        "STIVFrameReplacement", positive=loaded.text(prompt, stride=stride),
        negative=loaded.text("", stride=stride), vae=loaded.vae, latent=latent, stiv_frames=given,
    )  # fmt: skip
    return tiny.sample(loaded.model, positive, negative, latent, seed=seed, steps=3)


def latents(handle: segments.SegmentHandle) -> Tensor:
    return handle.latents(segments.segment_store())


def picture(value: float, count: int = 1) -> Tensor:
    return torch.full((count, 64, 64, 3), value)


def clip_of(count: int, width: int, height: int) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(6))
