"""How far two networks' outputs are apart, on fixed random inputs.

The inputs are small (a few frames of 8 x 8 latents) and the same for every size of model, and
the networks run block by block, so a model that is larger than the memory is measured too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import STIVConfig
from .streamed import whole

TIMES = (0.1, 0.5, 0.9)
"""Where on the way from noise to data it is measured."""

_FRAMES, _SIDE, _TOKENS = 4, 8, 12


@torch.no_grad()
def output(
    tensors: Mapping[str, Tensor],
    config: STIVConfig,
    *,
    still: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(3, C, 4, 8, 8) output for fixed random latents and text at `TIMES`, no pooled text.

    The first channels of latents and text are the same for models of more of them.
    still: every frame is the same picture.
    """
    latents = _noise(1, (config.latent_channels, _FRAMES, _SIDE, _SIDE), dtype)
    text = _noise(2, (config.text_width, _TOKENS), dtype).T
    if still:
        latents = latents[:, :1].expand(-1, _FRAMES, -1, -1)
    micro = torch.tensor([[8.0 * _SIDE, 8.0 * _SIDE, 0, 0, 1, 1 if still else _FRAMES]])
    return whole(tensors, config, dtype)(
        latents.expand(len(TIMES), -1, -1, -1, -1),
        torch.tensor(TIMES, dtype=dtype),
        text.expand(len(TIMES), -1, -1),
        micro=micro.expand(len(TIMES), -1),
    )


def relative_rms(new: Tensor, old: Tensor) -> float:
    """RMS of the difference over the RMS of the old, over the channels that both have.

    Infinity where the old output is zero and the new one is not.
    """
    channels = min(new.shape[1], old.shape[1])
    new, old = new[:, :channels].double(), old[:, :channels].double()
    change, size = (new - old).square().mean().sqrt().item(), old.square().mean().sqrt().item()
    return change / size if size else (math.inf if change else 0.0)


def _noise(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Normal noise, row by row, so that more rows do not change the first ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.randn(shape[1:], generator=generator, dtype=torch.float64) for _ in range(shape[0])
    ]
    return torch.stack(rows).to(dtype)
