"""A tiny Wan with random weights: one of the host's own video models, without a card of ours."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.supported_models import WAN21_T2V

TEXT_WIDTH = 16


def build(seed: int = 0) -> Any:
    """The MODEL; its latents are (B, 16, T, h, w)."""
    config = WAN21_T2V({
        "image_model": "wan2.1", "model_type": "t2v", "dim": 24, "ffn_dim": 32, "num_heads": 2,
        "num_layers": 2, "freq_dim": 16, "text_dim": TEXT_WIDTH, "in_dim": 16, "out_dim": 16,
        "patch_size": (1, 2, 2),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, device, torch.device("cpu"))


def text(seed: int) -> list:
    """A CONDITIONING for it."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 5, TEXT_WIDTH, generator=generator), {}]]


def latent() -> dict[str, Any]:
    return {"samples": torch.zeros(1, 16, 2, 4, 4)}
