"""A LoRA as one value: what it changes of each of our tensors.

A layer's weight W (out, in) becomes W + strength * alpha / rank * up @ down, with down (rank, in),
also called A, and up (out, rank), also called B. A file may give a layer in several shares, one
above the other (queries, keys and values), each with factors of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...tensor_file import described
from ..recognise import PATCH
from .keys import Place

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """The factors of a layer or of a share of its rows, by their names in the file."""

    place: Place
    down: str
    up: str
    alpha: float
    rank: int
    magnitude: str | None = None
    """DoRA: what the norms of the changed weight's rows or columns are set to."""
    has_variance: bool = False
    """Of the released final layer, whose rows for a variance we leave out."""

    @property
    def scale(self) -> float:
        """What up @ down is multiplied with."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Difference:
    """A difference of a tensor or of a share of its rows, by its name in the file."""

    place: Place
    key: str
    scale: float = 1.0
    has_variance: bool = False


@dataclass(frozen=True)
class Lora:
    """A LoRA that was understood; its tensors are read when they are used."""

    path: Path
    tensors: Mapping[str, Tensor]
    """By their names in the file."""
    metadata: dict[str, str]
    shapes: dict[str, Shape]
    """Of every tensor of ours that it changes, in their order in the file."""
    pairs: dict[str, list[Pair]]
    """By our tensor, each a layer's weight."""
    differences: dict[str, list[Difference]]
    """By our tensor."""
    form: str
    """Whose names the file has, for people."""
    left_out: list[str] = field(default_factory=list)
    """Names in the file that mean nothing here."""
    notes: list[str] = field(default_factory=list)
    """What had to be assumed."""

    def apply(self, name: str, weight: Tensor, strength: float = 1.0) -> None:
        """Change one of our tensors in place, in the tensor's own dtype: give it float32 or more.

        With DoRA the change is the difference of the whole recomposed weight, and `strength`
        multiplies that, as in the host.
        """
        for pair in self.pairs.get(name, ()):
            rows = weight.chunk(pair.place.parts)[pair.place.part]
            change = self._up(pair).to(weight.dtype) @ self._down(pair).to(weight.dtype)
            if pair.magnitude is None:
                rows += strength * pair.scale * change
            else:
                magnitude = self.tensors[pair.magnitude].to(weight.dtype)
                rows += strength * (recomposed(rows + pair.scale * change, magnitude) - rows)
        for difference in self.differences.get(name, ()):
            rows = weight.chunk(difference.place.parts)[difference.place.part]
            rows += strength * difference.scale * self._dense(difference).to(weight.dtype)

    def factors(self, name: str) -> tuple[Tensor, Tensor, float]:
        """down, up and alpha of a whole layer; the rank is the sum of its shares' ranks.

        down is the shares' stacked; up has a block for each share and zeros elsewhere. The sum is
        exact and no tensor is changed, unless the shares are scaled differently: then up takes in
        the scales, in float32.
        """
        pairs = self.pairs[name]
        dtypes = self.dtypes(name)
        down = torch.cat([self._down(pair).to(dtypes[0]) for pair in pairs])
        if len(pairs) == 1 and pairs[0].place.parts == 1:
            return down, self._up(pairs[0]).contiguous(), pairs[0].alpha
        up = torch.zeros(self.shapes[name][0], len(down), dtype=dtypes[1])
        first = 0
        for pair in pairs:
            block = up.chunk(pair.place.parts)[pair.place.part][:, first : first + pair.rank]
            block.copy_(
                self._up(pair) if self._is_even(name) else self._up(pair).to(up) * pair.scale
            )
            first += pair.rank
        return down, up, self.alpha(name)

    def difference(self, name: str) -> Tensor:
        """The difference of a whole tensor, zeros where the file says nothing."""
        dtype = self.dtypes(name)[0]
        whole = torch.zeros(self.shapes[name], dtype=wide(dtype))
        for difference in self.differences[name]:
            rows = whole.chunk(difference.place.parts)[difference.place.part]
            rows += difference.scale * self._dense(difference).to(whole.dtype)
        return whole.to(dtype)

    def rank(self, name: str) -> int:
        """The rank of a layer's change, all shares together."""
        return sum(pair.rank for pair in self.pairs[name])

    def alpha(self, name: str) -> float:
        """The alpha that goes with `factors`."""
        pairs = self.pairs[name]
        return sum(pair.alpha for pair in pairs) if self._is_even(name) else float(self.rank(name))

    def dtypes(self, name: str) -> tuple[torch.dtype, ...]:
        """Of `factors` (down, up), or of `difference`: the file's; wide where it mixes them."""

        def common(keys: Iterable[str]) -> torch.dtype:
            dtypes = {described(self.tensors)[key].dtype for key in keys}
            return dtypes.pop() if len(dtypes) == 1 else wide(*dtypes)

        if name not in self.pairs:
            return (common(difference.key for difference in self.differences[name]),)
        pairs = self.pairs[name]
        up = common(pair.up for pair in pairs)
        return common(pair.down for pair in pairs), up if self._is_even(name) else wide(up)

    def is_dora(self, name: str) -> bool:
        """Whether a layer's norms are set too (DoRA)."""
        return any(pair.magnitude for pair in self.pairs.get(name, ()))

    def _is_even(self, name: str) -> bool:
        return len({pair.scale for pair in self.pairs[name]}) == 1

    def _down(self, pair: Pair) -> Tensor:
        return self.tensors[pair.down].flatten(1)

    def _up(self, pair: Pair) -> Tensor:
        up = self.tensors[pair.up].flatten(1)
        return without_variance(up) if pair.has_variance else up

    def _dense(self, difference: Difference) -> Tensor:
        dense = self.tensors[difference.key]
        dense = dense.flatten(1) if dense.ndim > 2 else dense
        return without_variance(dense) if difference.has_variance else dense


def wide(*dtypes: torch.dtype) -> torch.dtype:
    """What sums are taken in: float32, or float64 if any is."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def recomposed(weight: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: the weight (out, in) with the norms of its rows, or of its columns, set.

    magnitude: (out,) or (out, 1) for rows, as PEFT trains it; (1, in) for columns, as LyCORIS does.
    """
    if magnitude.ndim == 1:
        magnitude = magnitude[:, None]
    axis = 1 if magnitude.shape[1] == 1 else 0
    norms = weight.norm(dim=axis, keepdim=True)
    return weight * (magnitude / norms.clamp_min(torch.finfo(weight.dtype).eps))


def without_variance(rows: Tensor) -> Tensor:
    """The rows of a released final layer that predict the noise, not those of the variance.

    rows: (pixels of the patch x 2 channels, …).
    """
    return rows.unflatten(0, (PATCH**2, -1)).chunk(2, dim=1)[0].flatten(0, 1)
