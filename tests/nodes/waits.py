"""Where Python asks a device for a number, and so waits for all that it was given to do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ASKING = {
    *(Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__),
    *(Tensor.__index__, Tensor.__contains__, Tensor.cpu, Tensor.numpy),
    *(Tensor.nonzero, torch.nonzero, Tensor.unique, torch.unique),
    *(Tensor.masked_select, torch.masked_select, Tensor.equal, torch.equal, torch.allclose),
}


class Waits(TorchFunctionMode):
    """Counts them while it is entered, on whatever device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function in _ASKING or (
            function in (Tensor.__getitem__, Tensor.__setitem__) and _has_mask(args[1])
        )
        return function(*args, **(kwargs or {}))


def _has_mask(index: object) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)
