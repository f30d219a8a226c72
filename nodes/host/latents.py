"""Latent spaces as ComfyUI sees them, from the model card.

The model works on (vae_latent - shift) * scale; LATENT wires carry what the VAE gives.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy import latent_formats
from torch import Tensor

# The host's own classes bring the colours of the previews.
_HOST_SPACES = {
    "sd": latent_formats.SD15,
    "sdxl": latent_formats.SDXL,
    "sd3": latent_formats.SD3,
    "flux": latent_formats.Flux,
}


class VideoLatents(latent_formats.LatentFormat):
    """Video latents (B, C, T, H, W) of a per-frame VAE, described by `stiv.latents` of a card."""

    latent_dimensions = 3
    # The host's tiny decoders for previews take pictures only and would stop the sampling.
    taesd_decoder_name = None

    def __init__(self, latents: dict[str, Any]):
        self.name = latents["name"]
        self.latent_channels = latents["channels"]
        self.spacial_downscale_ratio = latents["downscale"]
        self.scale_factor, self.shift_factor = latents["scale"], latents["shift"]
        if self.name in _HOST_SPACES:
            space = _HOST_SPACES[self.name]()
            self.latent_rgb_factors = space.latent_rgb_factors
            self.latent_rgb_factors_bias = space.latent_rgb_factors_bias
        else:
            self.latent_rgb_factors = _plain_colours(self.latent_channels)
        # A given first frame would make a preview that never moves: show the middle one.
        self.latent_rgb_factors_reshape = lambda x: x[:, :, x.shape[2] // 2]

    def process_in(self, latent: Tensor) -> Tensor:
        """VAE latents to the model's."""
        return (latent - _like(self.shift_factor, latent)) * _like(self.scale_factor, latent)

    def process_out(self, latent: Tensor) -> Tensor:
        """The model's latents to the VAE's."""
        return latent / _like(self.scale_factor, latent) + _like(self.shift_factor, latent)


def _like(value: float | list[float], latent: Tensor) -> float | Tensor:
    """A factor, or one per channel shaped to multiply `latent` (B, C, ...)."""
    if not isinstance(value, list | tuple):
        return value
    factors = torch.tensor(value, device=latent.device, dtype=latent.dtype)
    return factors.view(-1, *[1] * (latent.ndim - 2))


def _plain_colours(channels: int) -> list[list[float]]:
    """Unknown channels: the first three shown as red, green and blue."""
    return [[0.4 * (i == colour) for colour in range(3)] for i in range(channels)]
