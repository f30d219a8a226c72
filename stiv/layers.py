"""The parts of a block: norms, embeddings, attention, FFN.

Shapes: B batch, T frames (of tokens), S tokens of a frame, L text tokens, D width, H heads,
d head width. Layers come from `operations`, so that a host can cast and offload them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import STIVConfig
from .rope import rotate

NORM_EPS = 1e-6
SINUSOID_WIDTH = 256

Attention = Callable[..., Tensor]
"""attention(q, k, v, *, attn_mask=None, is_causal=False): (B, H, N, d) each, (B, H, N, d) out."""


def norm(x: Tensor) -> Tensor:
    """Stateless LayerNorm over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def modulate(x_BTSD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift in one pass."""
    return torch.addcmul(shift, x_BTSD, 1 + scale)


def sinusoid(values: Tensor) -> Tensor:
    """(...) numbers to (..., 256) float32: cosines, then sines, of periods up to 10000 * 2 pi."""
    half = SINUSOID_WIDTH // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[..., None] * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Mlp(nn.Module):
    """Linear, activation, Linear: the FFN and every embedding."""

    def __init__(
        self, inner: int, hidden: int, outer: int, activation: nn.Module, operations: Any, **factory
    ):
        super().__init__()
        self.fc1 = operations.Linear(inner, hidden, **factory)
        self.activation = activation
        self.fc2 = operations.Linear(hidden, outer, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Gelu(nn.GELU):
    """GELU by tanh; in place where no gradient needs what came in: it is the widest of a block."""

    def __init__(self):
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        in_place = not (x.requires_grad and torch.is_grad_enabled())
        gelu = torch.ops.aten.gelu_ if in_place else F.gelu
        return gelu(x, approximate=self.approximate)


def gelu() -> nn.Module:
    return Gelu()


def last_outputs(layer: nn.Linear, count: int, x: Tensor) -> Tensor:
    """layer(x)[..., -count:], without the other outputs if the layer is a product and no more.

    Other layers' `forward` says by an attribute `is_product` that it is one, in the dtype of x.
    """
    forward = getattr(layer.forward, "__func__", None)
    is_product = forward is nn.Linear.forward or getattr(forward, "is_product", False)
    if not is_product or layer._forward_hooks:
        return layer(x)[..., -count:]
    return F.linear(x, layer.weight[-count:].to(x.dtype), layer.bias[-count:].to(x.dtype))


class SelfAttention(nn.Module):
    """Attention over the tokens of each frame, or over the frames of each token."""

    last_outputs = staticmethod(last_outputs)  # a host's layers do more than a product

    def __init__(self, config: STIVConfig, operations: Any, **factory):
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.qkv = operations.Linear(config.width, 3 * config.width, **factory)
        self.q_norm, self.k_norm = qk_norms(config, operations, **factory)
        self.proj = operations.Linear(config.width, config.width, **factory)

    def forward(
        self,
        x_BTSD: Tensor,
        table: Tensor | None,
        attention: Attention,
        *,
        over_time: bool = False,
        is_causal: bool = False,
    ) -> Tensor:
        B, T, S, D = x_BTSD.shape
        if over_time and T == 1:  # softmax over a single frame is 1
            return self.proj(self.last_outputs(self.qkv, D, x_BTSD))
        q, k, v = self.qkv(x_BTSD).view(B, T, S, 3, self.heads, self.head_dim).unbind(3)
        # Over time every (token, head) pair is a head of its own: no permuted copies.
        fold = (B, T, S * self.heads, -1) if over_time else (B * T, S, self.heads, -1)
        q, k, v = (z.reshape(fold) for z in (self.q_norm(q), self.k_norm(k), v))
        if table is not None:
            q = rotate(q, table)  # one after the other: only one of them is held twice
            k = rotate(k, table)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        out = attention(q, k, v, is_causal=is_causal)
        return self.proj(out.transpose(1, 2).reshape(B, T, S, D))


class CrossAttention(nn.Module):
    """Every token attends to the text."""

    def __init__(self, config: STIVConfig, operations: Any, **factory):
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.q = operations.Linear(config.width, config.width, **factory)
        self.kv = operations.Linear(config.width, 2 * config.width, **factory)
        self.q_norm, self.k_norm = qk_norms(config, operations, **factory)
        self.proj = operations.Linear(config.width, config.width, **factory)

    def forward(
        self, x_BTSD: Tensor, text_BLD: Tensor, mask_B11L: Tensor | None, attention: Attention
    ) -> Tensor:
        B, T, S, D = x_BTSD.shape
        q = self.q(x_BTSD).view(B, T * S, self.heads, self.head_dim)
        k, v = self.kv(text_BLD).view(B, -1, 2, self.heads, self.head_dim).unbind(2)
        q, k, v = (z.transpose(1, 2) for z in (self.q_norm(q), self.k_norm(k), v))
        out = attention(q, k, v, attn_mask=mask_B11L)
        return self.proj(out.transpose(1, 2).reshape(B, T, S, D))


def qk_norms(config: STIVConfig, operations: Any, **factory) -> tuple[nn.Module, nn.Module]:
    """RMSNorm for queries and for keys, over a head's width (paper: QK-norm)."""
    if not config.qk_norm:
        return nn.Identity(), nn.Identity()
    return (
        operations.RMSNorm(config.head_dim, eps=NORM_EPS, **factory),
        operations.RMSNorm(config.head_dim, eps=NORM_EPS, **factory),
    )
