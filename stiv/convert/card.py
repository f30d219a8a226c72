"""The command `card`: what a checkpoint says of itself, read and corrected."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from ..card import Card
from ..checkpoint import read_card
from ..header import parse_json
from .console import add_output, check_output, finish
from .weights import Weights

MODELSPEC = (
    "title", "license", "author", "description", "date", "tags", "trigger_phrase", "usage_hint",
)  # fmt: skip
"""The public modelspec keys that may be edited."""

FIELDS = (
    *(f"modelspec.{key}" for key in MODELSPEC), "training.note", "tasks", "sampling.shift",
)  # fmt: skip
"""All that may be edited: what the tensors and the network are is not for hands."""

_MAX_LENGTH = 10_000
_MAX_FILE = 2**20


def add_commands(names: argparse._SubParsersAction) -> None:
    """`card`."""
    parser = names.add_parser(
        "card",
        help="print a checkpoint's card, or write a copy with edited fields",
        description="Print the card of a checkpoint. With --set, write a copy with other values. "
        f"Fields: {', '.join(FIELDS)}. tasks takes the name of a JSON file with a list of tasks; "
        "an empty value removes a field.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("source", type=Path, help="STIV checkpoint")
    parser.add_argument("--set", action="append", metavar="FIELD=VALUE", help="may be repeated")
    add_output(parser, required=False)


def run(args: argparse.Namespace) -> None:
    """Print, or write a copy; the tensors stay as they are stored."""
    if not args.set and args.out:
        raise ValueError("--out without --set: name what to edit, such as --set modelspec.title=…")
    if not args.set:
        print(read_card(args.source).summary())
        return
    if args.out is None:
        raise ValueError("--set needs --out: the file to write; it may be the source's own name")
    check_output(args)
    weights = Weights.read(args.source, as_stored=True)
    finish(args, replace(weights, card=edited(weights.card, args.set)))


def edited(card: Card, settings: Sequence[str]) -> Card:
    """The card with fields changed as in `modelspec.title=A title`; an empty value removes one.

    Raises ValueError, naming the field, for one that may not be edited and for a bad value.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: expected FIELD=VALUE")
        if name not in FIELDS:
            raise ValueError(f"--set {name}: cannot be edited; those are {', '.join(FIELDS)}")
        try:
            card = _with(card, name, value)
        except ValueError as error:
            raise ValueError(f"--set {name}: {error}") from None
    return card


def _with(card: Card, name: str, value: str) -> Card:
    table, _, key = name.partition(".")
    if name == "tasks":
        return replace(card, tasks=_tasks(value) if value else [])
    if name == "sampling.shift":
        try:
            return replace(card, sampling={**card.sampling, key: float(value)})
        except ValueError as error:
            raise ValueError(f"{value!r} is no shift: {error}") from None
    if len(value) > _MAX_LENGTH:
        raise ValueError(f"{len(value):,} characters are too many, at most {_MAX_LENGTH:,}")
    if key == "date" and value:
        date.fromisoformat(value)
    entries = {k: v for k, v in getattr(card, table).items() if k != key}
    return replace(card, **{table: {**entries, key: value} if value else entries})


def _tasks(path: str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there is no file {path}: expected a JSON file with a list of tasks")
    if file.stat().st_size > _MAX_FILE:
        raise ValueError(f"{path} has more than {_MAX_FILE:,} bytes")
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from None
