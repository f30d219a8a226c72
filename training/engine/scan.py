"""Finding the files: one row each, with what they are, and what tells that two show the same.

Listing looks at names and sizes only. `Probe` then reads each file once, for its hash, and the
headers of its packets, for when each frame is shown; one frame is decoded, to see that it can be.
`Fingerprint` decodes a few frames for their perceptual hashes, see `training.engine.duplicates`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from ..data.formats import Source, read_sources
from ..files import atomic
from .reader import Reader
from .rows import SCHEMA, Row, Section, length
from .step import Kind, Step
from .work import Work

SHARD_FILES = 100
LARGEST_SOURCE = 2**16  # bytes of a file's name and captions, which every segment's row repeats
SLOWEST_DISK = 20e6  # bytes per second: so long may a large file take to be read
_FLAT = 4.0  # standard deviation of grey levels below which a frame shows nothing to tell it by

Format = Literal["folder", "frames", "webdataset"]


# --- listing -------------------------------------------------------------------------------------


def list_files(work: Work, format: Format = "folder", *, shard_files: int = SHARD_FILES) -> int:
    """Adds a row for every file that has none, and renews those of files that have changed.

    Where only the captions changed, what steps found out about the file stays. Files keep their
    shard, and rows of files that are gone stay. What cannot be listed ends up in
    quarantine/listing.jsonl. Returns the number of rows that are new or changed. Raises ValueError
    where there is no data set of that format.
    """
    known = {row["id"]: (_state(row), _captions(row)) for row in work.rows("files")}
    rejected: list[dict[str, str]] = []

    def reject(path: str, reason: str) -> None:
        rejected.append({"path": path, "step": "listing", "reason": reason})

    changed: dict[str, Row] = {}
    with _NewRows(work, shard_files) as new:
        for source in read_sources(work.media, format, reject=reject):
            try:
                row = _row(source)
            except (OSError, ValueError) as error:
                reject(source.name, str(error))
                continue
            if row["id"] not in known:
                new.add(row)
            elif known[row["id"]] != (_state(row), _captions(row)):
                changed[row["id"]] = row
    for shard in work.shards("files"):
        if any(row["id"] in changed for row in shard.rows()):
            with shard.changing():
                shard.write(_renewed(row, changed.get(row["id"], row)) for row in shard.rows())
    _write_rejected(work.folder / "quarantine" / "listing.jsonl", rejected)
    return new.count + len(changed)


def _row(source: Source) -> Row:
    stat = source.path.stat()
    size = source.member.size if source.member else stat.st_size
    info = {"path": source.path.relative_to(source.root).as_posix()}
    if source.member:
        info["member"] = asdict(source.member)
    info |= {"size": size, "modified": stat.st_mtime_ns, "captions": list(source.captions)}
    digest = hashlib.sha256(source.name.encode()).hexdigest()
    row = {"schema": SCHEMA, "id": f"file-{digest[:24]}", "source": info}
    if (size := length(row)) > LARGEST_SOURCE:
        raise ValueError(
            f"name and captions take {size} bytes: expected at most {LARGEST_SOURCE}: shorten "
            "the captions"
        )
    return row


def _state(row: Row) -> tuple[int, int]:
    return row["source"]["size"], row["source"]["modified"]


def _captions(row: Row) -> str:
    """Digest of the captions that the file came with."""
    return hashlib.sha256(json.dumps(row["source"]["captions"]).encode()).hexdigest()[:16]


def _renewed(row: Row, listed: Row) -> Row:
    """The row as it is listed now, with its sections where the file itself is the same."""
    return {**row, **listed} if _state(row) == _state(listed) else listed


class _NewRows:
    """Fills up the last shard, then new ones."""

    def __init__(self, work: Work, shard_files: int):
        self.work, self.shard_files = work, shard_files
        shards = work.shards("files")
        self.number = int(shards[-1].name) if shards else 0
        self.room = shard_files - (sum(1 for _ in shards[-1].rows()) if shards else 0)
        self.count = 0
        self._rows: list[Row] = []

    def __enter__(self) -> _NewRows:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._write()

    def add(self, row: Row) -> None:
        if len(self._rows) >= self.room:
            self._write()
            self.number, self.room = self.number + 1, self.shard_files
        self._rows.append(row)
        self.count += 1

    def _write(self) -> None:
        if self._rows:
            shard = self.work.shard("files", self.number)
            with shard.changing():
                shard.write([*shard.rows(), *self._rows])
            self._rows = []


def _write_rejected(path: Path, rejected: list[dict[str, str]]) -> None:
    if not rejected:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    with atomic(path) as part, open(part, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in rejected)


# --- steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe(Step):
    """What a file is: its hash, size in pixels, rate, length, codec."""

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "files"

    def run(self, row: Row, reader: Reader) -> Section:
        timeline = reader.timeline()
        ticks, times = timeline.pts, timeline.times
        frame = 1 / timeline.fps if timeline.fps else 0.0
        return {
            "hash": reader.media.content(),
            "height": timeline.height,
            "width": timeline.width,
            "orientation": orientation(timeline.height, timeline.width),
            "fps": round(timeline.fps, 4),
            "seconds": round(float(times[-1]) + frame, 4),
            "frames": len(ticks),
            "base": [timeline.base.numerator, timeline.base.denominator],
            "first": int(ticks[0]),
            **reader.media.kind(),
        }

    def seconds(self, row: Row, limit: float) -> float:
        return limit + row["source"]["size"] / SLOWEST_DISK


def orientation(height: int, width: int) -> str:
    """landscape, portrait, or square (sides that differ by at most 5 %)."""
    if max(height, width) <= 1.05 * min(height, width):
        return "square"
    return "landscape" if width > height else "portrait"


@dataclass(frozen=True)
class Fingerprint(Step):
    """Perceptual hashes of a few frames: 64 bits each, in hexadecimal; null for a plain area."""

    name: ClassVar[str] = "fingerprint"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "files"
    after: ClassVar[tuple[str, ...]] = ("probe",)
    packages: ClassVar[dict[str, str]] = {"imagehash": "ImageHash"}
    limits: ClassVar[dict[str, tuple[float, float]]] = {"count": (1, 100)}

    count: int = 5  # frames, in the middle of as many equal parts of the file

    def run(self, row: Row, reader: Reader) -> Section:
        import imagehash

        source = reader.source
        ticks = source["seconds"] / Fraction(*source["base"])
        wanted = [source["first"] + int(ticks * (i + 0.5) / self.count) for i in range(self.count)]
        hashes = []
        for image in self._frames(reader, wanted):
            flat = np.asarray(image.convert("L")).std() < _FLAT
            hashes.append(None if flat else str(imagehash.phash(image)))
        return {"phash": hashes}

    def _frames(self, reader: Reader, ticks: list[int]) -> Iterator[Image.Image]:
        if not reader.media.can_seek:
            yield from reader.media.frames(ticks)
            return
        for tick in ticks:  # each by itself: what lies between is not decoded
            yield from reader.media.frames([tick])
