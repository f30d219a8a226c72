"""A LoRA from the difference of two checkpoints: the best of its rank, layer by layer.

By Eckart and Young's theorem no matrix of a rank is nearer to a difference D, in the Frobenius
norm, than D projected onto its leading singular vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...shapes import mismatches
from ...tensor_file import Progress, byte_count, described
from .adapter import wide
from .keys import difference_key, factor_keys, matching
from .merge import model_shapes

_OVERSAMPLED, _PASSES = 32, 8  # of the randomised decomposition


@dataclass(frozen=True)
class Fit:
    """How much of a tensor's difference was put into the LoRA."""

    name: str
    size: float
    """Frobenius norm of the difference."""
    relative: float
    """The same over the norm of the base's tensor; NaN where that is zero."""
    kept: float
    """Share of the squared norm that the LoRA has: 1 is all."""
    is_stored: bool


@dataclass(frozen=True)
class Extracted:
    """A LoRA's tensors in the host's form, and what they hold of the difference."""

    tensors: dict[str, Tensor]
    fits: list[Fit] = field(default_factory=list)
    """Of every tensor that differs, in the model's order."""

    @property
    def kept(self) -> float:
        """Share of the squared norm of all differences together; 1 where nothing differs."""
        total = sum(fit.size**2 for fit in self.fits)
        return sum(fit.kept * fit.size**2 for fit in self.fits) / total if total else 1.0


def extract(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    rank: int,
    *,
    layers: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    full_diff: bool = False,
    is_fast: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Extracted:
    """The LoRA of `rank` that comes nearest to turning `base` into `tuned`.

    layers: ends or full names of the linear layers to take, None for all. dtype: of the result.
    full_diff: store whole differences of biases, norms and tables. is_fast: a randomised
    decomposition, for large models; the fits say what it kept. One layer is in memory at a time.
    Raises ValueError for models that are not of one shape, for a bad rank or layer, and for
    weights that are not finite.
    """
    if type(rank) is not int or rank < 1:
        raise ValueError(f"rank is {rank!r}: expected a whole number of 1 or more")
    if problems := mismatches(model_shapes(base), model_shapes(tuned)):
        raise ValueError(
            f"the two models are not of one shape: {'; '.join(problems)}; extract a LoRA from a "
            "model and the one that it was trained from"
        )
    linear = [
        name.removesuffix(".weight")
        for name, tensor in described(base).items()
        if name.endswith(".weight") and tensor.ndim == 2
    ]
    chosen = linear if layers is None else matching(linear, layers)
    whole = [name for name in base if full_diff and name.removesuffix(".weight") not in linear]
    result, done, total = Extracted({}), 0, byte_count(base)
    for name in base:
        before = base[name].to(device)
        change = _change(name, tuned[name].to(device), before)
        if size := float(change.norm()):
            stored, rest = {}, change
            if (layer := name.removesuffix(".weight")) in chosen:
                down, up = (f.to(dtype) for f in best_factors(change, rank, is_fast=is_fast))
                rest = change - up.to(change) @ down.to(change)
                alpha = torch.tensor(float(len(down)))
                stored = dict(zip(factor_keys(layer, "comfy"), (down, up, alpha), strict=True))
            elif name in whole:
                stored = {difference_key(name, "comfy"): change.to(dtype)}
                rest = change - change.to(dtype).to(change)
            left = float(rest.norm())
            if not math.isfinite(left):
                raise ValueError(f"the change of {name} is too large for {dtype}: widen --dtype")
            result.tensors.update({key: t.cpu().contiguous() for key, t in stored.items()})
            relative = size / (float(before.to(change.dtype).norm()) or math.nan)
            result.fits.append(Fit(name, size, relative, 1 - left**2 / size**2, bool(stored)))
        done += before.nbytes
        if progress:
            progress("svd", done, total)
    return result


def best_factors(change: Tensor, rank: int, *, is_fast: bool = False) -> tuple[Tensor, Tensor]:
    """down (rank, in) and up (out, rank), whose product is nearest to `change` (out, in).

    Both share the singular values evenly, so that neither leaves the range of half precision.
    The rank is at most that of a matrix of this shape.
    """
    rank = min(rank, *change.shape)
    if change.shape[0] < change.shape[1]:
        up, down = best_factors(change.T, rank, is_fast=is_fast)
        return down.T, up.T
    if is_fast and rank + _OVERSAMPLED < change.shape[1]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same file again from the same models
            found = torch.svd_lowrank(change, q=rank + _OVERSAMPLED, niter=_PASSES)
        leading = found[2][:, :rank]
    else:
        # The small side's Gram matrix in float64: as exact as float32 can tell, and much faster
        # than the decomposition of the whole.
        exact = change.double()
        leading = torch.linalg.eigh(exact.T @ exact)[1][:, -rank:].flip(1).to(change.dtype)
    up = change @ leading
    values = up.norm(dim=0).clamp_min(torch.finfo(change.dtype).tiny).sqrt()
    return (leading * values).T, up / values


def _change(name: str, after: Tensor, before: Tensor) -> Tensor:
    dtype = wide(after.dtype, before.dtype)
    change = after.to(dtype) - before.to(dtype)
    if not torch.isfinite(change).all():
        raise ValueError(f"tensor {name} holds values that are NaN or infinite: check both models")
    return change
