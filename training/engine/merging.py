"""Bringing together what two runs found out about the same footage."""

from __future__ import annotations

from dataclasses import dataclass, field

from .rows import merge
from .work import Shard, Work


@dataclass
class Merged:
    """What became of the other folder's segments."""

    taken: int = 0
    unknown: int = 0  # that `work` has not in the shard of the same number, and so were left out
    busy: list[str] = field(default_factory=list)  # shards that a process works on


def merge_work(work: Work, other: Work) -> Merged:
    """Adds the sections of the other folder's segments to those of `work`, see `rows.merge`.

    Segments are looked for in the shard of the same number, so that one shard at a time is in
    memory. Logs of runs that were killed are taken into their rows before, in both folders. Raises
    ValueError naming a bad row, OSError.
    """
    done = Merged()
    shards = {shard.name for shard in work.shards("segments")}
    for theirs in other.shards("segments"):
        mine = Shard(work.folder, "segments", theirs.name)
        mine.take_in_leftovers()  # else they would replace what is merged now
        if not theirs.take_in_leftovers():
            done.busy.append(str(theirs.path))
        rows = {row["id"]: row for row in theirs.rows()}
        count = len(rows)
        if theirs.name in shards:
            with mine.changing():
                mine.write(merge(row, rows.pop(row["id"], row)) for row in mine.rows())
        done.taken += count - len(rows)
        done.unknown += len(rows)
    return done
