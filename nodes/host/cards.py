"""A model's card for the front end: read from the file's header alone, bounded, as plain JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import Any

import folder_paths

from ...stiv.card import Card
from ...stiv.card_checks import RANGES
from ...stiv.checkpoint import read_checkpoint_header
from ...stiv.convert.foreign import open_foreign
from ...stiv.header import CheckpointError, printable
from ...stiv.prompts import quote
from ..load import BUNDLED, BUNDLED_PATH

FOLDERS = ("checkpoints", "diffusion_models")
MOST_TASKS = 100
_TEXT = 400  # characters of any text
_SPEC = ("title", "license", "author", "date", "description", "usage_hint")


def card_of(folder: str, name: str) -> dict[str, Any]:
    """The card of a file that the loaders offer, as JSON.

    Raises ValueError for another folder, FileNotFoundError for a name that the loaders do not
    offer, ValueError naming the file for one that is no STIV model, OSError where the disk fails.
    """
    path = path_of(folder, name)
    status = os.stat(path)
    try:
        card = _read(path, status.st_mtime_ns, status.st_size)
    except CheckpointError as error:  # where the models lie on the server is its own affair
        raise ValueError(str(error).replace(path, name)) from None
    return {"folder": folder, "name": name, **card}


def path_of(folder: str, name: str) -> str:
    """Where a file lies that the loaders offer.

    Raises ValueError for another folder, FileNotFoundError for a name that they do not offer.
    """
    if folder not in FOLDERS:
        raise ValueError(f"folder is {quote(folder)}: expected {' or '.join(FOLDERS)}")
    if folder == "checkpoints" and name == BUNDLED:
        return str(BUNDLED_PATH)
    # only names that the host lists, so that none can lead out of its folders
    offered = name.lower().endswith(".safetensors") and name in folder_paths.get_filename_list(
        folder
    )
    path = folder_paths.get_full_path(folder, name) if offered else None
    if path is None:
        raise FileNotFoundError(f"models/{folder} has no file {quote(name)}: choose another one")
    return path


@lru_cache(maxsize=32)
def _read(path: str, mtime_ns: int, size: int) -> dict[str, Any]:
    """The card as JSON; `mtime_ns` and `size` tell a file from the one that was there before."""
    foreign = open_foreign(path)
    if foreign:
        return {**card_to_json(foreign.card), "inside": [], "bytes": size}
    card, parts = read_checkpoint_header(path)
    inside = [part for part in ("text_encoder", "vae") if part in parts]
    return {**card_to_json(card), "inside": inside, "bytes": size}


def card_to_json(card: Card) -> dict[str, Any]:
    """What people and widgets want to know of a card; texts are cut to 400 characters."""
    spec = {key: card.modelspec.get(key, "") for key in _SPEC}
    text = {key: card.text[key] for key in ("encoder", "width", "pooled_width", "max_tokens")}
    training = {
        _short(key): _short(value) if isinstance(value, str) else value
        for key, value in list(card.training.items())[:MOST_TASKS]
        if isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))
    }
    notes = [*card.training.get("assumed", []), *card.inferred]
    return {
        "title": _short(spec.pop("title") or f"STIV {card.size}"),
        "kind": "video" if card.config.temporal_attention else "image",
        "size": card.size,
        "parameters": card.parameters,
        "depth": card.config.depth,
        "width": card.config.width,
        "tasks": [_task(row) for row in card.tasks[:MOST_TASKS]],
        "latents": {
            key: card.latents[key] for key in ("name", "channels", "scale", "shift", "downscale")
        },
        "text": text,
        "prediction": card.prediction,
        "shift": card.sampling.get("shift"),
        "spec": {key: _short(value) for key, value in spec.items() if value},
        "training": training,
        "tensor_hash": card.tensor_hash,
        "notes": [_short(str(note)) for note in notes[:MOST_TASKS]],
        "summary": _short(card.summary(), 8000),
    }


def _task(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"task": _short(row["task"])} | {key: list(row[key]) for key in RANGES if key in row}


def _short(text: str, most: int = _TEXT) -> str:
    return "\n".join(printable(line, most) for line in text[:most].split("\n"))
