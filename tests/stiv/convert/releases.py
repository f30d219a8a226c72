"""Ancestors' weights as they are released, in miniature, with random numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "data" / "stdit_golden.safetensors"
"""A random STDiT of Open-Sora's tag v1.0.0 (width 24, 2 blocks, 2 heads, latents 3 x 6 x 6,
5 tokens of width 12, space_scale 0.5, time_scale 2/3; every parameter drawn with deviation 0.3),
stored in float32 under `model.`; two inputs; and what the reference gave for them in float64, its
softmax and position tables in float64 too: `output` for the prompts, `null_output` for its own
null embedding under the prompts' mask, as its sampler calls it."""


def stdit() -> dict[str, Tensor]:
    """Its tensors, as in a released file."""
    return {k.removeprefix("model."): v for k, v in golden().items() if k.startswith("model.")}


def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def pixart(
    size: int = 256, width: int = 32, depth: int = 2, text: int = 12, tokens: int = 6
) -> dict[str, Tensor]:
    """A PixArt-alpha's tensors under the original names, with the positions of `size` pixels."""
    from stiv.rope import sincos_2d

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    side = size // 16
    place = (torch.device("cpu"), torch.float32)
    state = {
        "pos_embed": sincos_2d(side, side, width, 1.0, 0, 1e4, *place)[None].clone(),
        "x_embedder.proj.weight": draw(width, 4, 2, 2),
        "y_embedder.y_embedding": draw(tokens, text),
        "final_layer.scale_shift_table": draw(2, width),
    }
    layers = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "y_embedder.y_proj.fc1": (width, text),
        "y_embedder.y_proj.fc2": (width, width),
        "t_block.1": (6 * width, width),
        "final_layer.linear": (32, width),
    }
    for i in range(depth):
        state[f"blocks.{i}.scale_shift_table"] = draw(6, width)
        layers |= {
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.cross_attn.q_linear": (width, width),
            f"blocks.{i}.cross_attn.kv_linear": (2 * width, width),
            f"blocks.{i}.cross_attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (4 * width, width),
            f"blocks.{i}.mlp.fc2": (width, 4 * width),
        }
    state["x_embedder.proj.bias"] = draw(width)
    for name, shape in layers.items():
        # numbers of ordinary size, whatever the width
        state[f"{name}.weight"] = 5 * draw(*shape) / shape[1] ** 0.5
        state[f"{name}.bias"] = draw(shape[0])
    return state
