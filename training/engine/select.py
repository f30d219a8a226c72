"""The best of the rows that pass a filter's rules: so many in all, of each file, of each kind."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from hashlib import blake2b

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


def key(id: str) -> int:
    """A number that stands for a row's id: 64 bits, so that of 90 million rows no two share one,
    but for a chance of 1 in 5,000."""
    return int.from_bytes(blake2b(id.encode(), digest_size=8).digest(), "little")


def chosen(work: Work, top: Top, passes: Callable[[Row], bool]) -> set[int]:
    """The keys (see `key`) of the best rows of those that pass.

    Equally good ones are taken in the order of their keys, which is no order of files. Holds about
    150 bytes in memory for each row that passes, with four values in `by`.
    """
    keys, files, kinds = array("Q"), array("I"), array("I")
    scores = [array("d") for _ in top.by]
    codes: tuple[dict[str, int], dict[str, int]] = {}, {}
    for row in work.rows("segments"):
        if passes(row):
            keys.append(key(row["id"]))
            files.append(_code(codes[0], file_name(row)))
            kinds.append(_code(codes[1], str(value(row, top.balance)) if top.balance else ""))
            for path, column in zip(top.by, scores, strict=True):
                column.append(_number(value(row, path)))
    best = _best_first(scores, list(top.by.values()), np.array(keys))
    if top.per_file:
        best = best[_before(np.array(files)[best]) < top.per_file]
    return {keys[index] for index in _balanced(best, np.array(kinds)[best])[: top.count]}


def _code(codes: dict[str, int], name: str) -> int:
    return codes.setdefault(name, len(codes))


def _number(found: object) -> float:
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if is_number else np.nan


def _best_first(scores: list[array], weights: list[float], keys: np.ndarray) -> np.ndarray:
    """Rows by the weighted mean of their ranks, 0 to 1; a value that a row lacks does not count.

    scores: (n,) each, NaN where there is none. keys: uint64 (n,). Returns int64 (n,).
    """
    from scipy.stats import rankdata

    total, known = np.zeros((2, len(keys)))
    for column, weight in zip(scores, weights, strict=True):
        (there,) = np.isfinite(column).nonzero()
        if len(there):
            total[there] += weight * rankdata(np.array(column)[there]) / len(there)
            known[there] += abs(weight)
    worst_last = np.full(len(keys), np.inf)
    np.divide(-total, known, out=worst_last, where=known > 0)
    return np.lexsort((keys, worst_last))


def _before(codes: np.ndarray) -> np.ndarray:
    """How many earlier entries have the code of each. int64 (n,) of (n,)"""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], codes[order])
    found = np.empty(len(codes), np.int64)
    found[order] = np.arange(len(codes)) - starts
    return found


def _balanced(best: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The best of each kind in turn, kinds by their best row. kinds: of the rows in `best`."""
    _, first, kind = np.unique(kinds, return_index=True, return_inverse=True)
    return best[np.lexsort((first[kind], _before(kinds)))]
