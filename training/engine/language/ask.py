"""Asking for an answer of a given form: checked, mended once, kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .answers import Answers, key
from .endpoint import Endpoint
from .folder import LocalModel
from .settings import ModelSettings
from .turns import Backend, Completion, Turn

LONGEST_ANSWER = 2**16  # characters that are looked at
_QUOTED = 4000  # characters of a bad answer that go back to the model
_SERVERS_KNOW = ("type", "properties", "required", "additionalProperties", "items", "enum")
_FENCES = ("```", "```json")

T = TypeVar("T", bound="Form")


class Form(BaseModel):
    """The base of what answers have to be: exactly the fields that it names, of their types."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """An answer that has the form asked for."""

    value: T
    model: str  # that gave it, as the server calls it
    tokens: tuple[int, int] | None  # of prompt and answer, with those of a first, bad answer


class Asker:
    """A model together with the answers that it gave before. folder: where they are kept."""

    def __init__(self, settings: ModelSettings, folder: Path | None = None):
        self.settings = settings
        self.answers = Answers(folder)
        self.backend: Backend = (
            Endpoint(settings) if settings.folder is None else LocalModel(settings)
        )

    def ask(
        self,
        form: type[T],
        turn: Turn,
        max_tokens: int,
        check: Callable[[T], object] = bool,
    ) -> Answer[T]:
        """The answer to a turn. check: raises ValueError for what `form` lets pass.

        An answer of another form is sent back once, with what is wrong. Raises ValueError where the
        second is no better, and as `Backend.complete` does.
        """
        schema = plain_schema(form)
        name = key(self.settings, turn, schema, max_tokens)
        kept = self.answers.get(name)
        if kept is not None:
            try:
                return Answer(_parse(form, check, kept), kept.model, kept.tokens)
            except _Bad:
                pass  # checks have become stricter, or somebody changed the file
        answer = self._complete([turn], schema, max_tokens)
        tokens = answer.tokens
        try:
            value = _parse(form, check, answer)
        except _Bad as bad:
            again = [
                turn,
                Turn("assistant", answer.text[:_QUOTED] or "…"),
                Turn("user", f"This is not what was asked for: {bad}. {_AGAIN}"),
            ]
            answer = self._complete(again, schema, max_tokens)
            tokens = add_tokens([tokens, answer.tokens])
            try:
                value = _parse(form, check, answer)
            except _Bad as worse:
                raise ValueError(f"{answer.model} gave two bad answers: {bad}; {worse}") from None
        self.answers.put(name, Completion(answer.text, answer.model, tokens))
        return Answer(value, answer.model, tokens)

    def _complete(self, turns, schema, max_tokens) -> Completion:
        answer = self.backend.complete(turns, schema, max_tokens)
        self.answers.note(self.settings, answer)
        return answer


_AGAIN = "Answer again, with one JSON object of the form asked for and nothing else."


class _Bad(Exception):
    """What is wrong with an answer, said so that the model can mend it."""


def _parse(form: type[T], check: Callable[[T], object], answer: Completion) -> T:
    if answer.cut:
        raise _Bad("it is too long and was cut off")
    if len(answer.text) > LONGEST_ANSWER:
        raise _Bad(f"it is longer than {LONGEST_ANSWER} characters")
    try:
        value = form.model_validate_json(_bare(answer.text))
        check(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _Bad(f"{place}: {first['msg']}" if place else first["msg"]) from None
    except ValueError as error:
        raise _Bad(str(error)) from None
    return value


def _bare(text: str) -> str:
    """An answer without the thoughts before it and the fence around it."""
    text = text.strip()
    if text.startswith("<think>") and "</think>" in text:
        text = text.partition("</think>")[2].lstrip()
    fence, _, rest = text.partition("\n")
    if fence.rstrip() in _FENCES and rest.endswith("```"):
        return rest.removesuffix("```")
    return text


def plain_schema(form: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a form in the few words that every server knows, nothing referred to.

    Lengths and the like are left out: they are checked here.
    """
    full = form.model_json_schema()
    definitions = full.get("$defs", {})

    def plain(schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return plain(definitions[schema["$ref"].rpartition("/")[2]])
        kept = {name: schema[name] for name in _SERVERS_KNOW if name in schema}
        if "const" in schema:
            kept["enum"] = [schema["const"]]
        if "items" in kept:
            kept["items"] = plain(kept["items"])
        if "properties" in kept:
            kept["properties"] = {k: plain(v) for k, v in kept["properties"].items()}
        return kept

    return plain(full)


def add_tokens(counts: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Tokens of prompts and answers together; None where a server did not tell."""
    counts = list(counts)
    return None if None in counts else tuple(map(sum, zip(*counts, strict=True)))
