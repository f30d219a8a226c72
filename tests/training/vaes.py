"""A small image VAE with random weights."""

from __future__ import annotations

import torch

from training.encoders.taesd import TinyVAE, encoder_hash
from training.encoders.vae import FrameVAE


def make_vae(seed: int = 0, width: int | tuple[int, int, int, int] = 8) -> FrameVAE:
    """One block deep, of 4 channels; other seeds give other weights."""
    torch.manual_seed(seed)
    network = TinyVAE(width, 4, 1)
    space = {"name": "custom", "channels": 4, "scale": 1.0, "shift": 0.0, "downscale": 8}
    return FrameVAE(network, space, encoder_hash(network), frames_at_once=4)
