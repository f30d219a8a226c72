"""The loss on held-out clips, at fixed times and with fixed noise: comparable over a run.

The training loss moves with the times and tasks that happen to be drawn; this one only with the
model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from stiv.flow import flow_loss, interpolate, velocity_target
from stiv.frames import frame_mask, replace_frames, task_positions

STILL = "t2i"
"""Under what name images are counted: every task gives them no frame."""


class Sample(Protocol):
    """What is needed of a sample; `velocity` gets it back and may read more."""

    latents: Tensor | np.ndarray
    """(C, T, h, w) as the model sees them (normalised)."""
    key: str
    """Unique in the data set: its noise follows from it."""


S = TypeVar("S", bound=Sample)


@torch.no_grad()
def held_out_loss(
    velocity: Callable[[Tensor, Tensor, Sequence[S]], Tensor],
    samples: Sequence[S],
    *,
    tasks: Sequence[str],
    times: Sequence[float],
    seed: int,
    batch: int = 8,
) -> dict[str, float]:
    """Mean flow loss over the samples for every task and time, as `<task>@<time>` (section 3).

    velocity(x (b, C, T, h, w), t (b,), samples) -> (b, C, T, h, w); x is noised and has the
    task's frames replaced by clean ones, which carry no loss. The model is the caller's: its
    weights, mode and device. `tasks`: names of `stiv.frames.TASKS`, or "random" (each frame
    given or not by a coin, drawn once per sample); images count as "t2i" and a task that would
    give all frames of a clip is left out. `times` are in [0, 1], 1 = data. Noise and coins are a
    function of (seed, sample key), so neither order nor `batch` changes a sample's loss.

    Raises ValueError for no samples, no tasks or times, a time outside [0, 1], an unknown task.
    """
    if not samples or not tasks or not times:
        raise ValueError("held-out loss needs at least one sample, one task and one time")
    for t in times:
        if not 0 <= t <= 1:
            raise ValueError(f"held-out time is {t}: expected 0 (noise) to 1 (data)")
    losses: dict[str, list[float]] = {}
    for chosen in _batches(samples, batch):
        data = torch.stack([torch.as_tensor(sample.latents) for sample in chosen]).float()
        noise, coins = _draws(chosen, seed)
        noise = noise.to(data)
        for task in (STILL,) if data.shape[2] == 1 else tasks:
            mask = _masks(task, coins).to(data.device)
            if mask.all():
                continue
            for time in times:
                t = data.new_full((len(data),), time)
                x = replace_frames(interpolate(data, noise, t), data, mask)
                error = flow_loss(velocity(x, t, chosen), velocity_target(data, noise), mask)
                losses.setdefault(f"{task}@{time:g}", []).extend(error.tolist())
    return {name: sum(values) / len(values) for name, values in losses.items()}


def _batches(samples: Sequence[S], size: int) -> Iterator[list[S]]:
    """Samples of one shape together, in their order."""
    by_shape: dict[tuple[int, ...], list[S]] = {}
    for sample in samples:
        by_shape.setdefault(tuple(sample.latents.shape), []).append(sample)
    for alike in by_shape.values():
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _draws(samples: Sequence[Sample], seed: int) -> tuple[Tensor, Tensor]:
    """Noise (b, C, T, h, w) and coins (b, T), drawn on the CPU: the same on every device."""
    noise, coins = [], []
    for sample in samples:
        digest = hashlib.sha256(f"{seed}:{sample.key}".encode(errors="surrogatepass")).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        noise.append(torch.randn(sample.latents.shape, generator=generator))
        coins.append(torch.rand(sample.latents.shape[1], generator=generator))
    return torch.stack(noise), torch.stack(coins)


def _masks(task: str, coins_BT: Tensor) -> Tensor:
    """(b, T) bool, true at the frames that the task gives."""
    B, T = coins_BT.shape
    if task == "random":
        mask = coins_BT < 0.5
        return mask & ~mask.all(dim=1, keepdim=True)  # all given: none, as in training
    return frame_mask(task_positions(task, T), T).expand(B, T)
