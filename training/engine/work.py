"""The folder that the engine works in: shards of rows, and what is in between.

    work/engine.json              where the media are
    work/files/00000.jsonl        a row for each of up to so many files
    work/segments/00000.jsonl     a row for each segment of the files of shard 0
    work/quarantine/…             what failed in them, and why, shard by shard

A shard is what one task works on, and everything about a file stays in the shard of its number. A
shard that is being worked on has a `.log` beside it with the sections made so far. They get into
the rows when the shard is finished, or when a later run finds the log of one that was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic
from . import rows as table
from .rows import Log, Row
from .step import Kind, Step

FORMAT = 1
_DESCRIPTION = "engine.json"


class Busy(RuntimeError):
    """Another process works on a shard with the same steps."""


@dataclass(frozen=True)
class Shard:
    """One file of rows, and the logs beside it."""

    work: Path
    kind: Kind
    name: str  # its number, in five digits or more

    @property
    def path(self) -> Path:
        return self.work / self.kind / f"{self.name}.jsonl"

    def rows(self) -> Iterator[Row]:
        """Its rows; none where there is no such file. Raises ValueError naming a bad line."""
        return table.read(self.path) if self.path.exists() else iter(())

    def write(self, rows: Iterable[Row]) -> None:
        """Replaces its rows, whole or not at all, and the list of what failed in them."""
        failures: list[dict[str, Any]] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table.write(self.path, _noting(rows, failures))
        listed = self.work / "quarantine" / f"{self.kind}-{self.name}.jsonl"
        if not failures:
            listed.unlink(missing_ok=True)
            return
        listed.parent.mkdir(exist_ok=True)
        with atomic(listed) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(failure) + "\n" for failure in failures)

    @contextmanager
    def log(self, steps: Sequence[Step]) -> Iterator[Log]:
        """The log of these steps, with what a run that was killed left in it. Raises Busy."""
        names = ",".join(sorted(step.name for step in steps))
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        path = self.path.with_name(f"{self.name}.{digest}.log")
        with self._lock(path.name), Log(path) as log:
            yield log

    def take_in(self, log: Log) -> None:
        """Puts what a log holds into the rows; the caller then deletes it by `Log.delete`."""
        made: dict[str, dict] = {}
        for entry in log.entries():
            made.setdefault(entry["id"], {}).update(entry["sections"])
        if made:
            with self.changing():
                self.write(table.with_sections(row, made.get(row["id"], {})) for row in self.rows())

    def take_in_leftovers(self) -> bool:
        """Takes in the logs of runs that were killed, whatever their steps; whether that is all of
        them. False: a process works on the shard, and its log stays."""
        is_all = True
        for path in sorted(self.path.parent.glob(f"{self.name}.*.log")):
            try:
                with self._lock(path.name), Log(path) as log:
                    self.take_in(log)
                    log.delete()
            except Busy:
                is_all = False
        return is_all

    def changing(self):
        """Held while the rows are rewritten: other steps may finish at the same time."""
        return self._lock(self.path.name, wait=True)

    @contextmanager
    def _lock(self, name: str, wait: bool = False) -> Iterator[None]:
        from filelock import FileLock, Timeout

        folder = self.work / "locks"
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{self.kind}-{name}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise Busy(f"{self.path}: another process works on it") from None
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True)
class Work:
    """A folder that `scan` made. media: what the rows' paths are relative to."""

    folder: Path
    media: Path

    @classmethod
    def open(cls, folder: Path, media: Path | None = None, *, is_read: bool = True) -> Work:
        """An existing work folder; `media`, where the files have moved to.

        is_read: whether the media are read, and so have to be there. Raises ValueError.
        """
        path = folder / _DESCRIPTION
        try:
            described = json.loads(path.read_bytes())
            if described["format"] != FORMAT:
                raise ValueError(f"format is {described['format']!r}, expected {FORMAT}")
            found = Path(described["media"])
        except FileNotFoundError:
            raise ValueError(
                f"{folder} is no folder of the data engine: make it by `python -m training data "
                f"scan --media FOLDER --work {folder}`"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): run `data scan` again") from None
        work = cls(folder, media or found)
        if is_read and not work.media.is_dir():
            raise ValueError(f"{work.media}: the media are not there: name their folder by --media")
        return work

    @classmethod
    def create(cls, folder: Path, media: Path) -> Work:
        """The work folder of these media, new or there already. Raises ValueError, OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _DESCRIPTION
        if not path.exists():
            described = {"format": FORMAT, "media": os.path.abspath(media)}
            with atomic(path) as part:
                part.write_text(json.dumps(described) + "\n", encoding="utf-8")
        return cls.open(folder, media)

    def shard(self, kind: Kind, number: int) -> Shard:
        return Shard(self.folder, kind, f"{number:05d}")

    def shards(self, kind: Kind, part: tuple[int, int] = (0, 1)) -> list[Shard]:
        """The shards that there are, in order; part (i, n): every n-th from the i-th on."""
        names = sorted(
            (path.stem for path in (self.folder / kind).glob("*.jsonl") if path.stem.isdecimal()),
            key=int,
        )
        return [Shard(self.folder, kind, name) for name in names[part[0] :: part[1]]]

    def need_segments(self) -> None:
        """Raises ValueError where `segment` was not run yet."""
        if not self.shards("segments"):
            raise ValueError(
                f"{self.folder} has no segments yet: run `python -m training data segment "
                f"--work {self.folder}` first"
            )

    def rows(self, kind: Kind = "segments") -> Iterator[Row]:
        """Every row, in order. Raises ValueError naming a bad line."""
        for shard in self.shards(kind):
            yield from shard.rows()


def _noting(rows: Iterable[Row], failures: list[dict[str, Any]]) -> Iterator[Row]:
    for row in rows:
        for name, section in table.sections(row).items():
            if "error" in section:
                path, reason = table.file_name(row), section["error"]
                failures.append({"id": row["id"], "path": path, "step": name, "reason": reason})
        yield row
