"""From rows to what the trainer reads: a metadata.jsonl of the kept segments.

A line names the file, `start` and `end` in seconds and the captions; `media` of the set, in the
recipe's `data.sets`, names the media folder. Nothing is cut or copied: the trainer decodes the
stretch it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic
from .rows import Row, value
from .work import Work

CAPTIONS = ("captions_dense", "captions_short", "captions_motion", "source")


@dataclass
class Exported:
    """What was written."""

    kept: int = 0
    uncaptioned: int = 0
    unfiltered: int = 0  # rows that no filter has seen, which are left out
    in_tars: int = 0  # rows of files in tars, which a list cannot name


def export(work: Work, out: Path, captions: Sequence[str] = CAPTIONS) -> Exported:
    """Writes `out`, whole or not at all; returns what is in it.

    captions: sections whose captions are taken, as variants in this order; "source" = those that
    the data set had. Raises ValueError where no row was kept or for an unknown caption, OSError.
    """
    for name in captions:
        if name not in CAPTIONS:
            raise ValueError(f"captions {name!r}: expected some of {', '.join(CAPTIONS)}")
    done = Exported()
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for entry in _entries(work, captions, done):
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        if not done.kept:
            why = "run `data filter` first" if done.unfiltered else "no segment was kept"
            raise ValueError(f"{work.folder}: nothing to export: {why}")
    return done


def _entries(work: Work, captions: Sequence[str], done: Exported) -> Iterator[dict[str, Any]]:
    for row in work.rows("segments"):
        keep = value(row, "filter.keep")
        if keep is None:
            done.unfiltered += 1
        elif keep and "member" in row["source"]:
            done.in_tars += 1
        elif keep:
            texts = list(_texts(row, captions))
            done.kept += 1
            done.uncaptioned += not texts
            rate = {"fps": row["source"]["fps"]} if _is_folder(row) else {}
            yield {
                "path": row["source"]["path"],
                **rate,
                "start": row["segment"]["start_s"],
                "end": row["segment"]["end_s"],
                "captions": texts,
                "id": row["id"],
            }


def _is_folder(row: Row) -> bool:
    """Whether the row is of a folder of frames, which does not know its rate itself."""
    return row["source"].get("container") == "frames"


def _texts(row: Row, captions: Sequence[str]) -> Iterator[str]:
    for name in captions:
        if name == "source":
            yield from row["source"].get("captions", ())
        elif text := value(row, f"{name}.text"):
            yield text
