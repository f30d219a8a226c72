"""The figures of a set, in one pass over its rows: plain data, the content of stats.json.

Keys stay the same from version to version, so that two runs can be compared. Memory does not grow
with the number of rows: 256 of them are held at a time, and of words that rows choose freely a
bounded number is told apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ..rows import Row, sections, source_of
from .column import DROPPED, KEPT, Column, Tally, tidy
from .drops import Drops, Pairs, Verdict, verdict
from .measures import Cut, with_ruled
from .picks import Clip, Picks, clip_of, ladder, priority

FORMAT = 1
SAMPLE = 1500
"""Rows drawn at random for the joint view, and for sheets of scores without a threshold."""

_CHUNK = 256  # rows; one may have a megabyte
_MOST_STAMPS = 500

TALLIES = {
    "category": lambda row: row["categorize"]["category"],
    "orientation": lambda row: source_of(row)["orientation"],
    "resolution": lambda row: "{width} × {height}".format(**source_of(row)),
    "frame_rate": lambda row: f"{float(source_of(row)['fps']):.4g}",
    "codec": lambda row: source_of(row)["codec"],
}
"""Words that rows have, and where."""


class Collector:
    """Rows go in, figures come out.

    rules: reasons for which the filter drops rows, in their order; those that only rows name
    follow. judge: gives what became of a row.
    size: clips in a strip of a contact sheet; 0 = no sheets.
    """

    def __init__(
        self,
        cuts: Sequence[Cut] = (),
        rules: Sequence[str] = (),
        *,
        judge: Callable[[Row], Verdict] = verdict,
        size: int = 6,
        seed: int = 0,
    ):
        self._size, self._seed, self._judge = size, seed, judge
        self._columns = [
            Column(measure, [cut for cut in cuts if cut.path == measure.path], size)
            for measure in with_ruled(cut.path for cut in cuts)
        ]
        self._sample = Picks(SAMPLE)
        self._drops = Drops(rules)
        self._pairs = Pairs(self._columns)
        self._tallies = {name: Tally() for name in TALLIES}
        self._failed: dict[str, Tally] = {}
        self._made_by: dict[str, Tally] = {}
        self._stamps: dict[str, str] = {}
        self._rows, self._seconds = [0, 0], [0.0, 0.0]

    def add_all(self, rows: Iterable[Row]) -> None:
        """Every row of an iterator. Raises what the iterator raises."""
        rows = iter(rows)
        while chunk := list(islice(rows, _CHUNK)):
            self._add(chunk)

    def _add(self, rows: Sequence[Row]) -> None:
        verdicts = [self._judge(row) for row in rows]
        groups = np.array([DROPPED if keep is False else KEPT for keep, _ in verdicts])
        table = np.array([[column.measure.of(row) for column in self._columns] for row in rows])
        priorities = np.array([priority(row["id"], self._seed) for row in rows], np.int64)
        made: dict[int, Clip] = {}

        def clip(index: int) -> Clip:
            if index not in made:
                values = {
                    column.measure.path: tidy(value)
                    for column, value in zip(self._columns, table[index], strict=True)
                    if not np.isnan(value)
                }
                made[index] = clip_of(rows[index], values, *verdicts[index])
            return made[index]

        for column, values in zip(self._columns, table.T, strict=True):
            column.add(values, groups)
            column.offer(values, priorities, clip)
        self._sample.offer(np.zeros(len(rows)), priorities, clip)
        self._pairs.add(table)
        for row, group, decided in zip(rows, groups.tolist(), verdicts, strict=True):
            self._count(row, group, *decided)

    def _count(self, row: Row, group: int, keep: bool | None, reasons: Sequence[str]) -> None:
        self._rows[group] += 1
        self._drops.add(keep, reasons)
        for name, read in TALLIES.items():
            try:
                self._tallies[name].add(read(row), group)
            except (KeyError, TypeError, ValueError):
                self._tallies[name].add(None, group)
        length = self._columns[0].measure.of(row)
        self._seconds[group] += 0.0 if np.isnan(length) else length
        for name, section in sections(row).items():
            if "error" in section:
                self._failed.setdefault(name, Tally()).add(section["error"])
            if "made_by" in section:
                self._made_by.setdefault(name, Tally()).add(self._stamp(section["made_by"]))

    def _stamp(self, made_by: Any) -> str:
        """`made_by` as JSON; the same ones come over and over."""
        key = repr(made_by)
        if key not in self._stamps:
            if len(self._stamps) >= _MOST_STAMPS:
                self._stamps.clear()
            self._stamps[key] = json.dumps(made_by, sort_keys=True, ensure_ascii=False)
        return self._stamps[key]

    def figures(self) -> tuple[dict[str, Any], list[Clip]]:
        """What stats.json holds of the rows, and the clips of its contact sheets."""
        kept, dropped = self._rows
        clips: dict[str, Clip] = {}
        figures = {
            "format": FORMAT,
            "seed": self._seed,
            "totals": {
                "rows": kept + dropped,
                "kept": kept,
                "dropped": dropped,
                "seconds": tidy(sum(self._seconds)),
                "kept_seconds": tidy(self._seconds[KEPT]),
            },
            "filter": self._drops.figures(),
            "measures": {column.measure.path: column.figures() for column in self._columns},
            "joint": self._pairs.figures(self._sample.best()),
            "tallies": {name: tally.figures() for name, tally in self._tallies.items()},
            "failed": _listed(self._failed),
            "made_by": _listed(self._made_by),
            "sheets": {
                column.measure.path: self._sheet(column, clips)
                for column in self._columns
                if column.strips and column.count
            },
        }
        shown = {id: _clip_figures(clip) for id, clip in clips.items()}
        return figures | {"clips": shown}, list(clips.values())

    def _sheet(self, column: Column, clips: dict[str, Clip]) -> list[dict[str, Any]]:
        """Strips as lists of ids; the clips are added to `clips`."""
        strips = [(strip.title, strip.about, strip.clips()) for strip in column.strips]
        if not column.cuts:
            between = ladder(self._sample.best(), column.measure.path, self._size)
            between = between[::-1] if column.measure.better == "high" else between
            strips.insert(1, ("In between", "even steps from one end to the other", between))
        for _, _, chosen in strips:
            clips |= {clip.id: clip for clip in chosen}
        return [
            {"title": title, "about": about, "clips": [clip.id for clip in chosen]}
            for title, about, chosen in strips
        ]


def _listed(tallies: dict[str, Tally]) -> list[dict[str, Any]]:
    return [
        {"section": name, "text": figures["value"], "rows": figures["kept"] + figures["dropped"]}
        for name, tally in sorted(tallies.items())
        for figures in tally.figures(most=5)
    ]


def _clip_figures(clip: Clip) -> dict[str, Any]:
    figures = {"file": clip.file, "caption": clip.caption, "values": clip.values}
    segment = clip.row.get("segment", {})
    for key in ("start_s", "end_s"):
        if isinstance(segment.get(key), (int, float)):
            figures[key] = segment[key]
    return figures | {"keep": clip.keep, "reasons": list(clip.reasons)}
