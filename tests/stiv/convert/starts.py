"""Small networks for the tests of starts, and what a step promises as inputs to try it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stiv.config import STIVConfig
from stiv.convert.initialise import Step
from stiv.model import STIVTransformer
from tests.models import random_model

STIV = STIVConfig(
    width=16, depth=2, heads=2, text_width=6, pooled_width=5, mask_decoder_blocks=1
)  # fmt: skip
IMAGE = replace(STIV, temporal_patch=1, temporal_attention=False)
PIXART = replace(
    IMAGE,
    pooled_width=0,
    null_text_tokens=3,
    qk_norm=False,
    sandwich_norm=False,
    condition_norm=False,
    position="sincos",
    sincos_base=4,
    micro_conditions=False,
    mask_decoder_blocks=0,
)
STDIT = replace(PIXART, temporal_attention=True, temporal_gate="spatial", sincos_base=0)


def trained(config: STIVConfig, seed: int = 0, std: float = 0.2) -> dict[str, Tensor]:
    """Tensors in float64, every one of them with an influence."""
    return dict(random_model(config, seed=seed, std=std, dtype=torch.float64).state_dict())


def outputs(tensors: Mapping[str, Tensor], config: STIVConfig, inputs: Mapping[str, Any]) -> Tensor:
    """What a network gives, in the tensors' dtype; the tensors have to fit it exactly."""
    model = STIVTransformer(config, dtype=tensors["patch_embed.weight"].dtype)
    model.load_state_dict(dict(tensors))
    with torch.inference_mode():
        return model(**inputs)


def inputs_for(config: STIVConfig, exact: str = "", seed: int = 1) -> dict[str, Any]:
    """Random inputs of the kind that a step is exact for."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    latents = noise(2, config.latent_channels, 4, 6, 8)
    if exact.startswith(("pictures", "first")):
        latents = latents[:, :, :1].expand(-1, -1, 4, -1, -1)
    elif exact.startswith("clips"):
        latents = latents[:, :, : config.temporal_patch]
    inputs = {
        "x_BCTHW": latents,
        "t_B": torch.tensor([0.2, 0.7], dtype=torch.float64),
        "text_BLD": noise(2, 3, config.text_width),
    }
    if config.micro_conditions:
        inputs["micro"] = torch.tensor([[64.0, 48, 0, 8, 3, 4]]).expand(2, -1)
    if config.pooled_width and "pooled" not in exact:
        inputs["pooled"] = noise(2, config.pooled_width)
    if config.image_cross_attention and "an image" not in exact:
        inputs["image"] = noise(2, config.latent_channels, 6, 8)
    if exact.endswith("others are zero"):
        for name in {"x_BCTHW", "image"} & set(inputs):
            inputs[name][:, int(exact.split()[2]) :] = 0
    return inputs


def inputs_after(step: Step, before: STIVConfig, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same inputs for the network that a step leaves: what is new there may be anything."""
    config, new = step.after, dict(inputs)
    own = inputs_for(config, step.exact, seed=2)
    shared = min(before.latent_channels, config.latent_channels)
    if before.latent_channels != config.latent_channels:
        latents = own["x_BCTHW"].clone()
        latents[:, :shared] = inputs["x_BCTHW"][:, :shared]
        new["x_BCTHW"] = latents
        if "image" in own:
            new["image"] = own["image"].clone()
            new["image"][:, :shared] = inputs["image"][:, :shared]
    for name in ("pooled", "micro", "image"):
        if name not in inputs and name in own:
            new[name] = own[name]
    return new
