"""Why rows were dropped: by which rule first, by which alone, and by which two together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..filter import Filter
from ..rows import Row, value
from .column import Column
from .measures import shortened
from .picks import Clip

OTHERS = "other reasons"
_MOST_REASONS = 64  # of a row
_MOST_RULES = 500


Verdict = tuple[bool | None, Sequence[str]]


def verdict(row: Row) -> Verdict:
    """Whether the filter kept the row (None: it was not filtered), and the rules against it."""
    section = row.get("filter", {})
    keep = section.get("keep")
    if not isinstance(keep, bool):
        return None, []
    reasons = section.get("reasons")
    reasons = reasons[:_MOST_REASONS] if isinstance(reasons, list) else []
    named = [shortened(reason) for reason in reasons]
    return keep, [] if keep else list(dict.fromkeys(named)) or [OTHERS]


def judge(rules: Filter) -> Callable[[Row], Verdict]:
    """`verdict`, but of rows that other rules filtered, or none, what these rules would say. Which
    rows are among the best of a set is not tried, it takes all of them."""
    digest = rules.digest()

    def judged(row: Row) -> Verdict:
        if value(row, "filter.made_by.rules") == digest:
            return verdict(row)
        reasons = rules.broken(row)
        return not reasons, reasons

    return judged


class Drops:
    """Rows by the rules that dropped them.

    rules: names in the order in which the funnel tells them; those that only rows name follow.
    """

    def __init__(self, rules: Sequence[str] = ()):
        self._filtered = self._left = 0
        self._order = {shortened(rule): place for place, rule in enumerate(rules)}
        self._counts = {rule: [0, 0, 0] for rule in self._order}  # first, any, alone

    def add(self, keep: bool | None, reasons: Sequence[str]) -> None:
        if keep is None:
            return
        self._filtered += 1
        self._left += keep
        for rule in reasons:
            if rule not in self._counts and len(self._counts) < _MOST_RULES:
                self._order[rule] = len(self._order)
                self._counts[rule] = [0, 0, 0]
        names = {rule if rule in self._counts else OTHERS for rule in reasons}
        for place, rule in enumerate(sorted(names, key=self._place)):
            counts = self._counts.setdefault(rule, [0, 0, 0])
            counts[0] += place == 0
            counts[1] += 1
            counts[2] += len(names) == 1

    def _place(self, rule: str) -> int:
        return self._order.get(rule, len(self._order))

    def figures(self) -> dict[str, Any]:
        """`rules` in order, each with the rows that it dropped when those before it had dropped
        theirs (`first`), would drop by itself (`any`), and that no other dropped (`only`)."""
        rules, left = [], self._filtered
        for rule in sorted(self._counts, key=self._place):
            first, every, only = self._counts[rule]
            left -= first
            rules.append({"rule": rule, "first": first, "any": every, "only": only, "left": left})
        return {"rows": self._filtered, "kept": self._left, "rules": rules}


class Pairs:
    """How many rows the thresholds of two measures both cut off, for any two."""

    def __init__(self, columns: Sequence[Column]):
        self._columns = columns
        self._cutting = [index for index, column in enumerate(columns) if column.cuts]
        self._counts = np.zeros((len(self._cutting), len(self._cutting)), np.int64)
        self._rows = 0

    def add(self, table: np.ndarray) -> None:
        """table: values (rows, measures), NaN where there is none."""
        self._rows += len(table)
        if not self._cutting:
            return
        off = np.stack(
            [
                np.any([cut.inside(table[:, i]) < 0 for cut in self._columns[i].cuts], axis=0)
                for i in self._cutting
            ]
        ).astype(np.int64)
        self._counts += off @ off.T

    def figures(self, sample: Sequence[Clip]) -> dict[str, Any] | None:
        """The two measures that cut off most rows: counts of all rows, and points of the sample.

        None where fewer than two have thresholds.
        """
        if len(self._cutting) < 2:
            return None
        x, y = sorted(range(len(self._cutting)), key=lambda i: (-self._counts[i, i], i))[:2]
        both, by_x, by_y = (int(self._counts[a, b]) for a, b in ((x, y), (x, x), (y, y)))
        paths = [self._columns[self._cutting[i]].measure.path for i in (x, y)]
        return {
            "x": paths[0],
            "y": paths[1],
            "both": both,
            "only_x": by_x - both,
            "only_y": by_y - both,
            "neither": self._rows - by_x - by_y + both,
            "points": [
                [*(clip.values[path] for path in paths), clip.keep is not False]
                for clip in sample
                if all(path in clip.values for path in paths)
            ],
        }
