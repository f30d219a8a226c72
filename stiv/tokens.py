"""Latents to tokens and back, and where the tokens are.

Shapes: x_BCTHW latents, x_BTSD tokens (S = tokens of one frame).
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .config import STIVConfig
from .rope import rope_1d, rope_2d, sincos_1d, sincos_2d


def patchify(x_BCTHW: Tensor, p: int, pt: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Tokens (B, T/pt, H/p * W/p, C * pt * p * p) and their grid; short ends are repeated."""
    T, H, W = x_BCTHW.shape[2:]
    ends = (0, -W % p, 0, -H % p, 0, -T % pt)
    if any(ends):
        x_BCTHW = F.pad(x_BCTHW, ends, mode="replicate")
    grid = (-(-T // pt), -(-H // p), -(-W // p))
    tokens = rearrange(
        x_BCTHW, "b c (t pt) (h ph) (w pw) -> b t (h w) (c pt ph pw)", pt=pt, ph=p, pw=p
    )
    return tokens, grid


def unpatchify(x_BTSP: Tensor, grid: tuple[int, int, int], config: STIVConfig, shape) -> Tensor:
    """Latents of `shape` from tokens whose channels are ordered (pt ph pw c), as in PixArt."""
    x = rearrange(
        x_BTSP,
        "b t (h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)",
        h=grid[1],
        pt=config.temporal_patch,
        ph=config.patch,
        pw=config.patch,
    )
    return x[:, :, : shape[2], : shape[3], : shape[4]]


class Positions:
    """Where the tokens of one forward pass are: rotary tables, or embeddings for sin-cos."""

    def __init__(self, config: STIVConfig, grid: tuple[int, int, int], like: Tensor):
        T, H, W = grid
        place = (like.device, like.dtype)
        self.space_table = self.time_table = self.space_embedding = self.time_embedding = None
        theta, space, time = config.rope_theta, config.space_scale, config.time_scale
        if config.position == "rope":
            # (2, N, 1, d): the 1 broadcasts over heads
            self.space_table = rope_2d(H, W, config.head_dim, theta, space, *place)[:, :, None]
            self.time_table = rope_1d(T, config.head_dim, theta, time, *place)[:, :, None]
        else:
            self.space_embedding = sincos_2d(
                H, W, config.width, space, config.sincos_base, theta, *place
            )
            if config.temporal_attention:
                self.time_embedding = sincos_1d(T, config.width, time, theta, *place)[:, None]

    def after_first_block(self) -> Positions:
        """Sin-cos frames are told apart in the first block only, as in STDiT."""
        if self.time_embedding is None:
            return self
        rest = Positions.__new__(Positions)
        rest.__dict__.update(self.__dict__, time_embedding=None)
        return rest

    def kept(self, keep_BK: Tensor, frames: int) -> Positions:
        """The positions of the spatial tokens that masking leaves, one row for each frame."""
        if self.space_table is None:
            return self
        rest = Positions.__new__(Positions)
        table = self.space_table[:, keep_BK.repeat_interleave(frames, 0)]
        rest.__dict__.update(self.__dict__, space_table=table)
        return rest
