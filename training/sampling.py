"""Sampling on the training side: the same flow and guidance as in the nodes, without a host."""

from __future__ import annotations

import torch
from torch import Tensor

from stiv.flow import euler_sample
from stiv.frames import replace_frames
from stiv.guidance import joint_guidance

from .loop import Networks


@torch.inference_mode()
def sample(
    networks: Networks,
    prompts: list[str],
    shape: tuple[int, int, int, int],
    *,
    clean: Tensor | None = None,
    frame_mask: Tensor | None = None,
    steps: int = 30,
    guidance_scale: float = 4.0,
    seed: int = 0,
) -> Tensor:
    """Normalised latents (B, C, T, H, W) for prompts, by joint guidance (JIT-CFG, section 3.3).

    shape: (C, T, H, W). clean (B, C, T, H, W) and frame_mask (B, T): frames that are given; they
    come back exactly. The unconditional pass sees them noised like every other frame.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(prompts), *shape), generator=generator)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        given = x if clean is None else replace_frames(x, clean, frame_mask)
        both = networks.velocity(
            torch.cat([x, given]), torch.cat([t, t]), [""] * len(prompts) + prompts
        )
        return joint_guidance(*both.chunk(2), guidance_scale)

    return euler_sample(velocity, noise, steps, clean=clean, frame_mask=frame_mask)
