"""Positions: rotary tables for attention (2-D in space, 1-D in time) and sin-cos embeddings.

Tables are built once per shape and kept; rotation happens in the compute dtype.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def frequencies(dim: int, theta: float) -> Tensor:
    """(dim / 2,) float64 angular frequencies theta^(-2 i / dim)."""
    return theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


@lru_cache(maxsize=64)
def rope_1d(
    length: int, dim: int, theta: float, scale: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Rotary table of `length` positions, (2, length, dim): cosines and sines.

    `scale` multiplies the positions: trained length / new length interpolates.
    """
    # A table built under inference_mode could never be used in training afterwards.
    with torch.inference_mode(False), torch.no_grad():
        positions = torch.arange(length, dtype=torch.float64) * scale
        return _table(positions[:, None] * frequencies(dim, theta), device, dtype)


@lru_cache(maxsize=64)
def rope_2d(
    height: int,
    width: int,
    dim: int,
    theta: float,
    scale: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Rotary table of a height x width grid in row order, (2, height * width, dim).

    The first half of a head's pairs turns with the row, the second half with the column.
    """
    with torch.inference_mode(False), torch.no_grad():
        freqs = frequencies(dim // 2, theta)
        rows = torch.arange(height, dtype=torch.float64) * scale
        columns = torch.arange(width, dtype=torch.float64) * scale
        angles = torch.cat(
            [
                (rows[:, None] * freqs)[:, None].expand(-1, width, -1),
                (columns[:, None] * freqs)[None].expand(height, -1, -1),
            ],
            dim=-1,
        )
        return _table(angles.flatten(0, 1), device, dtype)


def _table(angles: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    # Pair i is (x[i], x[i + dim / 2]), so cosines repeat and the first half of the sines is
    # negated: then a rotation is x * cos + swap_halves(x) * sin.
    cos, sin = angles.cos(), angles.sin()
    table = torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])
    return table.to(device=device, dtype=dtype)


def rotate(x_BHND: Tensor, table: Tensor) -> Tensor:
    """Rotate queries or keys (B, heads, N, dim) by a (2, [B, 1,] N, dim) table."""
    cos, sin = table.unbind(0)
    return (x_BHND * cos).addcmul_(x_BHND.roll(x_BHND.shape[-1] // 2, dims=-1), sin)


@lru_cache(maxsize=64)
def sincos_1d(
    length: int, width: int, scale: float, theta: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(length, width) sines then cosines of the scaled positions."""
    with torch.inference_mode(False), torch.no_grad():
        positions = torch.arange(length, dtype=torch.float64) * scale
        return _sincos(positions, width, theta).to(device=device, dtype=dtype)


@lru_cache(maxsize=64)
def sincos_2d(
    height: int,
    width: int,
    dim: int,
    scale: float,
    base: int,
    theta: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """(height * width, dim) embedding of a grid, as in PixArt-alpha.

    `base` > 0 stretches any grid onto base x base; the first half of the channels encodes the
    column and the second the row (PixArt-alpha's order).
    """
    with torch.inference_mode(False), torch.no_grad():
        rows = torch.arange(height, dtype=torch.float64) * scale
        columns = torch.arange(width, dtype=torch.float64) * scale
        if base:
            rows, columns = rows * base / height, columns * base / width
        row_part = _sincos(rows, dim // 2, theta)[:, None].expand(-1, width, -1)
        column_part = _sincos(columns, dim // 2, theta)[None].expand(height, -1, -1)
        embedding = torch.cat([column_part, row_part], dim=-1).flatten(0, 1)
        return embedding.to(device=device, dtype=dtype)


def _sincos(positions: Tensor, width: int, theta: float) -> Tensor:
    angles = positions[:, None] * frequencies(width, theta)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
