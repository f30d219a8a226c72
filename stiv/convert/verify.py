"""The command `verify`: whether a checkpoint is whole, unchanged and sound."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Card, stored_tensors, tensor_hash
from ..shapes import some
from ..tensor_file import LazyTensors, Progress, described
from .console import ProgressLine


@dataclass
class Health:
    """What was found in a checkpoint's tensors; header, card and shapes are in order."""

    card: Card
    dtypes: dict[str, int] = field(default_factory=dict)
    """How many tensors there are of a dtype."""
    odd: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Tensors with NaN or infinity: how many of each, of how many values."""
    zeros: list[str] = field(default_factory=list)
    """Tensors of nothing but zeros: well known from fresh output layers, odd in a trained model."""
    tensor_hash: str = ""
    """As computed from what the file holds."""

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        stated = self.card.tensor_hash
        found = []
        if stated not in (None, self.tensor_hash):
            found.append(
                f"its tensors hash to {self.tensor_hash}, its card says {stated}: they were "
                "changed or damaged"
            )
        return found + [
            f"{name}: {nan:,} NaN and {infinite:,} infinite of {count:,} values"
            for name, (nan, infinite, count) in self.odd.items()
        ]


def add_commands(names: argparse._SubParsersAction) -> None:
    """`verify`."""
    parser = names.add_parser(
        "verify",
        help="read a checkpoint whole: header, card, shapes, hash, NaN",
        description="Check header, card and shapes, then read every tensor: does the hash agree, "
        "are there NaN or infinities? The exit code is 1 when something is wrong.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("source", type=Path, help="STIV checkpoint")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 where something is wrong."""
    with ProgressLine() as progress:
        health = examine(args.source, progress)
    counts = ", ".join(f"{count} of {dtype}" for dtype, count in sorted(health.dtypes.items()))
    print(f"{args.source}: {sum(health.dtypes.values())} tensors ({counts})")
    for note in health.card.inferred:
        print(f"note: {note}")
    if health.card.tensor_hash is None:
        print("note: its card states no tensor hash, so a change of the tensors cannot be seen")
    if health.zeros:
        print(f"note: {len(health.zeros)} tensors are nothing but zeros ({some(health.zeros)})")
    for problem in health.problems:
        print(f"wrong: {problem}")
    if not health.problems:
        print(f"sound: tensor hash {health.tensor_hash}")
    return 1 if health.problems else 0


def examine(path: Path, progress: Progress | None = None) -> Health:
    """Read all of a checkpoint, one tensor at a time.

    Raises CheckpointError for a file whose header, card or shapes are not in order.
    """
    card, tensors = stored_tensors(path)
    health = Health(card)

    def look(name: str) -> Tensor:
        tensor = tensors[name]
        _count(health, name, tensor)
        return tensor

    # The hash takes every tensor once, in whatever order: each is looked at as it passes.
    health.tensor_hash = tensor_hash(LazyTensors(described(tensors), look), progress)
    return health


def _count(health: Health, name: str, tensor: Tensor) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    health.dtypes[dtype] = health.dtypes.get(dtype, 0) + 1
    if not tensor.is_floating_point():
        return
    values = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    nan, infinite = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
    if nan or infinite:
        health.odd[name] = nan, infinite, values.numel()
    elif values.numel() and not values.any():
        health.zeros.append(name)
