"""Dropout in a LoRA: which numbers are dropped follows from (seed, step, position, layer) alone.

torch's own draws from a generator that a resumed run would have to find as it was left, that gives
other numbers to other splits of a batch, and that has moved on when checkpointing computes a block
again. Here every number's chance is a hash of its place, the same on every device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

DROPOUT = 8
"""Purpose of the draw, last of (seed, step, position, purpose), as `training.data.loader.STILL`."""

_WORD = 2**32 - 1


class SeededDropout(nn.Module):
    """Drops numbers of its input, and scales up the rest, while `dropping` gives it seeds.

    At all other times (held-out losses, samples) it passes everything. share: 0 <= share < 1.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self.seeds: Tensor | None = None  # no buffer: DDP would give all processes those of one

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...), one seed for each of B."""
        if self.seeds is None:
            return x
        places = torch.arange(x[0].numel(), device=x.device)
        chance = _mixed(self.seeds[:, None] ^ places).view(x.shape)
        return torch.where(chance >= round(self.share * 2**32), x / (1 - self.share), 0)

    def extra_repr(self) -> str:
        return f"share={self.share}"


def sample_seeds(seed: int, step: int, positions: Iterable[int]) -> Tensor:
    """(B,) int64 below 2^32, of the samples at these positions of a step's global batch."""
    words = [
        np.random.SeedSequence([seed, step, int(position), DROPOUT]).generate_state(1)[0]
        for position in positions
    ]
    return torch.from_numpy(np.array(words, np.int64))


@contextmanager
def dropping(model: nn.Module, seeds: Tensor | None) -> Iterator[None]:
    """Within it the model's LoRA drops what the seeds (B,) of a micro-batch say; None: nothing.

    Backward belongs inside, too: checkpointing computes blocks again there.
    """
    layers = [module for module in model.modules() if isinstance(module, SeededDropout)]
    if seeds is not None and layers:
        # Each layer's seeds are a tensor: a number that differs would have each block compiled.
        salts = torch.arange(1, len(layers) + 1, device=seeds.device)
        for layer, own in zip(layers, _mixed(seeds ^ _mixed(salts)[:, None]), strict=True):
            layer.seeds = own
    try:
        yield
    finally:
        for layer in layers:
            layer.seeds = None


def _mixed(words: Tensor) -> Tensor:
    """A 32-bit hash of int64 numbers below 2^32, each bit of it as likely set as not.

    Two rounds of xor-shift and multiplication, constants of C. Wellons' hash prospector that are
    below 2^31, so that no product exceeds int64.
    """
    words = (words ^ (words >> 16)) * 0x21F0AAAD & _WORD
    words = (words ^ (words >> 15)) * 0x735A2D97 & _WORD
    return words ^ (words >> 15)
