"""What a segment is about, as one of a fixed list: by a model of language, from the caption.

The section `categorize` has `category`, one of the list in prompts/categorize.yaml, and `of`, the
digest of the caption that it was read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import create_model

from .language.ask import Form
from .language.prompts import Prompt, load_prompt
from .language.step import Caption, CaptionStep, digest
from .reader import Reader
from .rows import Row, Section


@dataclass(frozen=True)
class Categorize(CaptionStep):
    """The category of a row's caption."""

    name: ClassVar[str] = "categorize"
    looks: ClassVar[bool] = False

    caption: Caption = "dense"
    """Which caption it is read from."""
    prompt: str | None = None
    """A file in place of the prompt of ours, with its own categories."""

    def prompts(self) -> dict[str, Prompt]:
        return {self.name: self._prompt}

    def run(self, row: Row, reader: Reader) -> Section:
        text = self.need_text(row)
        prompt = self._prompt
        listed = "\n".join(f"- {name}: {what}" for name, what in prompt.categories.items())
        turn = prompt.turn(categories=listed, caption=text)
        answer = self.asker.ask(self._form, turn, prompt.max_tokens)
        return {
            "category": answer.value.category,
            "of": digest(text),
            "model": answer.model,
            "tokens": answer.tokens,
        }

    @cached_property
    def _prompt(self) -> Prompt:
        prompt = load_prompt(self.name, self.prompt, "categories", "caption")
        if not prompt.categories:
            raise ValueError(f"{self.prompt}: categories: expected names and what they mean")
        return prompt

    @cached_property
    def _form(self) -> type[Form]:
        names = tuple(self._prompt.categories)
        return create_model("Chosen", __base__=Form, category=(Literal[names], ...))
