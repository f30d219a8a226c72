"""Sampling on the training side: the same flow and guidance as in the nodes, without a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stiv.flow import euler_sample
from stiv.frames import replace_frames
from stiv.guidance import joint_guidance

from .cache import Codec
from .networks import Networks
from .vae import vae_from_state


@dataclass(frozen=True)
class Sampler:
    """Clips from prompts and given frames, by joint guidance (JIT-CFG, section 3.3)."""

    networks: Networks
    codec: Codec
    shape: tuple[int, int, int, int]
    """(C, T, H, W) of the latents."""
    steps: int = 20
    guidance_scale: float = 4.0
    shift: float = 1.0

    @classmethod
    def from_checkpoint(
        cls, path: Path, *, dtype: torch.dtype = torch.float32, **settings
    ) -> Sampler:
        """A sampler at the size and length that an all-in-one checkpoint was trained for.

        dtype: in which the networks compute.
        """
        networks, card, state = Networks.from_checkpoint(path)
        networks.to(dtype)
        vae = vae_from_state(state, card.training.get("vae"))
        codec = Codec(vae, card.latents["shift"], card.latents["scale"])
        task = max(card.tasks, key=lambda task: task["frames"][1])
        down = card.latents["downscale"]
        shape = (
            card.latents["channels"],
            task["frames"][1],
            task["height"][1] // down,
            task["width"][1] // down,
        )
        return cls(networks, codec, shape, shift=card.sampling["shift"], **settings)

    def clips(
        self, prompts: Sequence[str], clean: Tensor | None, frame_mask: Tensor | None, seed: int
    ) -> np.ndarray:
        """uint8 (B, T, 8 H, 8 W, 3): `latents` decoded."""
        return self.codec.decode(self.latents(prompts, clean, frame_mask, seed))

    @torch.inference_mode()
    def latents(
        self,
        prompts: Sequence[str],
        clean: Tensor | None = None,
        frame_mask: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Model latents (B, C, T, H, W) for B prompts.

        clean (B, C, T, H, W) and frame_mask (B, T): frames that are given; they come back exactly.
        The unconditional pass sees them noised like every other frame.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((len(prompts), *self.shape), generator=generator)
        texts = [""] * len(prompts) + list(prompts)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            given = x if clean is None else replace_frames(x, clean, frame_mask)
            both = self.networks.velocity(torch.cat([x, given]), torch.cat([t, t]), texts)
            return joint_guidance(*both.chunk(2), self.guidance_scale)

        return euler_sample(
            velocity, noise, self.steps, shift=self.shift, clean=clean, frame_mask=frame_mask
        )
