"""Webdataset tars: samples are read in place, nothing is unpacked.

Members that share a name up to the first dot of the file name are one sample, as in the
webdataset library: `000017.mp4` with `000017.txt` (the caption), or with `000017.json` holding
`caption`, `text`, `captions`, `start`, `end`. Only the offset and size of the media inside the tar
are kept; the decoder reads that stretch of the file. So no member's name ever becomes a path, and
links, devices and sparse members are passed over.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from .formats import (
    MEDIA_SUFFIXES,
    CaptionLines,
    Member,
    Source,
    _number,
    _suffix,
    row_captions,
    split_captions,
    walk,
)
from .tables import LARGEST_CAPTION, Reject

_LARGEST_HEADER = 2**16  # bytes of a member's headers: names and attributes, usually some hundreds


def read_tars(path: Path, *, caption_lines: CaptionLines, reject: Reject) -> Iterator[Source]:
    """The samples of one tar, or of every tar below a folder in order of name.

    Raises ValueError where there is none, or where they are compressed: those cannot be read in
    place.
    """
    root = path if path.is_dir() else path.parent
    tars = [path]
    if path.is_dir():
        files = (folder / name for folder, names in walk(path) for name in names)
        tars = sorted(file for file in files if _suffix(file.name) == ".tar")
    if not tars:
        raise ValueError(f"{path}: no .tar in it: compressed tars must be decompressed first")
    for tar in tars:
        yield from _samples(tar, root, caption_lines, reject)


def _samples(path: Path, root: Path, lines: CaptionLines, reject: Reject) -> Iterator[Source]:
    try:
        with (
            _Bounded(io.FileIO(path)) as stream,
            tarfile.open(fileobj=stream, mode="r:", errorlevel=1) as tar,
        ):
            for _, members in groupby(_members(tar), lambda member: _stem(member.name)):
                yield from _sample(tar, list(members), path, root, lines, reject)
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        reject(path.relative_to(root).as_posix(), f"not a whole, uncompressed tar ({error})")


class _Bounded(io.BufferedReader):
    """A tar of which `left` bytes may be read now: tarfile takes headers (pax, long names, maps of
    sparse files) into memory as large as they say they are, and as many as there are."""

    left = _LARGEST_HEADER

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self.left:
            raise tarfile.ReadError(f"headers of more than {_LARGEST_HEADER} bytes")
        self.left -= size
        return super().read(size)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    at = -1
    while True:
        tar.fileobj.left = _LARGEST_HEADER
        member = tar.next()
        if member is None:
            return
        if member.size < 0 or tar.offset <= at:  # else it would be read for ever
            raise tarfile.ReadError(f"member of {member.size} bytes")
        at = tar.offset
        tar.members = []  # it would keep every header it has seen
        if member.isreg() and not member.issparse():
            yield member


def _stem(name: str) -> str:
    folder, file = os.path.split(name)
    return f"{folder}/{file.split('.', 1)[0]}"


def _sample(tar, members, path: Path, root: Path, lines: CaptionLines, reject) -> Iterator[Source]:
    parts = {os.path.splitext(member.name)[1].lower(): member for member in members}
    media = [member for suffix, member in parts.items() if suffix in MEDIA_SUFFIXES]
    if not media:
        return
    try:
        row = json.loads(_read(tar, parts[".json"])) if ".json" in parts else {}
        if not isinstance(row, dict):
            raise ValueError(f".json holds a {type(row).__name__}: expected an object")
        if ".txt" in parts:
            captions = split_captions(_read(tar, parts[".txt"]), lines)
        else:
            captions = row_captions(row)
        start, end = _number(row, "start"), _number(row, "end")
    except (ValueError, RecursionError) as error:
        reject(f"{path.relative_to(root).as_posix()}/{media[0].name}", str(error))
        return
    for member in media:
        place = Member(member.name, member.offset_data, member.size)
        yield Source(path, captions, root, start, end, member=place)


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST_CAPTION:
        raise ValueError(f"{member.name} has {member.size} bytes: expected {LARGEST_CAPTION}")
    tar.fileobj.left = LARGEST_CAPTION
    return tar.extractfile(member).read()
