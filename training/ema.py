"""Exponential moving average of the weights: what is evaluated and exported (paper section 4)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .sharding import like, local


class EMA:
    """Averaged float32 copies of named tensors; of sharded ones (FSDP2), of this process's shard.

    decay: 0.9999 in the paper. Early on it is capped at (1 + step) / (10 + step), so that the
    random start is forgotten in a short run too. Raises ValueError for a decay out of range.
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay is {decay!r}: expected 0 <= decay < 1")
        self.decay = decay
        self._swapped = False
        self._tensors = {
            name: like(local(tensor.detach()).float().clone(), tensor, tuple(tensor.shape))
            for name, tensor in tensors.items()
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, sharded as the parameters are; copy into them to load.

        Raises RuntimeError inside `swap`, where the model holds them.
        """
        if self._swapped:
            raise RuntimeError("inside EMA.swap the averages are in the model, not here")
        return self._tensors

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Move towards `tensors`; `step` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [local(average) for average in self.tensors.values()]
        new = [local(tensors[name].detach()) for name in self._tensors]
        exact = [i for i, tensor in enumerate(new) if tensor.dtype == torch.float32]
        if exact:
            torch._foreach_lerp_([averages[i] for i in exact], [new[i] for i in exact], 1 - decay)
        for i in set(range(len(new))).difference(exact):  # one at a time: each is a new copy
            averages[i].lerp_(new[i].float(), 1 - decay)

    @contextmanager
    def swap(self, model: nn.Module | Mapping[str, Tensor]) -> Iterator[None]:
        """Within it the model (or the named tensors) has the averaged weights.

        Weights and averages change places, one tensor at a time, and come back exactly, also
        after an error: for held-out loss and samples, without memory for a second model.
        """
        tensors = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
        averages = self.tensors  # refuses to be swapped twice
        missing = sorted(averages.keys() - tensors.keys())
        if missing:
            raise ValueError(f"EMA.swap: the model has no parameter {missing[0]!r}")
        pairs = [
            (local(tensors[name].detach()), local(average)) for name, average in averages.items()
        ]
        rounded = {i: w.clone() for i, (w, a) in enumerate(pairs) if w.dtype != a.dtype}
        self._swapped = True
        try:
            _exchange(pairs, rounded)
            yield
        finally:
            _exchange(pairs, rounded)
            for i, weight in rounded.items():
                pairs[i][0].detach().copy_(weight)
            self._swapped = False


@torch.no_grad()
def _exchange(pairs: list[tuple[Tensor, Tensor]], rounded: Container[int]) -> None:
    """Swap the contents of each pair; of a `rounded` one only fill the weight."""
    for i, (weight, average) in enumerate(pairs):
        raw = None if i in rounded else weight.clone()
        weight.copy_(average)
        if raw is not None:
            average.copy_(raw)
