"""Flow matching as in the paper (section 3): x_t = t * data + (1 - t) * noise, v = data - noise.

t runs from 0 (noise) to 1 (data). Samplers that count noise down use sigma = 1 - t.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .frames import replace_frames


def interpolate(data: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
    """x_t on the straight line from noise (t = 0) to data (t = 1); t_B is one t per sample."""
    t = t_B.view(-1, *[1] * (data.ndim - 1)).to(data.dtype)
    return torch.lerp(noise, data, t)


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """The velocity d x_t / d t, the same at every t."""
    return data - noise


def flow_loss(velocity: Tensor, target: Tensor, frame_mask: Tensor | None = None) -> Tensor:
    """(B,) mean squared error of (B, C, T, H, W) velocities over the frames that are generated.

    frame_mask: (B, T), true where a frame was given clean; those carry no loss (paper section
    3.2: a loss on the first frame hurts). A sample whose frames are all given has loss 0.
    """
    dtype = torch.promote_types(velocity.dtype, torch.float32)
    error_BT = (velocity.to(dtype) - target.to(dtype)).square().mean(dim=(1, 3, 4))
    if frame_mask is None:
        return error_BT.mean(1)
    generated = (~frame_mask.bool()).to(error_BT.dtype)
    return (error_BT * generated).sum(1) / generated.sum(1).clamp(min=1)


def sample_timesteps(
    batch: int,
    *,
    distribution: Literal["uniform", "logit_normal"] = "uniform",
    shift: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """(batch,) training times in (0, 1).

    `shift` > 1 moves them towards noise as larger inputs need (see `shift_time`).
    Raises ValueError for an unknown distribution.
    """
    if distribution == "uniform":
        t = torch.rand(batch, generator=generator, device=device)
    elif distribution == "logit_normal":
        t = torch.randn(batch, generator=generator, device=device).sigmoid()
    else:
        raise ValueError(
            f"timestep distribution is {distribution!r}: expected 'uniform' or 'logit_normal'"
        )
    return shift_time(t, shift)


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Time whose sigma = 1 - t is shifted as samplers do: s * sigma / (1 + (s - 1) * sigma)."""
    sigma = 1 - t
    return 1 - shift * sigma / (1 + (shift - 1) * sigma)


def euler_sample(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    steps: int,
    *,
    shift: float = 1.0,
    clean: Tensor | None = None,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """Data from noise (B, C, T, H, W) by Euler steps; given frames come back exactly.

    velocity(x, t_B) -> v is the (guided) model. clean: latents whose frames marked in
    frame_mask (B, T) are given; they stay on their own noise's path for the solver, and the
    caller's `velocity` decides who sees them clean (see `guidance`).
    """
    times = shift_time(torch.linspace(0, 1, steps + 1, device=noise.device), shift)
    x = noise
    for now, later in pairwise(times):
        v = velocity(x, now.expand(len(x)))
        if clean is not None and frame_mask is not None:
            v = replace_frames(v, clean - noise, frame_mask)
        x = x + (later - now).to(x.dtype) * v
    if clean is not None and frame_mask is not None:
        x = replace_frames(x, clean, frame_mask)
    return x
