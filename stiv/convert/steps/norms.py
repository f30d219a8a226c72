"""Steps that add the paper's norms, and keep sizes where a norm would take them away.

A norm sets the size of what passes through it, so the function changes for nearly every input.
What can be kept is what is typical (see `Typical`): the size of queries and keys, the size of
what a branch adds, and the modulation at every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import STIVConfig
from ...layers import NORM_EPS
from ..typical import Typical
from .step import Aim, Make, Step, Tensors, below, blocks, rewrite, wide

_RIDGE = 1e-4

_Sizes = Callable[[str], dict]
"""Sizes within the block of a prefix."""


def qk_norm(before: STIVConfig, aim: Aim) -> Step | None:
    """RMSNorm on queries and keys.

    q / rms(q) * g has the size g * sqrt(d) whatever q was. With g the RMS that white tokens'
    queries (keys) have over all heads, softmax gets logits of the size that it was trained with,
    on average. Cross-attention reads tokens that are not normalised and a text that is not known:
    there g is 1.
    """
    if before.qk_norm or not aim.config.qk_norm:
        return None
    after = replace(before, qk_norm=True)

    def apply(tensors: Tensors) -> Tensors:
        sizes, made = cache(Typical(tensors, before).query_sizes), {}
        for prefix in blocks(after):
            for name in below(after, [prefix]):
                if name.endswith("_norm.weight"):
                    part = name.removeprefix(prefix).removesuffix(".weight")
                    made[name] = partial(_size, sizes, prefix, part, after.head_dim)
        return rewrite(tensors, after, made)

    return Step(
        name="QK norm",
        does="queries and keys are normalised, in self-attention to their typical size",
        after=after,
        apply=apply,
        trained=("blocks.*_attn",),
    )


def sandwich_norm(before: STIVConfig, aim: Aim) -> Step | None:
    """LayerNorm after attention and FFN, as well as before.

    A branch then adds gate * LN(h) in place of gate * h. Multiplied by the standard deviation s
    of what white tokens give, the gate adds as much as before, on average. A block's own gate is
    multiplied by s; of a shared one, G(t) + table, the table becomes s * (G + table) - G with the
    mean G over time, as near as one table comes. Temporal attention without a gate gets its last
    layer times sqrt(eps), eps being the norm's: LN(sqrt(eps) h) is h less its mean, divided by
    sqrt(1 + var h), and so h where it is small, until training has made it large.
    """
    if before.sandwich_norm or not aim.config.sandwich_norm:
        return None
    after = replace(before, sandwich_norm=True)

    def apply(tensors: Tensors) -> Tensors:
        typical, made = Typical(tensors, before), {}
        sizes = cache(typical.branch_sizes)
        for prefix in blocks(before):
            if before.shared_adaln:
                name = f"{prefix}modulation_table"
                made[name] = partial(_louder_table, tensors, name, typical, sizes, prefix)
            else:
                for part in ("weight", "bias"):
                    name = f"{prefix}modulation.{part}"
                    made[name] = partial(_louder, tensors, name, before.width, sizes, prefix)
            if before.temporal_attention and before.temporal_gate == "none":
                for part in ("weight", "bias"):
                    name = f"{prefix}temporal_attn.proj.{part}"
                    made[name] = partial(_times, tensors, name, NORM_EPS**0.5)
        return rewrite(tensors, after, made)

    return Step(
        name="sandwich norm",
        does="what attention and FFN add is normalised; gates make up for its typical size",
        after=after,
        apply=apply,
        trained=("blocks",),
    )


def condition_norm(before: STIVConfig, aim: Aim) -> Step | None:
    """LayerNorm on every part of the singleton condition before the sum.

    Over time the condition runs along a curve c(t), which the norm bends into another, c'(t).
    Modulations are linear in a = silu(c): their weights change by the least that makes them give
    at a'(t) what they gave at a(t), by ridge regression over 1001 times. The last layer adds the
    condition to a table as it is: the table takes over the mean of c - c'.
    """
    if before.condition_norm or not aim.config.condition_norm:
        return None
    after = replace(before, condition_norm=True)

    def apply(tensors: Tensors) -> Tensors:
        curves = cache(partial(_curves, tensors, before, after))
        made: dict[str, Make] = {"final.modulation_table": partial(_moved, tensors, curves)}
        for owner in [""] if before.shared_adaln else blocks(before):
            for part in ("weight", "bias"):
                made[f"{owner}modulation.{part}"] = partial(
                    _refitted, tensors, f"{owner}modulation.", part, curves
                )
        return rewrite(tensors, after, made)

    return Step(
        name="condition norm",
        does="the condition's parts are normalised; modulations follow its curve over time",
        after=after,
        apply=apply,
        trained=("time_embed", "modulation", "blocks.*.modulation", "final.modulation_table"),
    )


def _size(sizes: _Sizes, prefix: str, part: str, head_dim: int) -> Tensor:
    size = 1.0 if part.startswith("cross") else sizes(prefix).get(part, 1.0)
    return torch.full((head_dim,), size or 1.0)


def _louder(tensors: Tensors, name: str, width: int, sizes: _Sizes, prefix: str) -> Tensor:
    parts = wide(tensors[name]).unflatten(0, (-1, width)).clone()
    for gate, size in sizes(prefix).items():
        parts[gate] *= size or 1.0  # a branch of zeros stays one under any gate but zero
    return parts.flatten(0, 1)


def _times(tensors: Tensors, name: str, factor: float) -> Tensor:
    return wide(tensors[name]) * factor


def _louder_table(
    tensors: Tensors, name: str, typical: Typical, sizes: _Sizes, prefix: str
) -> Tensor:
    table, mean = wide(tensors[name]).clone(), typical.mean_modulation
    for gate, size in sizes(prefix).items():
        table[gate] = (size or 1.0) * (mean[gate] + table[gate]) - mean[gate]
    return table


_Curves = Callable[[], tuple[Tensor, Tensor, Tensor]]


def _curves(
    tensors: Tensors, before: STIVConfig, after: STIVConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of c - c'; (times, D) what a loses, a - a'; and the (D + 1, times) regression:
    from what outputs lack at the times to the least change of weights and bias."""
    old, new = (Typical(tensors, c).conditions().double() for c in (before, after))
    lost, reads = F.silu(old) - F.silu(new), F.pad(F.silu(new), (0, 1), value=1.0)
    gram = reads @ reads.T
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return (old - new).mean(0), lost, torch.linalg.solve(gram, reads).T


def _moved(tensors: Tensors, curves: _Curves) -> Tensor:
    return wide(tensors["final.modulation_table"]) + curves()[0]


def _refitted(tensors: Tensors, layer: str, part: str, curves: _Curves) -> Tensor:
    _, lost, regression = curves()
    # weight @ (regression @ lost)^T: from inputs at the times to changes, without the wide outputs
    change = wide(tensors[f"{layer}weight"]).double() @ (regression @ lost).T
    if part == "bias":
        return wide(tensors[f"{layer}bias"]) + change[:, -1]
    return wide(tensors[f"{layer}weight"]) + change[:, :-1]
