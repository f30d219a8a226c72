"""The command `soup`: the weighted average of checkpoints of one architecture."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..card import Card
from ..shapes import some
from ..tensor_file import LazyTensors, described
from .compare import card_differences
from .console import add_output, check_output, finish
from .weights import Tensors, Weights

_SAME = ("config.", "latents.", "text.", "sampling.")
"""Fields of the cards that must be equal: else the average is of numbers that mean other things."""


def add_commands(names: argparse._SubParsersAction) -> None:
    """`soup`."""
    parser = names.add_parser(
        "soup",
        help="the weighted average of two or more checkpoints",
        description="Average the weights of checkpoints of one architecture, in float32. A VAE "
        "inside is the first one's.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("sources", type=Path, nargs="+", metavar="FILE", help="STIV checkpoints")
    parser.add_argument(
        "--weights",
        help="one share for each file, such as 0.7,0.3; their sum is 1. Default: equal shares",
    )
    parser.add_argument("--title", help="default: names all")
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Average and write, or say what would be."""
    check_output(args)
    shares = _shares(args.weights, len(args.sources))
    sources = [Weights.read(path) for path in args.sources]
    names = [str(path) for path in args.sources]
    finish(args, soup(sources, shares, names=names, title=args.title))


def soup(
    sources: Sequence[Weights],
    shares: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Weights:
    """The sum of all checkpoints' weights, each times its share, in float32.

    Every tensor has the widest dtype of its sources; float8 becomes float32. names: of the
    sources, for errors.
    Raises ValueError, naming what differs, for checkpoints of other architectures, latents or text
    encoders; when it is written, for an average that is not finite.
    """
    names = names or [f"checkpoint {i}" for i in range(1, len(sources) + 1)]
    first = sources[0]
    for name, other in zip(names[1:], sources[1:], strict=True):
        found = [d for d in card_differences(first.card, other.card) if d.field.startswith(_SAME)]
        if found:
            raise ValueError(
                f"{name} is of another kind than {names[0]}: {some([str(d) for d in found])}; only "
                "checkpoints of one architecture have an average"
            )
        if bool(first.text_encoder) != bool(other.text_encoder):
            holder, bare = (names[0], name) if first.text_encoder else (name, names[0])
            raise ValueError(f"{holder} holds a text encoder, {bare} does not: both or neither")
    return first.derived(
        "soup",
        {"weights": list(shares)},
        sources,
        card=_card([source.card for source in sources], title),
        diffusion_model=_average([source.diffusion_model for source in sources], shares),
        text_encoder=_average([source.text_encoder for source in sources], shares),
    )


def _shares(text: str | None, count: int) -> list[float]:
    if count < 2:
        raise ValueError("a soup takes two or more checkpoints")
    if text is None:
        return [1 / count] * count
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--weights {text}: expected numbers, such as 0.7,0.3") from None
    if len(shares) != count:
        raise ValueError(f"--weights {text}: {len(shares)} numbers for {count} checkpoints")
    if not abs(sum(shares) - 1) < 1e-6:
        raise ValueError(f"--weights {text}: their sum is {sum(shares):.6g}, expected 1")
    return shares


def _average(parts: Sequence[Tensors], shares: Sequence[float]) -> LazyTensors:
    tables = [described(part) for part in parts]
    known = {
        name: torch.empty(
            tensor.shape,
            dtype=reduce(torch.promote_types, (_wide(table[name].dtype) for table in tables)),
            device="meta",
        )
        for name, tensor in tables[0].items()
    }

    def make(name: str) -> Tensor:
        total = parts[0][name].float() * shares[0]
        for part, share in zip(parts[1:], shares[1:], strict=True):
            total.add_(part[name].float(), alpha=share)
        total = total.to(known[name].dtype)
        if not torch.isfinite(total).all():
            raise ValueError(f"the average of {name} is not finite in {total.dtype}")
        return total

    return LazyTensors(known, make)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize == 1 else dtype


def _card(cards: Sequence[Card], title: str | None) -> Card:
    """What all cards say, with the tasks of every one; the title and the licences of all."""
    first = cards[0]

    def common(tables: list[Mapping[str, Any]]) -> dict[str, Any]:
        return {k: v for k, v in tables[0].items() if all(t.get(k) == v for t in tables[1:])}

    spec = common([card.modelspec for card in cards])
    titles = dict.fromkeys(card.modelspec.get("title") or f"STIV {card.size}" for card in cards)
    spec["title"] = title or f"Average of {', '.join(titles)}"
    licences = dict.fromkeys(card.modelspec.get("license", "not stated") for card in cards)
    spec["license"] = " and ".join(licences)
    tasks = [task for card in cards for task in card.tasks]
    tasks = [task for i, task in enumerate(tasks) if task not in tasks[:i]]
    training = common([card.training for card in cards])
    return replace(first, tasks=tasks, training=training, modelspec=spec)
