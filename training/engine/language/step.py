"""What the steps that ask a model have in common: the model, kept answers, the time it may take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...data.worker import MEMORY
from ...section import parse_section
from ..rows import Row, value
from ..step import NotReady, Step
from .ask import Asker
from .prompts import Prompt
from .settings import HELP, ModelSettings

Caption = Literal["short", "dense", "motion", "source"]
"""Captions that there may be of a row; source: what the data set had."""

FRAME_LIMITS = {"frames": (1, 64), "side": (64, 2048)}
"""`Step.limits` of steps that send frames."""

TRIES = 2  # of an answer: the first, and the one after a bad one


@dataclass(frozen=True)
class LanguageStep(Step):
    """A step whose values are a model's answers. Settings are plain data, as every step's."""

    model: ModelSettings | None = None
    """Which model is asked."""
    answers: str | None = None
    """Folder in which answers are kept; None = nowhere."""

    looks: ClassVar[bool] = True  # whether the model is sent frames
    unstamped: ClassVar = ("model", "answers", "prompt")  # their stamps say what matters of them

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            if isinstance(given, Mapping):
                model = parse_section(ModelSettings, dict(given), field.name)
                object.__setattr__(self, field.name, model)

    @property
    def packages(self) -> Mapping[str, str]:
        needed = {"yaml": "pyyaml"}
        for model in self.models():
            if model.folder is None:
                needed["httpx"] = "httpx"
            else:
                needed |= {"torch": "torch", "transformers": "transformers"}
        return needed

    @property
    def memory(self) -> int | None:
        local = any(model.folder is not None for model in self.models())
        return None if local else MEMORY

    def models(self) -> dict[ModelSettings, bool]:
        """Every model that is asked, and whether it is sent frames."""
        return {self.model: self.looks} if self.model else {}

    def rounds(self) -> int:
        """The most questions of one row, one after the other."""
        return 1

    def prompts(self) -> dict[str, Prompt]:
        """The prompts that are used, by their names. Raises ValueError where one is unusable."""
        raise NotImplementedError

    @cached_property
    def _stamp(self) -> dict[str, Any]:
        self._need_model()
        prompts = {name: prompt.id for name, prompt in self.prompts().items()}
        return {**super().stamp(), **self.model.stamp(), "prompts": prompts}

    def stamp(self) -> dict[str, Any]:
        return dict(self._stamp)

    def check(self) -> None:
        self._need_model()
        super().check()
        self.prompts()
        for model, looks in self.models().items():
            backend = Asker(model).backend
            try:
                backend.check(looks)
            finally:
                backend.close()

    def _need_model(self) -> None:
        if self.model is None:
            raise NotReady(f"{self.name} needs a model: {HELP}")

    def settings(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: given.model_dump(mode="json") if isinstance(given, ModelSettings) else given
            for name, given in plain.items()
        }

    def seconds(self, row: Row, limit: float) -> float:
        """`limit`, and as long as the model may keep it waiting: `limit` for an answer of a local
        model, `timeout` and `patience` for one of a server."""
        times = [
            limit if model.folder else model.timeout + model.patience for model in self.models()
        ]
        return limit + (TRIES * self.rounds() + 1) * max(times, default=0.0)

    @cached_property
    def asker(self) -> Asker:
        return Asker(self.model, Path(self.answers) if self.answers else None)


@dataclass(frozen=True)
class CaptionStep(LanguageStep):
    """A step over a row's caption: made again where the caption has become another."""

    caption: ClassVar[Caption]

    @property
    def after(self) -> tuple[str, ...]:
        return () if self.caption == "source" else (f"captions_{self.caption}",)

    def is_done(self, row: Row, *, retry: bool = False) -> bool:
        if not super().is_done(row, retry=retry):
            return False
        return "error" in row[self.name] or row[self.name].get("of") == digest(self.text(row))

    def text(self, row: Row) -> str | None:
        """The row's caption; None where it has none."""
        if self.caption == "source":
            captions = row["source"].get("captions") or [None]
            return captions[0]
        return value(row, f"captions_{self.caption}.text")

    def need_text(self, row: Row) -> str:
        """The row's caption. Raises ValueError where it has none."""
        text = self.text(row)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"there is no caption ({self.caption}) to look at")
        return text


def need_frames(frames: list) -> list:
    """The frames. Raises ValueError where there are none: a model would be asked about nothing, or
    nothing be found in a clip."""
    if not frames:
        raise ValueError("the file has become too short for the frames of its row: scan it again")
    return frames


def digest(text: str | None) -> str | None:
    """What tells one caption from another, in rows."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16] if text else None
