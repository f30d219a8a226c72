"""Exponential moving average of the weights: what is evaluated and exported (paper section 4)."""

from __future__ import annotations

import torch
from torch import Tensor


class EMA:
    """Averaged float32 copies of named tensors.

    decay: 0.9999 in the paper. Early on it is capped at (1 + step) / (10 + step), so that the
    random start is forgotten in a short run too.
    """

    def __init__(self, tensors: dict[str, Tensor], decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay is {decay!r}: expected 0 <= decay < 1")
        self.decay = decay
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor], step: int) -> None:
        """Move towards `tensors`; `step` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        new = [tensors[name].detach().float() for name in self.tensors]
        torch._foreach_lerp_(list(self.tensors.values()), new, 1 - decay)
