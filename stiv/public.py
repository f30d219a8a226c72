"""What cards call by a public name: latent spaces, text encoders, the usual diffusion."""

from __future__ import annotations

from typing import Any

LATENT_SPACES: dict[str, dict[str, Any]] = {
    "sd": {"name": "sd", "channels": 4, "scale": 0.18215, "shift": 0.0, "downscale": 8},
    "sdxl": {"name": "sdxl", "channels": 4, "scale": 0.13025, "shift": 0.0, "downscale": 8},
    "sd3": {"name": "sd3", "channels": 16, "scale": 1.5305, "shift": 0.0609, "downscale": 8},
    "flux": {"name": "flux", "channels": 16, "scale": 0.3611, "shift": 0.1159, "downscale": 8},
}
"""Public latent spaces. The model sees (vae_latent - shift) * scale; `downscale` is pixels per
latent pixel. A space of other numbers is "custom": the same keys, and scale and shift may then be
one per channel."""

TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "clip_g": {"encoder": "clip_g", "width": 1280, "pooled_width": 1280, "max_tokens": 77},
    "t5xxl": {"encoder": "t5xxl", "width": 4096, "pooled_width": 0, "max_tokens": 256},
}
"""Public text encoders. Others are "nano" (ours, inside the file) and "custom" (any of the
right widths)."""

EPSILON: dict[str, Any] = {"shift": 1.0, "prediction": "epsilon", "betas": [0.0001, 0.02]}
"""`stiv.sampling` of a network that predicts the noise of a diffusion process in 1000 steps whose
variances grow linearly between `betas` (PixArt-alpha, Open-Sora 1.0). A network without
`prediction` predicts the velocity of the paper's flow."""
