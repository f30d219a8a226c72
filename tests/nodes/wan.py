"""A tiny Wan with random weights: one of the host's own video models, without a card of ours."""

from __future__ import annotations

from typing import Any

import comfy.ldm.wan.vae
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from comfy.supported_models import WAN21_I2V, WAN21_T2V

TEXT_WIDTH = 16


def build(seed: int = 0, image_to_video: bool = False) -> Any:
    """The MODEL; its latents are (B, 16, T, h, w)."""
    kind, channels = (WAN21_I2V, 36) if image_to_video else (WAN21_T2V, 16)
    config = kind({
        "image_model": "wan2.1", "model_type": "i2v" if image_to_video else "t2v", "dim": 24,
        "ffn_dim": 32, "num_heads": 2, "num_layers": 2, "freq_dim": 16, "text_dim": TEXT_WIDTH,
        "in_dim": channels, "out_dim": 16, "patch_size": (1, 2, 2),
    })  # fmt: skip
    return patcher(config, seed)


def patcher(config: Any, seed: int) -> Any:
    """The MODEL of one of the host's configs, with random weights everywhere."""
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    _randomise(model, seed)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, device, torch.device("cpu"))


def vae(seed: int = 0) -> Any:
    """The VAE: 4 k + 1 frames are k + 1 latents, of 8 by 8 pixels each."""
    model = comfy.ldm.wan.vae.WanVAE(dim=4, z_dim=16, temperal_downsample=[False, True, True])
    _randomise(model, seed)
    return comfy.sd.VAE(sd=model.state_dict())


def text(seed: int) -> list:
    """A CONDITIONING for it."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 5, TEXT_WIDTH, generator=generator), {}]]


def latent() -> dict[str, Any]:
    return {"samples": torch.zeros(1, 16, 2, 4, 4)}


def _randomise(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
