"""Cutting files into segments: one shot each, steady, neither too short nor too long.

The section `segments` of a file's row lists the segments and, with the reason, every stretch that
was left out. When a shard of files is finished, a row is made for each segment; what other steps
found out about segments that are still the same is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import ClassVar

import numpy as np

from . import rows as table
from .reader import Reader
from .rows import SCHEMA, Row, Section, segment_id, source_of
from .step import Kind, Step
from .transitions import SIDE, Found, Transitions
from .work import Shard

MOST_SEGMENTS = 20_000  # of one file
_BLACK, _WHITE = 12.0, 243.0  # mean levels, of 255, outside of which a frame shows nothing
_FADED = 0.8  # share of a shot's level that its frames beside a fade have to have
_UNSTEADY_SHARE = 0.1  # of a segment's frames
_DECODING = 4.0  # seconds that a second of video may take, above the limit
_COPY = "has the same bytes as another file"
_RATES = 1.0, 240.0  # frames per second that the detectors' windows are made for

Stretch = tuple[int, int, str | None]  # first frame, the one after the last, why it is left out


@dataclass(frozen=True)
class Segment(Step):
    """Segments of one file.

    min_seconds, max_seconds: of a segment; longer shots are cut into equal parts. margin: seconds
    left out on both sides of a cut, where encoders mix the shots. unsteady: mean difference of a
    frame to the one before, in levels of 255, above which nothing can be followed; a segment may
    have a tenth of such frames. adaptive, content, dissolves: see `Transitions`.
    """

    name: ClassVar[str] = "segments"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "files"
    packages: ClassVar[dict[str, str]] = {
        "scenedetect": "scenedetect-headless",
        "cv2": "opencv-python-headless",
    }
    after: ClassVar[tuple[str, ...]] = ("probe", "duplicate")
    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "min_seconds": (0.01, 1e6),
        "max_seconds": (0.02, 1e6),
        "margin": (0, 60),
        "unsteady": (0, 255),
        "adaptive": (0.01, 1000),
        "content": (0, 255),
    }

    min_seconds: float = 2.0
    max_seconds: float = 10.0
    margin: float = 0.0
    unsteady: float = 45.0
    adaptive: float = 3.0
    content: float = 15.0
    dissolves: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds / 2:
            raise ValueError(
                f"min_seconds is {self.min_seconds}, max_seconds {self.max_seconds}: expected more "
                "than 0, and at least twice as much, so that long shots can be cut into equal parts"
            )

    def is_done(self, row: Row, *, retry: bool = False) -> bool:
        if not super().is_done(row, retry=retry):
            return False
        section = row[self.name]
        return "error" in section or (section.get("why") == _COPY) == _is_copy(row)

    def run(self, row: Row, reader: Reader) -> Section:
        source = source_of(row)
        if _is_copy(row):
            return _none(_COPY)
        if not source["fps"]:
            return _none("is a still picture")
        transitions = Transitions(
            min(max(source["fps"], _RATES[0]), _RATES[1]),  # the file may say anything
            adaptive=self.adaptive,
            content=self.content,
            dissolves=self.dissolves,
        )
        ticks = []
        for frame in reader.stream():
            ticks.append(frame.pts)
            transitions.add(frame.rgb(SIDE))
        found = transitions.found()
        base = Fraction(*source["base"])
        ends = np.array([*ticks, ticks[-1] + round(1 / source["fps"] / base)], np.int64)
        kept, left_out = [], []
        for start, end, why in self.stretches(found, (ends - ends[0]) * float(base)):
            first, last = int(ends[start]), int(ends[end])
            if why is None:
                kept.append([first, last, end - start])
            else:
                left_out.append([first, last, why])
        if len(kept) + len(left_out) > MOST_SEGMENTS:
            raise ValueError(f"gives {len(kept)} segments: expected at most {MOST_SEGMENTS}")
        counts = {"cuts": len(found.cuts), "fades": len(found.fades)}
        return {"kept": kept, "left_out": left_out, **counts, "dissolves": len(found.dissolves)}

    def stretches(self, found: Found, times: np.ndarray) -> Iterator[Stretch]:
        """All stretches of a file in order, those to keep and the others.

        times: float64 (n + 1,), when each frame is shown and when the last one ends, in seconds.
        """
        labels = self._labels(found, times)
        for start, end in _runs(labels, found.cuts + found.fades):
            if labels[start]:
                yield start, end, labels[start]
                continue
            before = labels[start - 1] if start else ""
            after = labels[end] if end < len(labels) else ""
            inner = _without_fades(found.levels, start, end, before == "blank", after == "blank")
            if start < inner[0]:
                yield start, inner[0], "fade"
            yield from self._judged(found, times, *inner)
            if inner[1] < end:
                yield inner[1], end, "fade"

    def _labels(self, found: Found, times: np.ndarray) -> list[str]:
        """Why each frame is left out; "" where it is not."""
        blank = (found.levels < _BLACK) | (found.levels > _WHITE)
        labels = np.where(blank, "blank", "").astype(object)
        for start, end in found.dissolves:
            labels[start:end] = "dissolve"
        for cut in found.cuts if self.margin else ():
            near = np.abs(times[:-1] - times[cut]) < self.margin
            labels[near & (labels == "")] = "beside a cut"
        return labels.tolist()

    def _judged(self, found: Found, times: np.ndarray, start: int, end: int) -> Iterator[Stretch]:
        """One shot without its transitions: left out, kept, or kept in several parts."""
        length = times[end] - times[start]
        if end == start:
            return
        if length < self.min_seconds - 1e-6:
            yield start, end, "too short"
            return
        parts = int(np.ceil(length / self.max_seconds - 1e-6))
        ideal = times[start] + length * np.arange(1, parts) / parts
        bounds = [start, *(int(np.searchsorted(times, t - 1e-6)) for t in ideal), end]
        for first, last in pairwise(bounds):
            wild = (found.changes[first + 1 : last] > self.unsteady).mean()
            yield first, last, "unsteady" if wild > _UNSTEADY_SHARE else None

    def seconds(self, row: Row, limit: float) -> float:
        return limit + _DECODING * table.seconds(row)

    def finish(self, shard: Shard) -> None:
        make_rows(shard)


def _is_copy(row: Row) -> bool:
    """Whether another file of the same bytes stands for this one, as `scan` found last."""
    return bool(row.get("duplicate", {}).get("same_bytes_as"))


def _none(why: str) -> Section:
    return {"kept": [], "left_out": [], "why": why}


def _runs(labels: list[str], cuts: list[int]) -> Iterator[tuple[int, int]]:
    """Stretches of frames with one label and no cut inside."""
    splits = set(cuts) | {i for i in range(1, len(labels)) if labels[i] != labels[i - 1]}
    yield from pairwise([0, *sorted(splits - {0, len(labels)}), len(labels)])


def _without_fades(
    levels: np.ndarray, start: int, end: int, before: bool, after: bool
) -> tuple[int, int]:
    """The shot without the frames that fade from or to a blank stretch on the side named."""
    usual = float(np.median(levels[start:end]))
    first, last = start, end
    if before:
        blank = 0.0 if levels[start - 1] < _BLACK else 255.0
        while first < last and abs(levels[first] - blank) < _FADED * abs(usual - blank):
            first += 1
    if after:
        blank = 0.0 if levels[end] < _BLACK else 255.0
        while last > first and abs(levels[last - 1] - blank) < _FADED * abs(usual - blank):
            last -= 1
    return first, last


# --- rows ----------------------------------------------------------------------------------------


def make_rows(files: Shard) -> None:
    """Makes the rows of the segments of a shard of files.

    Sections of segments that were there before stay. Rows of segments that are no more (the file
    changed, or was cut otherwise) move to `<shard>.retired.jsonl`, and come back with the segment.
    Files of the same bytes have the same segments: the first one's stay.
    """
    shard = Shard(files.work, "segments", files.name)
    retired = Shard(files.work, "segments", f"{files.name}.retired")
    with shard.changing():
        known = {row["id"]: row for part in (retired, shard) for row in part.rows()}
        rows: dict[str, Row] = {}
        for row in files.rows():
            for fresh in _segment_rows(row):
                rows.setdefault(fresh["id"], {**known.get(fresh["id"], {}), **fresh})
        gone = [row for id, row in known.items() if id not in rows]
        if gone:
            table.write(retired.path, known.values())  # all, until the shard is written
        shard.write(rows.values())
        if gone:
            table.write(retired.path, gone)
        else:
            retired.path.unlink(missing_ok=True)


def _segment_rows(row: Row) -> Iterator[Row]:
    section = row.get("segments", {})
    source = {k: v for k, v in source_of(row).items() if k != "modified"}
    if "height" in source:
        source["side"] = min(source["height"], source["width"])
    source["duplicate_of"] = row.get("duplicate", {}).get("of")
    for start, end, frames in section.get("kept", ()):
        base = Fraction(*source["base"])
        times = [round(float((tick - source["first"]) * base), 6) for tick in (start, end)]
        yield {
            "schema": SCHEMA,
            "id": segment_id(source["hash"], start, end),
            "source": source,
            "segment": {
                "start": start,
                "end": end,
                "start_s": times[0],
                "end_s": times[1],
                "seconds": round(times[1] - times[0], 6),
                "frames": frames,
                "made_by": section["made_by"],
            },
        }
