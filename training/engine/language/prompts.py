"""Prompts as files: training/engine/prompts/<name>.yaml, or a user's own of the same form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
from pydantic import Field

from ...section import Section, load_section
from .turns import Turn

FOLDER = Path(__file__).parents[1] / "prompts"


class Prompt(Section):
    """What a model is told. In `text`, $word stands for what differs from row to row."""

    version: int = Field(ge=1, description="raised with every change that is meant to matter")
    max_tokens: int = Field(ge=16, le=32768, description="of the answer")
    text: str = Field(min_length=1, max_length=20_000)
    categories: dict[str, str] = Field({}, description="of `categorize`: names and what they mean")

    def turn(self, frames: Sequence[np.ndarray] = (), **values: object) -> Turn:
        """The prompt with the values for its $words, which are not looked into.

        frames: uint8 (H, W, 3) each. It is all the user's turn: not every model has a system's.
        """
        text = Template(self.text).substitute({k: str(v) for k, v in values.items()})
        return Turn("user", text.strip(), tuple(frames))

    def check(self, *words: str) -> None:
        """Raises ValueError where the text has a $word that is not among these, or lacks one."""
        marks = {word: f"\0{word}\0" for word in words}
        try:
            text = self.turn(**marks).text
        except (KeyError, ValueError) as error:
            known = ", ".join(f"${word}" for word in words)
            raise ValueError(f"text: {error} is not known: expected {known}; $$ is a $") from None
        for word, mark in marks.items():
            if mark not in text:
                raise ValueError(f"text: ${word} is missing")

    @property
    def id(self) -> str:
        """What rows call the prompt: its version, and a digest that no change escapes."""
        words = self.model_dump_json(exclude_defaults=True)
        return f"{self.version}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def load_prompt(name: str, path: str | None, *words: str) -> Prompt:
    """A prompt of ours by its name, or the file at `path` in its place.

    words: what its text has to leave open. Raises ValueError naming the file and what is wrong.
    """
    file = Path(path).expanduser() if path else FOLDER / f"{name}.yaml"
    prompt = load_section(Prompt, file)
    try:
        prompt.check(*words)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return prompt
