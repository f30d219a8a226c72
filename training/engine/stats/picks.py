"""Which clips the report shows: the extreme ones, those nearest to a threshold, a random few.

A clip's place among equals is drawn from its id and a seed, so what is picked depends on the rows
alone, not on their order.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from ..rows import Row, file_name, source_of
from .measures import LONGEST_CAPTION, Cut, Measure, caption, shortened

Key = Callable[[np.ndarray], np.ndarray]

_SPARE = 16  # candidates per clip that is shown, so that they can come from different files
_SOURCE = ("path", "member", "fps", "base", "first", "seconds", "frames", "height", "width")


@dataclass(frozen=True)
class Clip:
    """What the report needs of a row that it shows."""

    id: str
    file: str
    caption: str
    row: Row = field(repr=False)  # as much of it as decoding needs
    values: dict[str, float]  # of the measures that it has
    keep: bool | None  # None = not filtered
    reasons: tuple[str, ...]


def clip_of(row: Row, values: dict[str, float], keep: bool | None, reasons: Sequence[str]) -> Clip:
    source = {key: value for key, value in source_of(row).items() if key in _SOURCE}
    small = {"id": row["id"], "source": source}
    if "segment" in row:
        small["segment"] = row["segment"]
    text = shortened(caption(row), LONGEST_CAPTION)
    reasons = tuple(shortened(reason) for reason in reasons)
    return Clip(row["id"], shortened(file_name(row)), text, small, values, keep, reasons)


def priority(id: str, seed: int) -> int:
    """A number below 2**63 that looks random and is always the same for an id and a seed."""
    digest = hashlib.blake2b(id.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") >> 1


class Picks:
    """The `size` clips of the highest keys; of equal keys those of the lowest priority."""

    def __init__(self, size: int):
        self.size = size
        self._heap: list[tuple[float, int, int, Any]] = []
        self._arrival = count()  # so that clips are never compared

    def offer(self, keys: np.ndarray, priorities: np.ndarray, clip: Callable[[int], Clip]) -> None:
        """keys: float64 (n,), NaN = not to be picked; priorities: int64 (n,); clip(i) makes the
        i-th, and is called only for those that are picked for now."""
        wanted = ~np.isnan(keys)
        if len(self._heap) == self.size:
            least, order = self._heap[0][0], -self._heap[0][1]
            wanted &= (keys > least) | ((keys == least) & (priorities < order))
        for index in np.flatnonzero(wanted).tolist():
            entry = (float(keys[index]), -int(priorities[index]), next(self._arrival))
            if len(self._heap) < self.size:
                heapq.heappush(self._heap, (*entry, clip(index)))
            elif entry > self._heap[0][:3]:
                heapq.heapreplace(self._heap, (*entry, clip(index)))

    def best(self) -> list[Clip]:
        """All of them, the highest key first."""
        ordered = sorted(self._heap, key=lambda entry: (-entry[0], -entry[1], entry[2]))
        return [entry[-1] for entry in ordered]


class Strip(Picks):
    """The clips of one row of a contact sheet, from different files where there are enough.

    key: of an array of a measure's values makes one that is highest for what is to be shown.
    """

    def __init__(self, title: str, about: str, key: Key, size: int):
        super().__init__(size * _SPARE)
        self.title, self.about, self.key, self._shown = title, about, key, size

    def clips(self) -> list[Clip]:
        return spread(self.best(), self._shown)


def strips(measure: Measure, cuts: Sequence[Cut], size: int) -> list[Strip]:
    """The contact sheet of a measure: one end, both sides of every threshold, the other end."""
    names = {"high": ("Worst", "Best"), "low": ("Best", "Worst"), "": ("Lowest", "Highest")}
    low, high = names[measure.better]
    about = ("lowest values", "highest values") if measure.better else ("", "")
    found = [Strip(low, about[0], lambda values: -values, size)]
    for cut in sorted(cuts, key=lambda cut: cut.at):
        for side in ("below", "above"):
            near = f"just {side} {cut.at:g}" if side == cut.side else f"{cut.at:g} or just {side}"
            where = f"{near}, {'dropped' if side == cut.side else 'kept'}"
            key = partial(_nearest, cut, side == cut.side)
            found.append(Strip("Borderline", where, key, -(-size // 2)))
    found.append(Strip(high, about[1], lambda values: values, size))
    return found[::-1] if measure.better == "high" else found


def _nearest(cut: Cut, dropped: bool, values: np.ndarray) -> np.ndarray:
    inside = cut.inside(values)
    return np.where((inside < 0) == dropped, -abs(inside), np.nan)


def spread(clips: Sequence[Clip], size: int) -> list[Clip]:
    """The first `size` of them in their order, a second one of a file only where files run out."""
    seen: set[str] = set()
    rank = {}
    for place, clip in enumerate(clips):
        rank[place] = clip.file in seen
        seen.add(clip.file)
    chosen = sorted(rank, key=lambda place: (rank[place], place))[:size]
    return [clips[place] for place in sorted(chosen)]


def ladder(clips: Sequence[Clip], path: str, size: int) -> list[Clip]:
    """`size` clips at even steps through the order of a measure, of those that have it."""
    ordered = sorted((clip for clip in clips if path in clip.values), key=lambda c: c.values[path])
    if len(ordered) <= size:
        return ordered
    return [ordered[int((place + 0.5) * len(ordered) / size)] for place in range(size)]
