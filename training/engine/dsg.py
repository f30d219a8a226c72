"""DSG-Video: how much of a caption is not in the clip (paper, "Data engine").

A model of language turns the caption into a question for each object that it mentions. A model that
sees answers them on frames spread evenly over the segment. An object that is in none of the frames
is hallucinated. Then

    DSG-Video_i = hallucinated objects / objects mentioned
    DSG-Video_s = sentences with a hallucinated object / sentences

of a caption or, each sum by each sum, of a set of captions. An object that was seen is not asked
for again on the later frames: that changes neither number and saves most of the questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from .language.ask import Answer, Asker, Form, add_tokens
from .language.prompts import Prompt, load_prompt
from .language.settings import ModelSettings
from .language.step import FRAME_LIMITS, Caption, CaptionStep, digest, need_frames
from .language.turns import tidy
from .reader import Reader
from .rows import Row, Section

MOST_OBJECTS = 64
MOST_SENTENCES = 200
_NAMES = ("dr", "mr", "mrs", "ms", "st", "no", "vs", "prof", "e.g", "i.e", "approx")
_END = re.compile(r"""(?:[.!?…]+["'”’)\]]*(?=\s)|[。！？]+["'”’）」』]*)""")


# --- the two numbers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What DSG-Video counts, of one caption or of several; those of a set are the sum."""

    hallucinated: int = 0
    mentioned: int = 0
    hallucinated_sentences: int = 0
    sentences: int = 0

    @property
    def i(self) -> float | None:
        """DSG-Video_i; None where no object is mentioned."""
        return self.hallucinated / self.mentioned if self.mentioned else None

    @property
    def s(self) -> float | None:
        """DSG-Video_s; None where there is no sentence."""
        return self.hallucinated_sentences / self.sentences if self.sentences else None

    def numbers(self) -> tuple[int, ...]:
        """All four, in their order."""
        return self.hallucinated, self.mentioned, self.hallucinated_sentences, self.sentences

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(self.numbers(), other.numbers(), strict=True)
        return Counts(*(one + another for one, another in pairs))


def count(objects: Sequence[Section], sentences: int) -> Counts:
    """The counts of a caption of so many sentences.

    objects: each with the numbers of the `sentences` that mention it, from 1 on, and where it was
    `seen`: the index of a frame, or None.
    """
    absent = [thing for thing in objects if thing["seen"] is None]
    touched = {number for thing in absent for number in thing["sentences"]}
    return Counts(len(absent), len(objects), len(touched), sentences)


def counts_of(rows: Iterable[Row], caption: str = "dense") -> Iterator[Counts]:
    """The counts of every row that has them; their sum is the set's. Raises ValueError."""
    for row in rows:
        section = row.get(f"dsg_{caption}", {"error": ""})
        if "error" in section:
            continue
        try:
            yield count(section["objects"], section["sentences"])
        except (KeyError, TypeError):
            raise ValueError(
                f"row {row['id']}: dsg_{caption} is damaged: expected objects"
            ) from None


def split_sentences(text: str) -> list[str]:
    """The sentences of a caption, without the white space around them."""
    sentences, start = [], 0
    for end in _END.finditer(text):
        word = text[start : end.start()].rpartition(" ")[2].lower()
        following = text[end.end() :].lstrip()[:1]
        if (end[0] == "." and word.lstrip("(\"'“") in _NAMES) or following.islower():
            continue
        sentences.append(text[start : end.end()].strip())
        start = end.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


# --- the steps -----------------------------------------------------------------------------------


class Mentioned(Form):
    """An object of a caption."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    question: Annotated[str, Field(min_length=1, max_length=300)]
    sentences: Annotated[list[int], Field(min_length=1, max_length=MOST_SENTENCES)]


class Questions(Form):
    """What the model of language answers."""

    objects: Annotated[list[Mentioned], Field(max_length=MOST_OBJECTS)]


class Seen(Form):
    """What the model that sees answers, for one frame."""

    answers: Annotated[list[Literal["yes", "no"]], Field(max_length=MOST_OBJECTS)]


@dataclass(frozen=True)
class DenseDsg(CaptionStep):
    """DSG-Video of the dense captions. `model` sees and answers.

    The section has the `objects` with their questions and the frame in which each was first `seen`,
    the number of `sentences` and `frames`, `i` and `s`, and `of`, the digest of the caption.
    """

    name: ClassVar[str] = "dsg_dense"
    caption: ClassVar[Caption] = "dense"
    unstamped: ClassVar = (*CaptionStep.unstamped, "question_model", "question_prompt")
    limits: ClassVar = FRAME_LIMITS

    question_model: ModelSettings | None = None
    """The model of language that asks; None = the one that answers."""
    frames: int = 8
    """Frames on which each question is asked."""
    side: int = 448
    """Pixels of their shorter side, at most."""
    prompt: str | None = None
    """A file in place of our prompt for the answers."""
    question_prompt: str | None = None
    """A file in place of our prompt for the questions."""

    def models(self) -> dict[ModelSettings, bool]:
        asks = {self.question_model: False} if self.question_model else {}
        return {**asks, **super().models()}

    def rounds(self) -> int:
        return 1 + self.frames

    def prompts(self) -> dict[str, Prompt]:
        return {"questions": self._questions, "answers": self._answers}

    def stamp(self) -> dict[str, Any]:
        asks = {"questions_by": self.question_model.stamp()} if self.question_model else {}
        return {**super().stamp(), **asks}

    def run(self, row: Row, reader: Reader) -> Section:
        text = self.need_text(row)
        sentences = split_sentences(text)
        if len(sentences) > MOST_SENTENCES:
            raise ValueError(
                f"the caption has {len(sentences)} sentences: at most {MOST_SENTENCES}"
            )
        asked = self._ask_questions(sentences)
        objects = merge_objects(asked.value.objects)
        frames = need_frames(reader.uniform(self.frames, self.side)) if objects else []
        replies = self._look(objects, frames)
        counts = count(objects, len(sentences))
        return {
            "objects": objects,
            "sentences": len(sentences),
            "frames": len(frames),
            "i": counts.i,
            "s": counts.s,
            "of": digest(text),
            "models": sorted({reply.model for reply in (asked, *replies)}),
            "tokens": add_tokens(reply.tokens for reply in (asked, *replies)),
        }

    def _ask_questions(self, sentences: Sequence[str]) -> Answer[Questions]:
        listed = "\n".join(f"{number}. {s}" for number, s in enumerate(sentences, 1))

        def check(answer: Questions) -> None:
            for thing in answer.objects:
                if not tidy(thing.name) or not tidy(thing.question):
                    raise ValueError("objects: a name or question is empty")
                for number in thing.sentences:
                    if not 1 <= number <= len(sentences):
                        raise ValueError(
                            f"objects: there is no sentence {number}, only 1 to {len(sentences)}"
                        )

        prompt = self._questions
        turn = prompt.turn(sentences=listed)
        return self._question_asker.ask(Questions, turn, prompt.max_tokens, check)

    def _look(self, objects: list[Section], frames: Sequence) -> list[Answer[Seen]]:
        """Notes in `objects` where each was seen; returns the answers."""
        replies = []
        for index, frame in enumerate(frames):
            missing = [thing for thing in objects if thing["seen"] is None]
            if not missing:
                break
            reply = self._ask_frame([thing["question"] for thing in missing], frame)
            replies.append(reply)
            for thing, said in zip(missing, reply.value.answers, strict=True):
                if said == "yes":
                    thing["seen"] = index
        return replies

    def _ask_frame(self, questions: Sequence[str], frame) -> Answer[Seen]:
        def check(answer: Seen) -> None:
            if len(answer.answers) != len(questions):
                raise ValueError(
                    f"answers: there are {len(answer.answers)} for {len(questions)} questions"
                )

        listed = "\n".join(f"{number}. {q}" for number, q in enumerate(questions, 1))
        prompt = self._answers
        turn = prompt.turn([frame], questions=listed, count=len(questions))
        return self.asker.ask(Seen, turn, prompt.max_tokens, check)

    @cached_property
    def _question_asker(self) -> Asker:
        if self.question_model is None:
            return self.asker
        return Asker(self.question_model, Path(self.answers) if self.answers else None)

    @cached_property
    def _questions(self) -> Prompt:
        return load_prompt("dsg_questions", self.question_prompt, "sentences")

    @cached_property
    def _answers(self) -> Prompt:
        return load_prompt("dsg_answers", self.prompt, "questions", "count")


class ShortDsg(DenseDsg):
    name = "dsg_short"
    caption = "short"


class MotionDsg(DenseDsg):
    name = "dsg_motion"
    caption = "motion"


class SourceDsg(DenseDsg):
    """Of the captions that the data set had."""

    name = "dsg_source"
    caption = "source"


def merge_objects(mentioned: Iterable[Mentioned]) -> list[Section]:
    """Objects as rows hold them, not seen yet; one that is listed twice becomes one."""
    merged: dict[str, Section] = {}
    for thing in mentioned:
        name = tidy(thing.name)
        new = {"name": name, "question": tidy(thing.question), "sentences": [], "seen": None}
        known = merged.setdefault(name.casefold(), new)
        known["sentences"] = sorted({*known["sentences"], *thing.sentences})
    return list(merged.values())


def share_interval(parts: np.ndarray, wholes: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of sum(parts) / sum(wholes) over captions, (n,) each, by bootstrap; None below
    two.

    A ratio of sums is, to first order, the mean of r + (part - r whole) / mean(whole), r the ratio
    itself, so that the captions can be drawn one value each.
    """
    from ..evaluation.intervals import over_clips

    ratio = parts.sum() / wholes.sum()
    interval = over_clips(ratio + (parts - ratio * wholes) / wholes.mean())
    return interval and (max(0.0, interval[0]), min(1.0, interval[1]))


def summary(rows: Iterable[Row], caption: str = "dense") -> str:
    """DSG-Video of a set of rows with its intervals, for people."""
    numbers = (number for counts in counts_of(rows, caption) for number in counts.numbers())
    table = np.fromiter(numbers, np.int64).reshape(-1, len(fields(Counts)))  # 32 bytes a caption
    total = Counts(*map(int, table.sum(0)))
    if total.i is None:
        return f"DSG-Video ({caption}): no caption that mentions an object was looked at"
    of_objects, of_sentences = (share_interval(*table[:, pair].T) for pair in ([0, 1], [2, 3]))
    return (
        f"DSG-Video ({caption}, {len(table)} captions)\n"
        f"  i {_percent(total.i, of_objects)}: {total.hallucinated} of {total.mentioned} objects\n"
        f"  s {_percent(total.s, of_sentences)}: {total.hallucinated_sentences} of "
        f"{total.sentences} sentences"
    )


def _percent(share: float, interval: tuple[float, float] | None) -> str:
    between = f" (95 %: {100 * interval[0]:.2f} to {100 * interval[1]:.2f})" if interval else ""
    return f"{100 * share:.2f} %{between}"
