"""A film that grows piece by piece and plays at any moment, after a crash as well.

    header | piece 0 | piece 1 | …          piece: free box, moof, mdat, mark

- A player that meets half a fragment refuses the whole file, half a `free` box it skips. So a
  piece is written inside a `free` box, and when all of it is on the disk that box is shrunk to
  its 8 bytes, which uncovers the frames: four aligned bytes, written at once.
- The mark (another `free` box) says which pieces the film consists of up to there, as a hash over
  their ids. The last one is enough to know that all are right, so that a piece is added in the
  same time to a short film and a long one; and a film needs no other file to be continued.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import av

from .pieces import Piece

_BOX = struct.Struct(">I4s")
_FREE = b"free"
_UNCOVERED = _BOX.pack(_BOX.size, _FREE)
_MARK = struct.Struct(">8sIQQ32s")
_MAGIC = b"STIVfilm"
_ALIGN = 4  # of the bytes that uncover a piece: they never lie on two pages of the disk cache
_BIGGEST = 2**32 - 2**16  # what a box can hold, less the boxes around


@dataclass(frozen=True)
class Mark:
    """What the film is up to the end of some piece."""

    pieces: int
    frames: int
    length: int
    """Bytes of the last piece, with its boxes."""
    chain: bytes
    """Hash over the ids of all pieces up to here."""


@dataclass(frozen=True)
class Place:
    """Where a piece ends in the file."""

    end: int
    mark: Mark


_NOTHING = Place(0, Mark(0, 0, 0, hashlib.sha256(b"").digest()))


@dataclass(frozen=True)
class Film:
    """A growing film: a fragmented MP4 of H.264, without sound."""

    path: Path

    def kept(self, ids: Sequence[str]) -> int:
        """How many of these pieces the film begins with: they need not be made again."""
        return self._beginning(_chains(ids)).mark.pieces

    def grow(
        self, ids: Sequence[str], make: Callable[[int], Piece], upto: int | None = None
    ) -> int:
        """Let the film begin with the first `upto` (default: all) of its pieces.

        ids: what the pieces of the whole film are, in order; an id covers all that decides a
        piece's bytes (its frames, place, frame rate, crf). make(index) encodes one; it is called
        for those alone that the film lacks, in order. Pieces that the film has beyond `upto` stay
        if they are right; everything else is cut away. Returns the number of frames.

        The film plays throughout: an interrupted or killed run leaves what was done, and the next
        goes on from there. Raises ValueError where the pieces do not fit together, and for a file
        that is no film; OSError when it cannot be written.
        """
        chains, restarted = _chains(ids), False
        upto = len(ids) if upto is None else min(upto, len(ids))
        while (found := self._beginning(chains)).mark.pieces < upto:
            after = found
            piece = make(after.mark.pieces)
            if after.mark.pieces and not self._begins_with(piece.header):
                # Another size or rate under the same ids, or a newer encoder: all of it anew.
                if restarted:
                    raise ValueError(
                        f"{self.path}: piece {after.mark.pieces} of the film has another size "
                        "or frame rate than those before it: give all pieces the same"
                    )
                restarted, after, piece = True, _NOTHING, make(0)
            if piece.start != after.mark.frames:
                raise ValueError(
                    f"{self.path}: piece {after.mark.pieces} starts at frame {piece.start}, but "
                    f"the film has {after.mark.frames} frames before it"
                )
            with self._writing(f"piece {after.mark.pieces} of the film"):
                if self._beginning(chains) == found:  # no other process was faster
                    chain = chains[after.mark.pieces + 1]
                    if after.mark.pieces:
                        _append(self.path, piece, after, chain)
                    else:
                        _create(self.path, piece, chain)
        if found.end and found.end < self._size():
            with self._writing("the film"):
                if self._beginning(chains) == found:
                    os.truncate(self.path, found.end)
        return found.mark.frames

    def remove(self) -> None:
        """Remove the file, but not while another process adds a piece. Raises OSError."""
        with _alone(self.path.parent):
            self.path.unlink(missing_ok=True)

    def _beginning(self, chains: Sequence[bytes]) -> Place:
        """The end of the longest beginning made of these pieces."""
        missing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with missing, open(self.path, "rb") as file:
            place = None
            for place in _places(file):
                pieces = place.mark.pieces
                if pieces < len(chains) and place.mark.chain == chains[pieces]:
                    return place
            if place is None and file.seek(0, os.SEEK_END):
                raise ValueError(
                    f"{self.path} is no film of STIV and would be overwritten: "
                    "remove it, or choose another name"
                )
        return _NOTHING

    def _begins_with(self, header: bytes) -> bool:
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            return file.read(len(header)) == header
        return True  # another process removed it just now: not for its header

    def _size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """While something is written: no other process does, and errors are for people."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.path.parent):
                yield
        except OSError as error:
            raise OSError(
                f"{self.path}: {what} cannot be written ({error}): make room on the disk, or "
                "choose a folder that can be written"
            ) from error


def finish(film: Path, target: Path) -> None:
    """Write a film, complete or not, as an ordinary MP4 that other programs take; not re-encoded.

    The index comes first (faststart), every frame keeps its time. `target` appears, or is
    replaced, when it is whole. Raises OSError when that fails.
    """
    part = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part")
    try:
        with av.open(str(film)) as source:
            _remux(source, part)
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except (OSError, av.error.FFmpegError) as error:
        raise OSError(
            f"{target}: the video cannot be written from {film} ({error}): make room on the disk, "
            "or choose a folder that can be written"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _remux(source: av.container.InputContainer, target: Path) -> None:
    video = source.streams.video[0]
    options = {
        "movflags": "+faststart",
        "fflags": "+bitexact",
        # The clock of the film: in the muxer's own, 1/24000 s would be rounded with some PyAV.
        "video_track_timescale": str(video.time_base.denominator),
    }
    with av.open(str(target), "w", format="mp4", options=options) as out:
        copy = out.add_stream_from_template(video, opaque=True)
        copy.time_base = video.time_base
        for packet in source.demux(video):
            if packet.dts is not None:  # None is the end
                packet.stream = copy
                out.mux(packet)


def _chains(ids: Sequence[str]) -> list[bytes]:
    """The hash over the first n ids, for each n from 0 on."""
    chains = [_NOTHING.mark.chain]
    for name in ids:
        chains.append(hashlib.sha256(chains[-1] + hashlib.sha256(name.encode()).digest()).digest())
    return chains


def _wrap(piece: Piece, after: Place, chain: bytes) -> list[bytes]:
    """The bytes before, of and after a piece's frames. Covered: they do not play yet."""
    bare = _BOX.size + len(piece.body) + _BOX.size + _MARK.size
    padding = -(after.end + bare) % _ALIGN
    length = bare + padding
    if length > _BIGGEST:
        raise ValueError(
            f"film: piece {after.mark.pieces} has {length:,} bytes, more than a fragment can "
            "hold: use shorter segments, or a higher crf"
        )
    counts = after.mark.pieces + 1, after.mark.frames + piece.frames
    foot = _BOX.pack(_BOX.size + padding + _MARK.size, _FREE) + bytes(padding)
    mark = _MARK.pack(_MAGIC, *counts, length, chain)
    return [_BOX.pack(length, _FREE), piece.body, foot + mark]


def _create(path: Path, piece: Piece, chain: bytes) -> None:
    """A film of one piece, in place of what was there."""
    _, body, foot = _wrap(piece, replace(_NOTHING, end=len(piece.header)), chain)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(piece.header + _UNCOVERED + body + foot)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _append(path: Path, piece: Piece, after: Place, chain: bytes) -> None:
    """Add a piece; what lies beyond `after` is cut away."""
    parts = _wrap(piece, after, chain)
    with open(path, "r+b", buffering=0) as file:
        file.truncate(after.end)
        try:
            file.seek(after.end)
            for part in parts:
                _write(file, part)
            os.fsync(file.fileno())  # all of it, before it is uncovered
        except OSError:  # no space: give back what was taken
            with contextlib.suppress(OSError):
                file.truncate(after.end)
            raise
        file.seek(after.end)
        _write(file, _UNCOVERED[:_ALIGN])


def _write(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:  # an unbuffered write may take a part only
        view = view[file.write(view) :]


def _places(file: BinaryIO) -> Iterator[Place]:
    """The end of every whole piece, from the last to the first.

    Another process may cut the file shorter meanwhile: what is not there any more is no piece.
    """
    end = file.seek(0, os.SEEK_END)
    mark = _mark_before(file, end)
    if mark is None:  # the last write was cut off, or this is no film
        end, mark = _last_whole(file, end)
    while mark:
        yield Place(end, mark)
        end -= mark.length
        mark = _mark_before(file, end)


def _mark_before(file: BinaryIO, end: int) -> Mark | None:
    """The mark of the piece that ends at an offset, if a whole one does."""
    if end < _MARK.size:
        return None
    fields = _read(file, end - _MARK.size, _MARK)
    if fields is None:
        return None
    magic, mark = fields[0], Mark(*fields[1:])
    if magic != _MAGIC or not _BOX.size < mark.length <= end:
        return None
    file.seek(end - mark.length)
    return mark if file.read(_BOX.size) == _UNCOVERED else None


def _last_whole(file: BinaryIO, size: int) -> tuple[int, Mark | None]:
    """Where the last whole piece ends, found from the beginning, and its mark."""
    position, found = 0, (0, None)
    while position + _BOX.size <= size:
        box = _read(file, position, _BOX)
        if box is None:
            break
        length, kind = box
        position += length
        if length < _BOX.size or position > size:
            break
        if kind == _FREE and (mark := _mark_before(file, position)):
            found = position, mark
    return found


def _read(file: BinaryIO, position: int, layout: struct.Struct) -> tuple | None:
    """What lies at an offset; None where the file ends before."""
    file.seek(position)
    data = file.read(layout.size)
    return layout.unpack(data) if len(data) == layout.size else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two servers may write into one folder: one at a time, for the moment of adding a piece."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network folders know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
