"""Answers that are kept: asked for once, however often a step is run again.

    answers/ab/abcd….json     an answer that was accepted
    answers/spent.jsonl       a line for every answer that the model gave: its tokens and their cost

The folder may be deleted at any time; what is then asked again is paid for again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import atomic
from .settings import ModelSettings
from .turns import Completion, Turn

_FORMAT = 1  # of the keys
_LARGEST = 2**21  # bytes of a file
_LEDGER = "spent.jsonl"


def key(settings: ModelSettings, turn: Turn, schema: dict[str, Any], max_tokens: int) -> str:
    """Of everything that an answer depends on: the model and how it is asked, every word of the
    prompt, every pixel of the frames, what is asked for."""
    parts = [
        _FORMAT,
        settings.stamp(),
        turn.text,
        [_frame_hash(frame) for frame in turn.frames],
        schema,
        max_tokens,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _frame_hash(frame) -> str:
    return hashlib.sha256(str(frame.shape).encode() + frame.tobytes()).hexdigest()


@dataclass(frozen=True)
class Spending:
    """What was asked of models."""

    answers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0  # in the currency of the prices
    uncounted: int = 0  # answers whose tokens the server did not tell

    def summary(self) -> str:
        """A line for people."""
        line = (
            f"asked the model: {self.answers} answers, {self.tokens_in} tokens of prompts, "
            f"{self.tokens_out} of answers"
        )
        if self.cost:
            line += f", cost {self.cost:.4f} by price_in and price_out"
        if self.uncounted:
            line += f"; of {self.uncounted} answers the server did not tell the tokens"
        return line


class Answers:
    """The folder of kept answers. Several processes may use it at once. None keeps nothing."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def get(self, key: str) -> Completion | None:
        """The answer that was kept; None where there is none or its file is damaged."""
        if self.folder is None:
            return None
        try:
            with open(self._path(key), "rb") as file:
                kept = json.loads(file.read(_LARGEST))
            tokens = None if kept["tokens"] is None else tuple(map(int, kept["tokens"]))
            return Completion(str(kept["text"]), str(kept["model"]), tokens)
        except (OSError, ValueError, RecursionError, LookupError, TypeError):
            return None

    def put(self, key: str, answer: Completion) -> None:
        if self.folder is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"text": answer.text, "model": answer.model, "tokens": answer.tokens}
        with atomic(path) as part:
            part.write_text(json.dumps(kept) + "\n", encoding="utf-8")

    def note(self, settings: ModelSettings, answer: Completion) -> None:
        """Adds an answer that the model gave to what was spent."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tokens = answer.tokens
        cost = settings.cost(*tokens) if tokens else 0.0
        line = json.dumps({"model": answer.model, "tokens": tokens, "cost": cost}) + "\n"
        # One write to a file opened for appending: lines of several processes do not mix.
        file = os.open(self.folder / _LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def mark(self) -> int:
        """Where the list of what was spent ends now."""
        path = self.folder / _LEDGER
        return path.stat().st_size if path.exists() else 0

    def spent(self, since: int = 0) -> Spending:
        """What was spent since a `mark`; lines that cannot be read are left out."""
        total = [0, 0, 0, 0.0, 0]
        path = self.folder / _LEDGER
        if path.exists():
            with open(path, "rb") as file:
                file.seek(since)
                for line in file:
                    try:
                        entry = json.loads(line)
                        tokens_in, tokens_out = entry["tokens"] or (0, 0)
                        values = (1, tokens_in, tokens_out, entry["cost"], not entry["tokens"])
                        total = [sum(pair) for pair in zip(total, values, strict=True)]
                    except (ValueError, LookupError, TypeError):
                        continue
        return Spending(*total)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
