"""The state of the frame timeline: which pictures and clips lie where, as JSON.

    {"version": 1, "items": [
        {"at": 0, "file": "stiv/cat.png", "sha256": "…"},
        {"at": 8, "file": "stiv/walk.mp4", "sha256": "…", "count": 4, "every": 2},
        {"at": "last", "file": "stiv/dog.png", "sha256": "…"}]}

A table for every picture or clip, in any order; `Item` lists the keys. It travels in shared
workflows and is written by hand as well, so nothing about it is taken for granted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .header import parse_json
from .prompts import quote

VERSION = 1
MAX_FRAMES = 1_000_000
MAX_ITEMS = 4096
MAX_JSON = 16 * 2**20  # characters; room for as many items with their thumbnails
MAX_THUMB = 4096  # characters of one thumbnail
MAX_NAME = 1024

_VALUES_PER_ITEM = 10
_CLEAR = "correct it, or clear the text to begin anew"
_NUMBERS = {"start": 0, "every": 1, "count": 1, "spacing": 1}
"""Keys of an item that are numbers, with their smallest value, which is the default too."""
_KEYS = ("at", "file", "sha256", "thumb", *_NUMBERS)


@dataclass(frozen=True)
class Item:
    """A picture, or some frames of a clip, on the timeline."""

    at: int | None
    """Where its first frame goes, from 0; None ("last" in JSON): the last frame of the video."""
    file: str
    """Path in the host's input folder, with forward slashes."""
    sha256: str = ""
    """Of the file, 64 lower-case hexadecimal digits; empty: whatever lies under that name."""
    start: int = 0
    """The first frame of the clip that is taken, from 0."""
    every: int = 1
    """How far apart in the clip the frames are that are taken."""
    count: int = 1
    """How many frames are taken."""
    spacing: int = 1
    """How far apart they go on the timeline."""

    @property
    def taken(self) -> range:
        """Indices of the frames of the file that are taken."""
        return range(self.start, self.start + self.count * self.every, self.every)

    @property
    def text(self) -> str:
        """Where they go, as a text for `stiv.frames.parse_positions`."""
        if self.at is None:
            return "last"
        return f"every {self.spacing} from {self.at}" if self.spacing > 1 else str(self.at)

    def positions(self, frames: int) -> range:
        """Where they go in a video of `frames` frames; may reach beyond its end."""
        first = frames - 1 if self.at is None else self.at
        return range(first, first + self.count * self.spacing, self.spacing)


def read_timeline(text: str) -> tuple[Item, ...]:
    """The items of a timeline, bounded and strict; blank text has none.

    Raises ValueError, in one line, naming the item, the key, the value and the remedy.
    """
    if not isinstance(text, str) or len(text) > MAX_JSON:
        raise ValueError(
            f"the timeline is {quote(text)}: expected up to {MAX_JSON:,} characters of JSON"
        )
    if not text.strip():
        return ()
    try:
        values = parse_json(text, max_items=MAX_ITEMS * _VALUES_PER_ITEM)
    except ValueError as error:
        raise ValueError(f"the timeline is no valid JSON ({error}): {_CLEAR}") from None
    if not isinstance(values, dict):
        raise ValueError(f"the timeline is {quote(values)}: expected a table; {_CLEAR}")
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"the timeline's version is {quote(version)}, this pack reads {VERSION}: update "
            "ComfyUI-STIV if the timeline is newer"
        )
    _refuse_others(values, ("version", "items"), "the timeline")
    items = values.get("items", [])
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        found = f"{len(items):,} long" if isinstance(items, list) else quote(items)
        raise ValueError(
            f"the timeline's 'items' are {found}: expected a list of up to {MAX_ITEMS}"
        )
    return tuple(_read_item(values, number) for number, values in enumerate(items, 1))


def check_places(items: tuple[Item, ...], frames: int) -> None:
    """Check that every item lies within a video of `frames` frames and no two at one place.

    Raises ValueError naming the files, the frames and the remedy.
    """
    if type(frames) is not int or not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"frames is {quote(frames)}: expected a number from 1 to {MAX_FRAMES:,}")
    taken: dict[int, Item] = {}
    for item in items:
        places = item.positions(frames)
        if places[-1] >= frames:
            raise ValueError(
                f"{quote(item.file)} at frame {places[-1]} lies beyond the video of {frames} "
                f"frames, which ends with frame {frames - 1}: move or remove it, or make the "
                "video longer"
            )
        for place in places:
            if place in taken:
                raise ValueError(
                    f"{quote(taken[place].file)} and {quote(item.file)} both lie at frame {place}: "
                    "move or remove one of them"
                )
            taken[place] = item


def _read_item(values: Any, number: int) -> Item:
    what = f"item {number} of the timeline"
    if not isinstance(values, dict):
        raise ValueError(f"{what} is {quote(values)}: expected a table with 'at' and 'file'")
    _refuse_others(values, _KEYS, what)
    thumb = values.get("thumb", "")
    if not isinstance(thumb, str) or len(thumb) > MAX_THUMB:
        raise ValueError(
            f"'thumb' of {what} is {quote(thumb)}: expected a picture as a data URL of up to "
            f"{MAX_THUMB:,} characters, or none"
        )
    item = Item(
        at=_read_at(values.get("at"), what),
        file=_read_file(values.get("file"), what),
        sha256=_read_digest(values.get("sha256", ""), what),
        **{key: _read_number(values.get(key, least), key, what) for key, least in _NUMBERS.items()},
    )
    if item.at is None and item.count > 1:
        raise ValueError(
            f"{what} is {item.count} frames at 'last', where only one has room: give 'at' the "
            "number of the first"
        )
    return item


def _read_at(value: Any, what: str) -> int | None:
    if value == "last":
        return None
    if type(value) is not int or not 0 <= value < MAX_FRAMES:
        raise ValueError(
            f"'at' of {what} is {quote(value)}: expected the number of a frame, from 0, or \"last\""
        )
    return value


def _read_file(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise ValueError(
            f"'file' of {what} is {quote(value)}: expected the name of a picture or clip in "
            "ComfyUI's input folder"
        )
    return value


def _read_digest(value: Any, what: str) -> str:
    if not isinstance(value, str) or not re.fullmatch("([0-9a-f]{64})?", value):
        raise ValueError(
            f"'sha256' of {what} is {quote(value)}: expected 64 hexadecimal digits, or leave it "
            "out to take whatever lies under that name"
        )
    return value


def _read_number(value: Any, key: str, what: str) -> int:
    least = _NUMBERS[key]
    if type(value) is not int or not least <= value <= MAX_FRAMES:
        raise ValueError(
            f"{key!r} of {what} is {quote(value)}: expected a number from {least} to {MAX_FRAMES:,}"
        )
    return value


def _refuse_others(values: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = [key for key in values if key not in known]
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"{what} has an unknown key {quote(unknown[0])}{more}: remove it; known are "
            f"{', '.join(known)}"
        )
