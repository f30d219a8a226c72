"""Bringing together what two runs found out about the same footage."""

from __future__ import annotations

from .rows import merge
from .work import Shard, Work


def merge_work(work: Work, other: Work) -> tuple[int, int]:
    """Adds the sections of the other folder's segments to those of `work`, see `rows.merge`.

    Segments are looked for in the shard of the same number, so that one shard at a time is in
    memory. Returns how many were found, and how many of the other's were not and are left out.
    Raises ValueError naming a bad row.
    """
    taken = unknown = 0
    shards = {shard.name for shard in work.shards("segments")}
    for theirs in other.shards("segments"):
        rows = {row["id"]: row for row in theirs.rows()}
        count = len(rows)
        if theirs.name in shards:
            mine = Shard(work.folder, "segments", theirs.name)
            with mine.changing():
                mine.write(merge(row, rows.pop(row["id"], row)) for row in mine.rows())
        taken += count - len(rows)
        unknown += len(rows)
    return taken, unknown
