"""Parameters and FLOPs of every size, computed on the meta device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from stiv import MODELS, STIVConfig, STIVTransformer

# latent frames, height and width: 20 x 256^2 and 20 x 512^2 px, nano at what it was trained for
SHAPES = {"nano": [(16, 8, 8)], "xl": [(20, 32, 32), (20, 64, 64)]}
SHAPES["xxl"] = SHAPES["m"] = SHAPES["xl"]


def flops(config: STIVConfig, shape: tuple[int, int, int], tokens: int = 77) -> int:
    """FLOPs of one forward pass of one sample (a multiply-add is two)."""
    model = STIVTransformer(config, device="meta").requires_grad_(False)
    x = torch.empty(1, config.latent_channels, *shape, device="meta")
    text = torch.empty(1, tokens, config.text_width, device="meta")
    pooled = torch.empty(1, config.pooled_width, device="meta")
    micro = torch.empty(1, 6, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(x, torch.empty(1, device="meta"), text, pooled=pooled, micro=micro)
    return counter.get_total_flops()


def run() -> Iterator[dict]:
    """One row per size and shape."""
    for name, config in MODELS.items():
        model = STIVTransformer(config, device="meta")
        parameters = sum(p.numel() for p in model.parameters())
        for shape in SHAPES[name]:
            yield {
                "model": name,
                "parameters": parameters,
                "frames": shape[0],
                "pixels": [8 * side for side in shape[1:]],
                "forward_gflop": round(flops(config, shape) / 1e9, 2),
            }
