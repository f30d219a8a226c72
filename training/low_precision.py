"""Frozen weights in fewer bits, so that training a LoRA on them needs less memory.

A linear layer of the base is stored as bfloat16 or float8 and computed in the dtype of its input.
Neither pass keeps the widened weight: backward widens the stored one once more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DTYPES = (torch.bfloat16, torch.float8_e4m3fn)
"""What a frozen weight may be stored as: 2 bytes and 1 byte per number."""

_BLOCKS = ("blocks.", "decoder_blocks.")


def in_blocks(name: str) -> bool:
    """Whether a module or parameter of the transformer belongs to one of its blocks."""
    return name.startswith(_BLOCKS)


def freeze_in(model: nn.Module, dtype: torch.dtype) -> int:
    """Store the frozen linear weights of the blocks in `dtype`; in place.

    Call it before or after `add_lora`; weights that require a gradient stay as they are. Biases,
    norms, embeddings and the output layer keep their dtype: they are 2% of XL's weights and the
    most sensitive.
    float8 has one power of two per output row as its scale, so that widening it is exact in any
    dtype and the error is that of float8's three mantissa bits: at most 1/16 of a weight that is
    at least 1/28,000 of its row's largest.

    Returns the number of layers stored anew. Raises ValueError for another dtype, for a model
    without frozen layers, and for a weight that is not finite, by name.
    """
    if dtype not in DTYPES:
        names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise ValueError(f"frozen weights cannot be stored as {dtype}: expected one of {names}")
    frozen = [
        (name, module)
        for name, module in model.named_modules()
        if in_blocks(name) and isinstance(module, nn.Linear) and not module.weight.requires_grad
    ]
    if not frozen:
        raise ValueError("no linear layer of the blocks is frozen: add_lora freezes them")
    count = 0
    for name, linear in frozen:
        if isinstance(linear, LowPrecisionLinear):
            if linear.weight.dtype != dtype:
                raise ValueError(f"{name} is already stored as {linear.weight.dtype}")
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LowPrecisionLinear(linear, dtype, name))
        count += 1
    return count


def bytes_held(module: nn.Module) -> int:
    """Bytes of all parameters and buffers of a module, each counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class LowPrecisionLinear(nn.Linear):
    """A frozen linear layer: weight (out, in) in few bits, scale (out, 1) for float8."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, name: str = "weight"):
        nn.Module.__init__(self)  # nn.Linear's own would allocate a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds a weight that is not finite: use another base model")
        scale = None
        if dtype == torch.float8_e4m3fn:
            scale = row_scales(weight, torch.finfo(dtype).max)
            weight = weight.float() / scale
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _FrozenProduct.apply(x, self.weight, self.scale, bias)


def row_scales(weight: Tensor, largest: float) -> Tensor:
    """(rows, 1) float32 powers of two: the least that bring every row within ±largest."""
    reach = weight.float().abs().amax(dim=1, keepdim=True) / largest
    mantissa, exponent = torch.frexp(reach)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent).clamp(min=-120)
    return torch.ldexp(torch.ones_like(reach), torch.where(reach > 0, exponent, 0))


def widen(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A stored weight (out, in) in `dtype`, times the scale (out, 1) of its rows."""
    wide = weight.to(dtype)
    return wide if scale is None else wide * scale.to(dtype)


class _FrozenProduct(torch.autograd.Function):
    """x @ weight.T + bias, with the gradient of x only.

    `F.linear` would keep the widened weight of every layer until its backward.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None):
        ctx.save_for_backward(weight, scale)
        return F.linear(x, widen(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, scale = ctx.saved_tensors
        return grad @ widen(weight, scale, grad.dtype), None, None, None
