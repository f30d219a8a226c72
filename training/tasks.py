"""What is drawn at random for one sample: its task, its dropouts, its noise and its time.

Everything comes from (seed, step, position in the global batch), so a batch gives the same loss
on one process or many, at once or accumulated, and a resumed run repeats nothing and skips nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiv.flow import sample_timesteps
from stiv.frames import TASKS, frame_mask, task_positions

from .masking import draw_kept_tokens

TASK_NAMES = (*TASKS, "random")
"""Conditioning tasks that a recipe can draw; random: any frames, each as likely as not."""


@dataclass(frozen=True)
class Draws:
    """Shares and chances of the draws; see the recipe's keys of the same names."""

    tasks: dict[str, float]
    """Task name to its share, summing to 1."""
    text_dropout: float = 0.1
    image_dropout: float = 0.08
    timesteps: str = "uniform"
    shift: float = 1.0
    mask_ratio: float = 0.0


@dataclass(frozen=True)
class Drawn:
    """The draws of one sample."""

    caption: str
    frame_mask: Tensor
    """(T,) bool, the frames given clean."""
    is_blank: bool
    """Given frames are shown as zeros: a multi-view input that is dropped (paper, multi-view)."""
    noise: Tensor
    """(C, T, H, W)."""
    t: Tensor
    """() in (0, 1)."""
    keep: Tensor | None
    """(K,) spatial tokens that masking leaves, in order."""


def draw(
    draws: Draws,
    seed: int,
    step: int,
    position: int,
    *,
    shape: tuple[int, int, int, int],
    captions: tuple[str, ...],
    tokens: int,
) -> Drawn:
    """The draws of the sample at a position of a step's global batch.

    shape: (C, T, H, W) of its latents; captions: its variants; tokens: spatial tokens per frame.
    """
    rng = np.random.default_rng([seed, step, position])
    caption = captions[rng.integers(len(captions))] if captions else ""
    drops_text, drops_image = rng.random() < draws.text_dropout, rng.random() < draws.image_dropout
    task = _draw_task(draws.tasks, rng)
    given = _given_frames(task, shape[1], rng)
    is_blank = bool(drops_image and task == "multi_view")
    if drops_image and not is_blank:
        given = []
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    t = sample_timesteps(1, distribution=draws.timesteps, shift=draws.shift, generator=generator)
    keep = draw_kept_tokens([rng], tokens, draws.mask_ratio)
    return Drawn(
        caption="" if drops_text else caption,
        frame_mask=frame_mask(given, shape[1]),
        is_blank=is_blank,
        noise=torch.randn(shape, generator=generator),
        t=t[0],
        keep=None if keep is None else keep[0],
    )


def check_tasks(tasks: dict[str, float], frames: int, where: str) -> None:
    """Raises ValueError, naming the task, for one that gives every frame of a clip of `frames`
    latent frames: it would have no loss. where: the clips, in words."""
    fixed = [task for task, share in tasks.items() if share and task != "random"]
    for task in fixed if frames > 1 else ():
        if len(task_positions(task, frames)) == frames:
            raise ValueError(
                f"{where}: task {task} gives all {frames} frames of a clip, so nothing is left to "
                "learn: make clips longer, or give their stream other `tasks`"
            )


def _draw_task(shares: dict[str, float], rng: np.random.Generator) -> str:
    edges = np.cumsum(list(shares.values()))
    index = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
    return list(shares)[min(index, len(shares) - 1)]


def _given_frames(task: str, frames: int, rng: np.random.Generator) -> list[int]:
    if frames == 1:  # an image: nothing is left to generate once it is given
        return []
    if task != "random":
        return task_positions(task, frames)
    chosen = np.flatnonzero(rng.random(frames) < 0.5)
    return [] if len(chosen) == frames else chosen.tolist()
