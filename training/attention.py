"""Attention for training on short sequences on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 64
"""Most keys for which attention on a CPU is two products."""


def short_attention(
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """softmax(q k^T) v, for few keys on a CPU as two batched matrix products.

    For the nano's 8 to 40 keys the fused CPU kernel's backward costs more than everything else
    together (measured: a training step took 2.2 times as long with it). Same arguments as torch's
    `scaled_dot_product_attention`.
    """
    if q_BHND.device.type != "cpu" or k_BHND.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(
            q_BHND, k_BHND, v_BHND, attn_mask=attn_mask, is_causal=is_causal
        )
    scores = (q_BHND * q_BHND.shape[-1] ** -0.5) @ k_BHND.transpose(-1, -2)
    if is_causal:
        n = scores.shape[-1]
        attn_mask = torch.ones(n, n, dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return F.softmax(scores, dim=-1) @ v_BHND
