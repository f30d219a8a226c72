"""The conditioning tasks as masks drawn per sample: one model learns them all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiv.frames import frame_mask, task_positions


def draw_frame_masks(
    shares: dict[str, float],
    batch: int,
    frames: int,
    rng: np.random.Generator,
    *,
    image_dropout: float = 0.0,
) -> Tensor:
    """(batch, frames) bool: the frames given clean to each sample.

    shares: task name to its share, summing to 1. image_dropout: probability that a sample loses
    its given frames (paper: 0.08), which is what the unconditional pass of guidance sees.
    """
    names = list(shares)
    drawn = rng.choice(len(names), size=batch, p=np.array([shares[name] for name in names]))
    dropped = rng.random(batch) < image_dropout
    positions = {name: task_positions(name, frames) for name in names}
    return torch.stack(
        [
            frame_mask([] if drop else positions[names[task]], frames)
            for task, drop in zip(drawn, dropped, strict=True)
        ]
    )


def drop_texts(captions: list[str], probability: float, rng: np.random.Generator) -> list[str]:
    """Captions with some replaced by the empty prompt (paper: 0.1)."""
    dropped = rng.random(len(captions)) < probability
    return ["" if drop else text for text, drop in zip(captions, dropped, strict=True)]
