"""What is typical of a network, told from its weights alone.

Attention and FFN read tokens that were normalised, so tokens of independent normal numbers
("white") are of the size that they see whatever the network is fed. The condition is taken at all
times for one size of picture, without a pooled text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import STIVConfig
from ..layers import modulate, norm
from ..model import STIVTransformer
from ..tensor_file import Tensors
from .streamed import one_block, outer_parts

_TIMES, _TOKENS = 9, 64
_CURVE = 1001  # as finely as diffusion models were trained
_SIDE = 32  # latents of 256 pixels

_GATES = {"spatial_attn": 2, "mlp": 5, "temporal_attn": 8}
"""A branch's gate among the parts of the modulation; its shift and scale are before it."""


class Typical:
    """Averages of one network. Callers keep what they ask for again: a block is read every time."""

    def __init__(self, tensors: Tensors, config: STIVConfig):
        self.tensors, self.config = tensors, config

    @torch.no_grad()
    def query_sizes(self, prefix: str) -> dict[str, float]:
        """RMS of white tokens' queries and keys by their norms' names ("spatial_attn.q_norm").

        prefix: of the block. Not of attention whose tokens are not normalised.
        """
        sizes = {}
        for name, branch, h in self._branches(prefix):
            if name != "mlp":
                q, k, _ = branch.qkv(h).chunk(3, -1)
                sizes |= {f"{name}.q_norm": _rms(q), f"{name}.k_norm": _rms(k)}
        return sizes

    @torch.no_grad()
    def branch_sizes(self, prefix: str) -> dict[int, float]:
        """Standard deviation of what gated branches give for white tokens, by their gate's number.

        prefix: of the block. A gate's number is its place among the parts of the modulation.
        """
        sizes = {}
        for name, branch, h in self._branches(prefix):
            if name == "temporal_attn" and self.config.temporal_gate != "own":
                continue  # no gate
            if name == "mlp":
                out = branch(h)
            elif name == "spatial_attn":
                out = branch(h, None, F.scaled_dot_product_attention)
            else:
                h = h.transpose(1, 2)
                out = branch(h, None, F.scaled_dot_product_attention, over_time=True)
            sizes[_GATES[name]] = _rms(out - out.mean(-1, keepdim=True))
        return sizes

    @cached_property
    def mean_modulation(self) -> Tensor:
        """(parts, D) mean over time of the shared modulation, without a block's table; without
        shared AdaLN (1, D) that of what the blocks' modulations read."""
        return self._modulations(_CURVE).mean(0)

    def mean_gate(self, prefix: str) -> Tensor:
        """(D,) mean over time of a block's gate of spatial attention."""
        name, number = f"{prefix}modulation", _GATES["spatial_attn"]
        if self.config.shared_adaln:
            return self.mean_modulation[number] + self.tensors[f"{name}_table"][number].float()
        rows = slice(number * self.config.width, (number + 1) * self.config.width)
        activated = self.mean_modulation[0]
        weight = self.tensors[f"{name}.weight"][rows].float()
        return weight @ activated + self.tensors[f"{name}.bias"][rows].float()

    def conditions(self) -> Tensor:
        """(1001, D) singleton conditions from noise to data."""
        return self._conditions(outer_parts(self.tensors, self.config), _CURVE)[:, 0]

    @cached_property
    def _few_modulations(self) -> Tensor:
        return self._modulations(_TIMES)

    @torch.no_grad()
    def _modulations(self, count: int) -> Tensor:
        model = outer_parts(self.tensors, self.config)
        return model.shared_modulation(self._conditions(model, count))

    @torch.no_grad()
    def _conditions(self, model: STIVTransformer, count: int) -> Tensor:
        latents = torch.zeros(1, self.config.latent_channels, 1, _SIDE, _SIDE)
        times = torch.linspace(0, 1, count)
        return model.condition(latents.expand(count, -1, -1, -1, -1), times, None, None)

    def _branches(self, prefix: str) -> Iterator[tuple[str, nn.Module, Tensor]]:
        """A block's self-attentions and FFN with what they read, (times, 1, tokens, D)."""
        config, block = self.config, one_block(self.tensors, self.config, prefix)
        generator = torch.Generator().manual_seed(0)
        white = norm(torch.randn(_TIMES, 1, _TOKENS, config.width, generator=generator))
        parts = block.modulations(self._few_modulations)
        for name, gate in _GATES.items():
            if gate < len(parts):
                yield name, getattr(block, name), modulate(white, parts[gate - 2], parts[gate - 1])
        if config.temporal_attention and config.temporal_gate == "none":
            yield "temporal_attn", block.temporal_attn, white


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()
