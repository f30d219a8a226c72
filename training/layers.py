"""The layers of networks in training: parameters in float32, products in the dtype of their input.

A network computes in the dtype that it is given, as it does in the host and as FSDP2 lets it, and
the gradient reaches the float32 parameters through the cast. Autocast would keep the residual
stream and its norms in float32: half as much memory again, and slower.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """Linear layer that computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), _like(self.bias, x))

    forward.is_product = True  # see stiv.layers.last_outputs


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose weight follows its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose weight and bias follow its input."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _like(self.weight, x), _like(self.bias, x)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Operations:
    """The layers that a network of `stiv` is built of for training."""

    Linear = Linear
    RMSNorm = RMSNorm
    LayerNorm = LayerNorm
    Embedding = nn.Embedding
    """Its input has no dtype to follow: `Networks` casts what it gives."""


def _like(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)
