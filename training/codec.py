"""Clips to a model's latents and back, with a VAE as it lies in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiv.public import LATENT_SPACES

from .encoders.vae import FrameVAE, open_vae


@dataclass(frozen=True)
class SpaceCodec:
    """A VAE and the latent space of a model: model latent = (VAE latent - shift) * scale.

    latents: as in a checkpoint's card; shift and scale are one number, or one per channel.
    """

    vae: FrameVAE
    latents: Mapping[str, Any]

    def encode(self, clips: np.ndarray) -> Tensor:
        """uint8 (B, T, 8H, 8W, 3) to normalised float32 latents (B, C, T, H, W)."""
        return (self.vae.encode(clips) - self._factor("shift")) * self._factor("scale")

    def decode(self, latents: Tensor) -> np.ndarray:
        """Normalised latents to uint8 clips."""
        raw = latents.float().cpu() / self._factor("scale") + self._factor("shift")
        return self.vae.decode(raw).numpy()

    def _factor(self, name: str) -> Tensor:
        return torch.tensor(self.latents[name], dtype=torch.float32).reshape(-1, 1, 1, 1)


def open_codec(
    path: Path, latents: Mapping[str, Any], device: torch.device | str = "cpu"
) -> SpaceCodec:
    """The codec of a VAE's file (or a file that holds one) for a model's latent space.

    Raises ValueError for a VAE of another number of channels.
    """
    known = latents["name"] in LATENT_SPACES
    vae = open_vae(path, latents=latents["name"] if known else None, device=device)
    if vae.latents["channels"] != latents["channels"]:
        raise ValueError(
            f"{path}: its latents have {vae.latents['channels']} channels, the model's "
            f"{latents['channels']}: give the VAE that the model was trained with"
        )
    return SpaceCodec(vae, latents)
