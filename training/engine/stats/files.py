"""What became of the files before there were segments."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from ..rows import Row, source_of
from .column import tidy
from .measures import shortened

LOST = ("unreadable", "copies", "not_cut", "without_segments")
"""What keeps files from giving segments, in the order in which it is looked for."""
_MOST_REASONS = 100


def count_files(rows: Iterable[Row]) -> dict[str, Any]:
    """The figures of the rows of files.

    `files` in all; of these `unreadable`; of the others `copies`, of the same bytes as another; of
    the others `not_cut`, which `segment` has not seen yet; of the others `without_segments`.
    `duplicates` are those that show what another file shows, copies
    among them. `left_out` lists why parts of files are in no segment: `stretches`, `seconds`.
    """
    counts = dict.fromkeys(("files", *LOST, "duplicates"), 0)
    left_out: dict[str, list[float]] = {}
    for row in rows:
        counts["files"] += 1
        duplicate, segments = row.get("duplicate", {}), row.get("segments", {})
        if "error" in row.get("probe", {}):
            counts["unreadable"] += 1
            continue
        counts["duplicates"] += duplicate.get("of") is not None
        if duplicate.get("same_bytes_as"):
            counts["copies"] += 1
        elif not segments:
            counts["not_cut"] += 1
        elif not segments.get("kept"):
            counts["without_segments"] += 1
        _add_left_out(row, segments.get("left_out") or (), left_out)
    reasons = sorted(left_out.items(), key=lambda item: (-item[1][1], item[0]))
    listed = [
        {"reason": reason, "stretches": int(number), "seconds": tidy(length)}
        for reason, (number, length) in reasons
    ]
    return {**counts, "left_out": listed}


def _add_left_out(row: Row, stretches: Any, sums: dict[str, list[float]]) -> None:
    base = source_of(row).get("base") or (0, 1)
    for first, last, why in stretches:
        why = shortened(why)
        if why not in sums and len(sums) >= _MOST_REASONS:
            why = "other reasons"
        entry = sums.setdefault(why, [0, 0.0])
        entry[0] += 1
        entry[1] += float((last - first) * Fraction(*base))
