"""Captions of segments by a model that sees: short, dense, and of the motion.

Each kind is a step with a section of its own, `captions_short` and so on; those that run together
see the frames of one pass. The section's `text` is the caption, `model` who wrote it as the server
calls it, `frames` how many frames it saw, `tokens` of prompt and answer; `made_by` holds the
model's name, the settings and the version of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from .language.ask import Form
from .language.prompts import Prompt, load_prompt
from .language.step import FRAME_LIMITS, LanguageStep, need_frames
from .language.turns import tidy
from .reader import Frame, Uniform
from .rows import Row, Section, seconds
from .step import FrameStep


class Captioned(Form):
    """What a model answers."""

    caption: str


@dataclass(frozen=True)
class Captions(LanguageStep, FrameStep):
    """One kind of caption, from frames spread evenly over the segment."""

    longest: ClassVar[int]  # characters
    limits: ClassVar = FRAME_LIMITS

    frames: int = 8
    """Frames that the model sees; fewer of a segment that has fewer."""
    side: int = 448
    """Pixels of their shorter side, at most."""
    prompt: str | None = None
    """A file in place of the prompt of ours."""

    def prompts(self) -> dict[str, Prompt]:
        return {self.name: self._prompt}

    @cached_property
    def _prompt(self) -> Prompt:
        return load_prompt(self.name, self.prompt, "count", "seconds")

    def start(self, row: Row) -> _Look:
        return _Look(self, row)

    def caption(self, row: Row, frames: list) -> Section:
        """The section for frames, uint8 (H, W, 3) each. Raises as `Asker.ask` does."""
        prompt = self._prompt
        turn = prompt.turn(frames, count=len(frames), seconds=f"{seconds(row):.1f}")
        answer = self.asker.ask(Captioned, turn, prompt.max_tokens, self._check)
        return {
            "text": tidy(answer.value.caption),
            "model": answer.model,
            "frames": len(frames),
            "tokens": answer.tokens,
        }

    def _check(self, answer: Captioned) -> None:
        text = tidy(answer.caption)
        if not text:
            raise ValueError("caption: is empty")
        if len(text) > self.longest:
            raise ValueError(f"caption: has {len(text)} characters, at most {self.longest} go")


class ShortCaptions(Captions):
    name = "captions_short"
    longest = 400


class DenseCaptions(Captions):
    name = "captions_dense"
    longest = 4000


class MotionCaptions(Captions):
    name = "captions_motion"
    longest = 2000


class _Look:
    """The frames of one segment, kept until the model is asked."""

    def __init__(self, step: Captions, row: Row):
        self._step, self._row = step, row
        self._picker = Uniform(step.frames, row)
        self._frames: list = []

    def wants(self, frame: Frame) -> bool:
        return self._picker.wants(frame)

    def add(self, frame: Frame) -> None:
        self._frames.append(frame.rgb(self._step.side))

    def result(self) -> Section:
        return self._step.caption(self._row, need_frames(self._frames))
