"""The row format: one line of JSON carries everything that is known of one segment, or one file.

    {"schema": 1, "id": …, "source": {…}, "segment": {…}, "motion": {…}, "captions_dense": {…}, …}

`source` is the file and `segment` the stretch of it; every other key is the *section* of one step
of the engine, named like the step. A section holds the step's values and `made_by`, which is the
step's version, settings and model. So a step is done again exactly when `made_by` changed, sections
are added without touching others, and rows of two runs are merged section by section. A section may
hold `error` instead of values: the step failed for this row, and why.

Rows are plain dicts that JSON can hold. They come from strangers as much as the videos do: lines
are bounded in length and a bad one is an error that names file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from ..data.tables import LARGEST_CAPTION, read_rows
from ..files import atomic

SCHEMA = 1
LARGEST_ROW = LARGEST_CAPTION  # bytes of one line
_ROOM = 2**16  # of these, that steps leave to what is written beside them, as `filter`
_SECTION = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ID = re.compile(r"[0-9a-zA-Z_.-]{1,200}")
_FIRST = ("schema", "id", "source", "segment")  # keys that are no sections, in their order

Row = dict[str, Any]
Section = dict[str, Any]


class SourceInfo(TypedDict, total=False):
    """The file of a row. A row of a file has the first five here, the others in `probe`."""

    path: str  # relative to the media folder, with forward slashes
    member: dict[str, Any]  # in a tar: name, offset, size
    size: int  # bytes
    modified: int  # time stamp in nanoseconds; only in rows of files
    captions: list[str]  # that the data set had
    hash: str  # SHA-256 of the content
    height: int  # pixels as displayed
    width: int
    orientation: str  # landscape, portrait, square
    fps: float  # mean rate; 0 = a still
    seconds: float
    frames: int
    base: list[int]  # numerator and denominator of one tick of the time stamps, in seconds
    first: int  # time stamp of the first frame, ticks
    container: str
    codec: str
    side: int  # the shorter one, pixels; only in rows of segments
    duplicate_of: str | None  # path of the file that shows the same; only in rows of segments


class SegmentInfo(TypedDict, total=False):
    """The stretch of a file that a row is about."""

    start: int  # time stamp of its first frame, ticks of the source's base
    end: int  # time stamp after its last frame
    start_s: float  # the same in seconds from the file's first frame
    end_s: float
    seconds: float
    frames: int
    made_by: dict[str, Any]  # version and settings of the cutting


def segment_id(content: str, start: int, end: int) -> str:
    """The name of a segment: the same wherever the file lies and whatever its name.

    content: SHA-256 of the file. start, end: ticks.
    """
    return f"{content[:24]}-{start}-{end}"


def source_of(row: Row) -> SourceInfo:
    """All that is known of the row's file."""
    probe = {k: v for k, v in row.get("probe", {}).items() if k not in ("made_by", "error")}
    return {**row["source"], **probe}


def file_name(row: Row) -> str:
    """The file for people: its path, in a tar followed by the member's name."""
    path, member = row["source"]["path"], row["source"].get("member")
    return f"{path}/{member['name']}" if member else path


def seconds(row: Row) -> float:
    """Length of the row's segment, or of its file where it has none."""
    segment = row.get("segment")
    if segment:
        return segment["end_s"] - segment["start_s"]
    return source_of(row).get("seconds", 0.0)


def sections(row: Row) -> dict[str, Section]:
    """The row's sections by the names of their steps."""
    return {name: value for name, value in row.items() if name not in _FIRST}


def value(row: Row, path: str) -> Any:
    """What a dotted path leads to, as "motion.score"; None where there is nothing."""
    found: Any = row
    for key in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def check_row(row: Any) -> Row:
    """The row itself. Raises ValueError saying what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}: expected a JSON object")
    schema = row.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        remedy = "it is of a newer version: update this pack" if newer else "scan the files again"
        raise ValueError(f"schema is {schema!r}, expected {SCHEMA}: {remedy}")
    if not isinstance(row.get("id"), str) or not _ID.fullmatch(row["id"]):
        raise ValueError(f"id is {str(row.get('id'))[:80]!r}: expected letters, digits, _ . -")
    if not isinstance(row.get("source"), dict) or not isinstance(row["source"].get("path"), str):
        raise ValueError("source.path is missing: expected the path of a file")
    for name, section in row.items():
        if name in _FIRST[:2]:
            continue
        if not _SECTION.fullmatch(name) or not isinstance(section, dict):
            raise ValueError(f"{name[:80]!r} is {str(section)[:80]!r}: expected a section")
    return row


def to_line(row: Row) -> str:
    """The row as a line of a file, its sections in alphabetical order so that equal rows are equal
    lines. Raises ValueError for what JSON cannot hold (NaN) or what is too long."""
    line = _encoded(row)
    if len(line) >= LARGEST_ROW:
        raise ValueError(
            f"row {row.get('id')} of {file_name(row)} takes {len(line)} bytes: expected less than "
            f"{LARGEST_ROW}"
        )
    return line.decode() + "\n"


def length(row: Row) -> int:
    """Bytes of the row's line. Raises ValueError for what JSON cannot hold."""
    return len(_encoded(row))


def with_sections(row: Row, made: Mapping[str, Section]) -> Row:
    """The row with sections that were made for it.

    Where it would become too long to be written, the largest of them give way to an error.
    """
    whole = {**row, **made}
    sizes = {name: len(json.dumps(section)) for name, section in made.items()}
    for name in sorted(made, key=lambda name: -sizes[name]):
        if length(whole) <= LARGEST_ROW - _ROOM:
            break
        why = f"gave {sizes[name]} bytes: with them the row is longer than rows may be"
        whole[name] = {"error": why, "made_by": made[name].get("made_by", {})}
    return whole


def _encoded(row: Row) -> bytes:
    names = [*(name for name in _FIRST if name in row), *sorted(sections(row))]
    ordered = {name: row[name] for name in names}
    line = json.dumps(ordered, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    return line.encode("utf-8", "backslashreplace")  # halves of surrogate pairs


# --- files of rows -------------------------------------------------------------------------------


def read(path: Path) -> Iterator[Row]:
    """Every row of a file, one at a time. Raises ValueError naming the first bad line, OSError."""

    def reject(where: str, reason: str) -> None:
        raise ValueError(f"{path.parent / where}: {reason}")

    seen: set[str] = set()
    for where, row in read_rows(path, "jsonl", reject):
        try:
            check_row(row)
            if row["id"] in seen:
                raise ValueError(f"id {row['id']} is there a second time")
        except ValueError as error:
            reject(where, str(error))
        seen.add(row["id"])
        yield row


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file of rows, whole or not at all. Raises ValueError as `to_line` does, OSError."""
    with atomic(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(map(to_line, rows))


class Log:
    """A file of JSON lines that only grows, and that a killed process leaves usable.

    A line that was not written to its end is cut off when the log is opened again. A context
    manager.
    """

    def __init__(self, path: Path):
        self.path = path
        _cut_to_whole_lines(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entries(self) -> Iterator[dict[str, Any]]:
        """What is in it so far."""
        with open(self.path, "rb") as file:
            yield from map(json.loads, file)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds a line; it is with the operating system when this returns."""
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        self._file.write(line.encode("utf-8", "backslashreplace"))

    def delete(self) -> None:
        self._file.close()
        self.path.unlink()


def _cut_to_whole_lines(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "r+b") as file:
        end = 0
        for line in file:
            try:
                json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            end += len(line)
        file.truncate(end)


# --- merging -------------------------------------------------------------------------------------


def merge(first: Row, second: Row) -> Row:
    """One row of two with the same id: the sections of both.

    Where both have a section, the one of the newer step version stays; of equal versions one with
    values before one with an error, then that of `first`. `source` and `segment` are `first`'s.
    Raises ValueError where the ids differ.
    """
    if first["id"] != second["id"]:
        raise ValueError(f"rows of two segments, {first['id']} and {second['id']}")
    merged = {**second, **first}
    for name, section in sections(second).items():
        if name in first and _rank(section) > _rank(first[name]):
            merged[name] = section
    return merged


def _rank(section: Section) -> tuple[int, bool]:
    version = value(section, "made_by.version")
    return version if isinstance(version, int) else 0, "error" not in section


def merge_files(paths: Iterable[Path], out: Path) -> int:
    """Merges files of rows into one, which may be one of them; returns the number of rows.

    Rows keep the order in which their ids first occur. The rows are held in memory: merge shard
    by shard what is larger. Raises ValueError naming a bad line, OSError.
    """
    merged: dict[str, Row] = {}
    for path in paths:
        for row in read(path):
            known = merged.get(row["id"])
            merged[row["id"]] = row if known is None else merge(known, row)
    write(out, merged.values())
    return len(merged)
