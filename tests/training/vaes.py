"""Small image VAEs with random weights."""

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


def diffusers_vae(
    widths: tuple[int, ...] = (32, 32, 32, 32), channels: int = 4, quant: bool = True
):
    """A randomly initialised AutoencoderKL of diffusers, small by default."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    levels = len(widths)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=list(widths),
        layers_per_block=1,
        latent_channels=channels,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    ).eval()
