"""The best of the rows that pass a filter's rules: so many in all, of each file, of each kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import zip_longest

import numpy as np
from pydantic import Field

from ..section import Section
from .rows import Row, file_name, value
from .work import Work


class Top(Section):
    """Which rows are the best."""

    count: int = Field(ge=1, description="rows")
    by: dict[str, float] = Field(
        min_length=1,
        description="values by their dotted paths, with weights: rows are ordered by the weighted "
        "mean of their ranks; a negative weight means that less is better",
    )
    per_file: int | None = Field(None, ge=1, description="at most so many rows of one file")
    balance: str | None = Field(
        None, description="dotted path of a value (a category): as many rows of each, if there are"
    )


def chosen(work: Work, top: Top, passes: Callable[[Row], bool]) -> set[str]:
    """The ids of the best rows of those that pass. Holds about 200 bytes per row in memory."""
    ids, files, kinds, scores = [], [], [], []
    for row in work.rows("segments"):
        if passes(row):
            ids.append(row["id"])
            files.append(file_name(row))
            kinds.append(str(value(row, top.balance)) if top.balance else "")
            scores.append([_number(value(row, path)) for path in top.by])
    if not ids:
        return set()
    order = _best_first(np.array(scores), np.array(list(top.by.values())), ids)
    order = _at_most(order, files, top.per_file) if top.per_file else order
    return {ids[index] for index in _balanced(order, kinds, top.count)}


def _number(found: object) -> float:
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if is_number else np.nan


def _best_first(scores: np.ndarray, weights: np.ndarray, ids: list[str]) -> list[int]:
    """Rows by the weighted mean of their ranks, 0 to 1; a value that a row lacks does not count."""
    from scipy.stats import rankdata

    ranks = np.full(scores.shape, np.nan)
    for column in range(scores.shape[1]):
        there = np.isfinite(scores[:, column])
        if there.any():
            ranks[there, column] = rankdata(scores[there, column]) / there.sum()
    known = np.isfinite(ranks) * np.abs(weights)
    total = np.where(np.isfinite(ranks), ranks * weights, 0).sum(1)
    mean = np.where(known.sum(1) > 0, total / np.maximum(known.sum(1), 1e-9), -np.inf)
    return sorted(range(len(ids)), key=lambda index: (-mean[index], ids[index]))


def _at_most(order: list[int], files: list[str], count: int) -> list[int]:
    taken: defaultdict[str, int] = defaultdict(int)
    kept = []
    for index in order:
        taken[files[index]] += 1
        if taken[files[index]] <= count:
            kept.append(index)
    return kept


def _balanced(order: list[int], kinds: list[str], count: int) -> list[int]:
    """The best of each kind in turn, until there are enough."""
    by_kind: defaultdict[str, list[int]] = defaultdict(list)
    for index in order:
        by_kind[kinds[index]].append(index)
    rounds = zip_longest(*by_kind.values())  # kinds by their best row, since `order` is sorted
    return [index for turn in rounds for index in turn if index is not None][:count]
