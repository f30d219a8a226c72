"""The command `diff`: what two checkpoints' cards and tensors have not in common."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..card import Card
from ..header import printable
from ..shapes import some
from ..tensor_file import Progress, byte_count, described
from .console import ProgressLine
from .weights import Weights


@dataclass(frozen=True)
class FieldDifference:
    """A field of the card with other values; None where a card has not got it."""

    field: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.field} {_short(self.first)} → {_short(self.second)}"


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that both have, and how far apart; NaN where both have NaN counts as equal."""

    name: str
    dtypes: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    largest: float
    """The largest |a - b|; infinite where a shape or a NaN differs."""
    relative: float
    """The L2 norm of a - b over that of a."""
    squares: tuple[float, float]
    """The sums of squares of a - b and of a."""

    @property
    def is_equal(self) -> bool:
        """The same numbers in the same dtype."""
        return self.largest == 0 and self.dtypes[0] == self.dtypes[1]


@dataclass(frozen=True)
class Difference:
    """Everything that two checkpoints have not in common."""

    card: list[FieldDifference]
    missing: list[str]
    """Tensors that only the first has."""
    extra: list[str]
    """Tensors that only the second has."""
    tensors: list[TensorDifference]
    """Those that are not equal, the farthest apart first."""
    equal: int
    """How many are equal."""
    relative: float
    """The L2 norm of all differences over that of the first checkpoint."""

    @property
    def is_none(self) -> bool:
        """Whether cards and tensors are equal."""
        return not (self.card or self.missing or self.extra or self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; what is not finite is None."""
        tensors = [{k: v for k, v in asdict(t).items() if k != "squares"} for t in self.tensors]
        return _finite({**asdict(self), "tensors": tensors, "is_different": not self.is_none})


def add_commands(names: argparse._SubParsersAction) -> None:
    """`diff`."""
    parser = names.add_parser(
        "diff",
        help="what differs between two checkpoints: card, tensors, how much",
        description="Compare two checkpoints, quantised layers by the numbers that they stand for. "
        "The exit code is 1 when anything differs.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("first", type=Path, help="STIV checkpoint")
    parser.add_argument("second", type=Path, help="STIV checkpoint")
    parser.add_argument("--top", type=int, default=20, help="tensors to list (default: 20)")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the differences; 1 where there are any."""
    first, second = Weights.read(args.first), Weights.read(args.second)
    with ProgressLine() as progress:
        found = compare(first, second, progress)
    if args.json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=1))
    else:
        print("\n".join(_lines(found, max(0, args.top))))
    return 0 if found.is_none else 1


def compare(first: Weights, second: Weights, progress: Progress | None = None) -> Difference:
    """The differences of two checkpoints, tensor by tensor in float32."""
    tables = [_joined(first), _joined(second)]
    common = [name for name in tables[0] if name in tables[1]]
    total, done = sum(byte_count({n: tables[0][n][0]}) for n in common), 0
    found: list[TensorDifference] = []
    for name in common:
        found.append(_compare(name, *(table[name] for table in tables)))
        done += byte_count({name: tables[0][name][0]})
        if progress:
            progress("compare", done, total)
    changed = [difference for difference in found if not difference.is_equal]
    changed.sort(key=lambda difference: (-difference.relative, difference.name))
    squares = [sum(difference.squares[i] for difference in found) for i in (0, 1)]
    return Difference(
        card=card_differences(first.card, second.card),
        missing=[name for name in tables[0] if name not in tables[1]],
        extra=[name for name in tables[1] if name not in tables[0]],
        tensors=changed,
        equal=len(found) - len(changed),
        relative=_ratio(*squares),
    )


def card_differences(first: Card, second: Card) -> list[FieldDifference]:
    """The fields of two cards that differ; their tensor hashes, which follow, left out."""
    a, b = _fields(first), _fields(second)
    names = dict.fromkeys([*a, *b])
    return [FieldDifference(n, a.get(n), b.get(n)) for n in names if a.get(n) != b.get(n)]


def _fields(card: Card) -> dict[str, Any]:
    tables: dict[str, Any] = {
        "config": card.config.to_dict(),
        **{name: getattr(card, name) for name in ("latents", "text", "sampling", "training")},
        "modelspec": card.modelspec,
    }
    fields = {f"{table}.{key}": v for table, values in tables.items() for key, v in values.items()}
    return {**fields, "tasks": [*card.tasks]}


def _joined(weights: Weights) -> dict[str, tuple[Tensor, Mapping[str, Tensor], str]]:
    """By name with its part: a tensor for dtype and shape, and where to get it."""
    parts = {part: getattr(weights, part) for part in ("diffusion_model", "text_encoder", "vae")}
    return {
        f"{part}.{name}": (like, tensors, name)
        for part, tensors in parts.items()
        for name, like in described(tensors).items()
    }


def _compare(name: str, *sides: tuple[Tensor, Mapping[str, Tensor], str]) -> TensorDifference:
    dtypes = tuple(str(like.dtype).removeprefix("torch.") for like, _, _ in sides)
    shapes = tuple(tuple(like.shape) for like, _, _ in sides)
    if shapes[0] != shapes[1]:
        return TensorDifference(name, dtypes, shapes, math.inf, math.inf, (0.0, 0.0))
    a, b = (tensors[key].float() for _, tensors, key in sides)
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0.0, (a - b).abs()).nan_to_num_(nan=math.inf)
    largest = float(apart.max()) if apart.numel() else 0.0
    squares = tuple(
        float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2 for x in (apart, a)
    )
    return TensorDifference(name, dtypes, shapes, largest, _ratio(*squares), squares)


def _ratio(difference: float, whole: float) -> float:
    if difference == 0:
        return 0.0
    return math.sqrt(difference / whole) if 0 < whole < math.inf else math.inf


def _lines(found: Difference, top: int) -> Iterator[str]:
    if found.is_none:
        yield f"equal: the cards and all {found.equal} tensors"
        return
    for field in found.card:
        yield f"card: {printable(str(field))}"
    for names, where in ((found.missing, "first"), (found.extra, "second")):
        if names:
            yield f"only in the {where}: {len(names)} tensors ({some(names)})"
    if not found.tensors:
        yield f"tensors: all {found.equal} that both have are equal"
        return
    total = len(found.tensors) + found.equal
    yield (
        f"tensors: {len(found.tensors)} of {total} differ, relative to the first by "
        f"{found.relative:.3g} over all"
    )
    if top:
        yield f"{'relative':>10} {'largest':>10}  tensor"
    for tensor in found.tensors[:top]:
        notes = [" → ".join(map(str, pair)) for pair in (tensor.dtypes, tensor.shapes)
                 if pair[0] != pair[1]]  # fmt: skip
        note = f" ({', '.join(notes)})" if notes else ""
        yield f"{tensor.relative:>10.3g} {tensor.largest:>10.3g}  {tensor.name}{note}"
    if len(found.tensors) > top:
        yield f"and {len(found.tensors) - top} more"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
