"""What goes to a model and comes back, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

_JOINERS = "\u200c\u200d"  # not printable, but scripts and emoji need them


@dataclass(frozen=True)
class Turn:
    """One message of a conversation; the frames come before the text."""

    role: Literal["user", "assistant"]
    text: str
    frames: tuple[np.ndarray, ...] = ()
    """uint8 (H, W, 3) each."""


@dataclass(frozen=True)
class Completion:
    """A model's answer as it came."""

    text: str
    model: str  # as the server calls it
    tokens: tuple[int, int] | None  # of prompt and answer; None where the server does not say
    cut: bool = False  # it ran into the limit of tokens


class Backend(Protocol):
    """A model that answers."""

    def complete(
        self, turns: Sequence[Turn], schema: dict[str, Any], max_tokens: int
    ) -> Completion:
        """The answer, asked to be JSON of that schema, which is not checked.

        Raises ValueError where these turns are to blame that there is none, else Unavailable.
        """

    def check(self, frames: bool) -> None:
        """Raises NotReady where the model cannot answer; frames: such as it is sent frames."""

    def close(self) -> None:
        """Lets go of what it holds."""


def tidy(text: str) -> str:
    """A model's words as one line, without what cannot be printed."""
    kept = (c for c in text if c.isprintable() or c.isspace() or c in _JOINERS)
    return " ".join("".join(kept).split())


def trial(frames: bool) -> Turn:
    """A question small enough to find out whether a model answers at all."""
    picture = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3))
    text = 'Answer with this JSON object and nothing else: {"ok": true}'
    return Turn("user", text, (picture,) if frames else ())


TRIAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
