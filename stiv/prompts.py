"""Prompts and seeds of single segments, written by people, one a line.

    a quiet harbour at dawn        the prompt of everything
    3: a dog runs along the pier   of segment 3
    5-8: the dog sleeps            of segments 5 to 8
    key: the harbour, wide shot    of the key frames

and seeds: `7: 123` of segment 7; `key: 5` of the key frames, `key1: 5` of their second window.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

MAX_TEXT = 1_000_000  # characters
MAX_LINES = 20_000
MAX_SEED = 2**64 - 1

# "16:9 film" could be either, so a digit straight after the colon is asked about, not guessed.
_NUMBERED = re.compile(r"([0-9]{1,9})(?:\s*[-–]\s*([0-9]{1,9}))?\s*:(?![0-9])(.*)")
_KEY = re.compile(r"key\s*:(.*)", re.I)
_LOOKS_NUMBERED = re.compile(r"(?:seg(?:ment)?|key|x[0-9]+_)?[\s0-9,;.–-]*:", re.I)
_SEED = re.compile(r"(?:(key)?([0-9]{1,9})|(key))\s*:\s*([0-9]{1,20})", re.I)

_PROMPT_FORMS = (
    "write '3: text', '3-5: text', 'key: text', or a text without a number for everything; "
    "a text that begins like a number needs a word before it"
)
_SEED_FORMS = "write '7: 123' for segment 7, 'key: 123' or 'key1: 123' for key frames"


@dataclass(frozen=True)
class Prompts:
    """What `parse_prompts` read; the fields are those of `stiv.plan.Plan`."""

    prompt: str = ""
    """Of every segment that has no other."""
    key_prompt: str = ""
    """Of the key frames; empty: that of everything."""
    prompts: tuple[tuple[int, int, str], ...] = ()
    """(first segment, last segment, text), ascending, no segment twice."""


@dataclass(frozen=True)
class Seeds:
    """What `parse_seeds` read; the fields are those of `stiv.plan.Plan`."""

    seeds: tuple[tuple[int, int], ...] = ()
    """(segment, seed), ascending, no segment twice."""
    key_seeds: tuple[tuple[int, int], ...] = ()
    """(window of key frames, seed), likewise."""


@dataclass(frozen=True)
class _Line:
    number: int
    text: str

    def __str__(self) -> str:
        return f"line {self.number} ({quote(self.text)})"


def parse_prompts(text: str, segments: int | None = None, keys: int | None = None) -> Prompts:
    """Prompts, one a line.

    `segments` and `keys` are how many segments and windows of key frames there are; None: not
    known, so any number will do. Raises ValueError quoting the line for a segment that does not
    exist, for two prompts of one segment (both lines), and for a line that is not understood.
    """
    texts: dict[str, tuple[_Line, str]] = {}
    found: list[tuple[int, int, str, _Line]] = []
    for line in _lines(text, "prompts"):
        if match := _KEY.fullmatch(line.text):
            if keys == 0:
                raise ValueError(f"{line} is for key frames, which this video has none of")
            _set_once(texts, "the key frames", line, _prompt_of(match[1], line))
        elif match := _NUMBERED.fullmatch(line.text):
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                raise ValueError(f"{line} runs backwards: write {last}-{first}")
            _check_exists(last, segments, "segment", line)
            found.append((first, last, _prompt_of(match[3], line), line))
        elif _LOOKS_NUMBERED.match(line.text):
            raise ValueError(f"{line} is not understood: {_PROMPT_FORMS}")
        else:
            _set_once(texts, "everything", line, line.text)
    found.sort(key=lambda entry: entry[0])
    for (_, end, _, line), (first, _, _, other) in pairwise(found):
        if first <= end:
            raise ValueError(_twice("prompts", f"segment {first}", line, other))
    return Prompts(
        prompt=texts["everything"][1] if "everything" in texts else "",
        key_prompt=texts["the key frames"][1] if "the key frames" in texts else "",
        prompts=tuple((first, last, prompt) for first, last, prompt, _ in found),
    )


def parse_seeds(text: str, segments: int | None = None, keys: int | None = None) -> Seeds:
    """Seeds, one a line; `segments`, `keys` and errors as in `parse_prompts`.

    A seed is 0 to 2^64 - 1.
    """
    found: dict[tuple[str, int], tuple[_Line, int]] = {}
    for line in _lines(text, "seeds"):
        match = _SEED.fullmatch(line.text)
        if not match:
            raise ValueError(f"{line} is not understood: {_SEED_FORMS}")
        kind, number, seed = match[1] or match[3], int(match[2] or 0), int(match[4])
        if seed > MAX_SEED:
            raise ValueError(f"{line} has a seed above the highest, {MAX_SEED}: use a smaller one")
        if kind:
            _check_exists(number, keys, "window of key frames", line)
        else:
            _check_exists(number, segments, "segment", line)
        place = ("key", number) if kind else ("segment", number)
        if place in found:
            name = f"key{number}" if kind else f"segment {number}"
            raise ValueError(_twice("seeds", name, found[place][0], line))
        found[place] = line, seed
    seeds = {"key": [], "segment": []}
    for (kind, number), (_, seed) in sorted(found.items(), key=lambda item: item[0]):
        seeds[kind].append((number, seed))
    return Seeds(seeds=tuple(seeds["segment"]), key_seeds=tuple(seeds["key"]))


def quote(value: object, longest: int = 60) -> str:
    """A stranger's value for an error message: on one line and not too long."""
    try:
        text = repr(value[:longest] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        return "a value too long to print"
    cut = len(value) > longest if isinstance(value, str) else len(text) > longest
    return f"{text[:longest]}…" if cut else text


def _lines(text: str, what: str) -> list[_Line]:
    if not isinstance(text, str):
        raise ValueError(f"{what} are {quote(text)}: expected text, one a line")
    if len(text) > MAX_TEXT:
        raise ValueError(f"{what} are {len(text):,} characters long: at most {MAX_TEXT:,}")
    if text.count("\n") >= MAX_LINES:
        raise ValueError(f"{what} have {text.count(chr(10)) + 1:,} lines: at most {MAX_LINES:,}")
    lines = (_Line(number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [line for line in lines if line.text]


def _prompt_of(text: str, line: _Line) -> str:
    if not text.strip():
        raise ValueError(f"{line} has no text after the colon: write one or remove the line")
    return text.strip()


def _set_once(found: dict[str, tuple[_Line, str]], place: str, line: _Line, prompt: str) -> None:
    if place in found:
        raise ValueError(_twice("prompts", place, found[place][0], line))
    found[place] = line, prompt


def _twice(what: str, place: str, line: _Line, other: _Line) -> str:
    first, second = sorted((line, other), key=lambda entry: entry.number)
    return f"{first} and {second} are both {what} of {place}: remove one of them"


def _check_exists(number: int, count: int | None, what: str, line: _Line) -> None:
    if count == 0:
        raise ValueError(f"{line} is for {what} {number}, but there is no {what}")
    if count is not None and number >= count:
        raise ValueError(f"{line} is for {what} {number}: the last one is {count - 1}")
