"""A small checkpoint and LoRAs for it: by closed form, from PEFT, and of ancestors."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from stiv.card import Card
from stiv.config import STIVConfig
from stiv.convert.lora.merge import model_shapes
from stiv.convert.lora.reading import Scaling, understand
from stiv.convert.weights import Weights
from stiv.model import STIVTransformer
from stiv.public import LATENT_SPACES

CONFIG = STIVConfig(
    width=24, depth=2, heads=3, text_width=16, pooled_width=16, mask_decoder_blocks=1
)
QKV = "blocks.0.spatial_attn.qkv"
TARGETS = ["qkv", "kv", "fc1", "patch_embed"]


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> STIVTransformer:
    """Random weights everywhere."""
    model, generator = STIVTransformer(CONFIG, dtype=dtype), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.requires_grad_(False)


def checkpoint(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    text = {"encoder": "custom", "width": 16, "pooled_width": 16, "max_tokens": 8}
    card = Card(config=CONFIG, latents=dict(LATENT_SPACES["sd"]), text=text)
    return Weights(card, network(seed, dtype).state_dict())


def written(path: Path, **settings) -> Weights:
    """A checkpoint's file, as it is read."""
    checkpoint(**settings).write(path)
    return Weights.read(path)


def with_peft(model: STIVTransformer, seed: int = 1, **settings):
    """The model with PEFT's layers, all of their tensors random."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, **settings})
    wrapped, generator = get_peft_model(model, config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator) * 0.2
                parameter.copy_(parameter.abs() + noise.abs() if "magnitude" in name else noise)
    return wrapped


def changes(
    tensors: dict[str, Tensor], base: dict[str, Tensor], alpha: float | None = None
) -> dict[str, Tensor]:
    """What a LoRA file's tensors add to every tensor of `base`, in float64."""
    lora = understand(tensors, model_shapes(base), Scaling(alpha))
    assert not lora.left_out
    added = {}
    for name in lora.shapes:
        added[name] = torch.zeros_like(base[name], dtype=torch.float64)
        lora.apply(name, added[name])
    return added


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a: Tensor, b: Tensor, limit: float = 1e-6) -> bool:
    return float((a.double() - b.double()).norm()) <= limit * float(b.double().norm())
