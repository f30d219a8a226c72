"""STIV checkpoints under the names of PixArt-alpha and Open-Sora 1.0: for their own tools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..card import Card
from ..config import STIVConfig
from ..rope import sincos_1d, sincos_2d
from ..tensor_file import LazyTensors, described
from .names import Layout, foreign_tensors
from .recognise import PATCH
from .weights import Weights


def export_tensors(weights: Weights, layout: Layout) -> LazyTensors:
    """The tensors of a baseline network under the names of the original release or of diffusers.

    The variance that the releases predict was left out on import: its rows are zero, which is the
    middle of its range. Raises ValueError, naming the switch, for a network that is neither
    PixArt-alpha's nor STDiT's, and for another text width or prediction.
    """
    config = weights.card.config
    _require_baseline(weights.card)
    table = foreign_tensors(
        config.depth,
        layout,
        is_video=config.temporal_attention,
        has_null_text=bool(config.null_text_tokens),
    )
    known = described(weights.diffusion_model)
    places = {part: (name, i, len(parts)) for name, parts in table.items()
              for i, part in enumerate(parts)}  # fmt: skip
    wanted = {}
    for part, (name, _, count) in places.items():
        tensor = known[name]
        shape = _released_shape(name, tuple(tensor.shape), config)
        wanted[part] = torch.empty(
            (shape[0] // count, *shape[1:]), dtype=tensor.dtype, device="meta"
        )
    positions = _positions(weights.card) if layout == "original" else {}
    wanted |= {name: table.to("meta") for name, table in positions.items()}

    def make(part: str) -> Tensor:
        if part in positions:
            return positions[part]
        name, i, count = places[part]
        tensor = weights.diffusion_model[name]
        if name == "patch_embed.weight":
            tensor = tensor.reshape(_released_shape(name, tuple(tensor.shape), config))
        elif name.startswith("final.linear."):
            pixels = tensor.unflatten(0, (PATCH**2, -1))
            tensor = torch.cat([pixels, torch.zeros_like(pixels)], dim=1).flatten(0, 1)
        return tensor.chunk(count)[i].contiguous()

    return LazyTensors(wanted, make)


def _require_baseline(card: Card) -> None:
    config = card.config
    wanted = replace(
        config,
        patch=PATCH, temporal_patch=1, pooled_width=0, qk_norm=False, sandwich_norm=False,
        condition_norm=False, shared_adaln=True, position="sincos", micro_conditions=False,
        temporal_causal=False, mask_decoder_blocks=0, image_cross_attention=False,
        temporal_gate="spatial" if config.temporal_attention else "none",
    )  # fmt: skip
    for name, value in wanted.to_dict().items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name} is {getattr(config, name)!r}, in PixArt-alpha and Open-Sora 1.0 it is "
                f"{value!r}: only a model with their switches can go back to their names"
            )
    if card.prediction != "epsilon":
        raise ValueError(
            "the model predicts velocities, PixArt-alpha and Open-Sora 1.0 predict noise: their "
            "pipelines would sample it wrongly"
        )


def _released_shape(name: str, shape: tuple[int, ...], config: STIVConfig) -> tuple[int, ...]:
    if name == "patch_embed.weight":
        time = (1,) if config.temporal_attention else ()
        return (shape[0], config.latent_channels, *time, config.patch, config.patch)
    return (2 * shape[0], *shape[1:]) if name.startswith("final.linear.") else shape


def _positions(card: Card) -> dict[str, Tensor]:
    """The tables of the original layout, which tell the trained size."""
    config, task = card.config, card.tasks[0]
    side = task["height"][1] // card.latents["downscale"] // config.patch
    place = (torch.device("cpu"), torch.float32)
    base = config.sincos_base
    space = sincos_2d(side, side, config.width, config.space_scale, base, 1e4, *place)
    tables = {"pos_embed": space[None]}
    if config.temporal_attention:
        frames = task["frames"][1]
        tables["pos_embed_temporal"] = sincos_1d(
            frames, config.width, config.time_scale, 1e4, *place
        )[None]
    return tables


def diffusers_config(card: Card) -> dict[str, Any]:
    """The config.json with which diffusers builds the same PixArt transformer."""
    config = card.config
    side = card.tasks[0]["height"][1] // card.latents["downscale"]
    return {
        "_class_name": "PixArtTransformer2DModel",
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.latent_channels,
        "out_channels": 2 * config.latent_channels,
        "num_layers": config.depth,
        "cross_attention_dim": config.width,
        "sample_size": side,
        "patch_size": config.patch,
        "caption_channels": config.text_width,
        "interpolation_scale": 1.0 / config.space_scale,
        "use_additional_conditions": False,
    }
