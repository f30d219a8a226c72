"""Finished segments on disk: latents and film pieces that a later run takes instead of making.

A key says what decides the content, so an entry is right or it is not there: nothing goes out of
date. Entries are files and nothing else is: no index that two servers could fight over, no lock.
The files lie under the first two digits of their key,

    3f/3f…c1.safetensors            latents, with `info` and a checksum in the header
    3f/3f…c1-<checksum>.mp4         a piece of film, or whatever else was stored as a file

and the time of a file is when it was last used. Reading checks the checksum: what is damaged or
foreign is removed and made again. Any number of processes may share a folder.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from . import store_entries as entries
from .store_entries import Entry
from .tensor_file import replacing

GRACE_SECONDS = 3600.0
"""What anyone used within this time is not removed, however full the store is."""

_REMOVALS = "removals"
_SHARD = re.compile(r"[0-9a-f]{2}")
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}

# Another server may fill the store too: how long this one goes by its own count.
_COUNT_AGAIN_SECONDS = 60.0
_SPARE = 100
"""A full store is emptied by one part in so many more than it must, or every put would count."""


class StoreError(OSError):
    """The store cannot take or keep something, in one line: folder, what, remedy."""


class SegmentStore:
    """Tensors and files by key in a folder of bounded size; the least recently used go first.

    Args:
        folder: made when first written to.
        limit_bytes: what all entries together may take. Entries that anyone used within `grace`
            are kept nevertheless, so the store may be larger for a while.
        grace: seconds.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limit_bytes: int,
        grace: float = GRACE_SECONDS,
    ) -> None:
        if limit_bytes <= 0:
            raise ValueError(f"the store's limit is {limit_bytes} bytes: expected more than 0")
        self.folder = Path(os.path.abspath(folder))
        self.limit_bytes = limit_bytes
        self.grace = grace
        self._spare = limit_bytes // _SPARE
        self._room = 0  # bytes that may be put before counting again
        self._counted = -float("inf")

    # Reading

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of `key` on the CPU, exactly as they were put; None when it is not there.

        An entry that is damaged, foreign or unreadable is removed, if the folder allows it, and
        the reason logged as one warning.
        """
        path = self._path(entries.tensors_name(key))
        seen = entries.identity(path)
        if seen is None:
            return None
        try:
            tensors = entries.read_entry(path, key)
        except (OSError, ValueError) as error:
            entries.remove_damaged(path, seen, error)
            self.note_removal()
            return None
        entries.touch(path)
        return tensors

    def info(self, key: str) -> dict[str, Any] | None:
        """What `put` was told about the tensors of `key`; reads the header only and changes
        nothing. None when it is not there or its header is damaged."""
        return entries.read_info(self._path(entries.tensors_name(key)), key)

    def has(self, key: str) -> bool:
        """Whether there are tensors of `key`; they are not read, so `get` may still refuse."""
        return os.path.isfile(self._path(entries.tensors_name(key)))

    def path(self, key: str, suffix: str) -> Path | None:
        """The file that was put for `key` and `suffix`, its checksum checked; None without one.

        It may be removed when nobody asked for it during `grace`. A damaged one is removed now.
        """
        for entry in self._files(key, suffix):
            path = Path(entry.path)
            seen = entries.identity(path)
            try:
                entries.check_file(path)
            except (OSError, ValueError) as error:
                entries.remove_damaged(path, seen, error)
                self.note_removal()
                continue
            entries.touch(path)
            return path
        return None

    # Writing

    def put(self, key: str, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Stores tensors, whole or not at all; what was there for `key` is replaced.

        Args:
            key: 64 hexadecimal digits.
            tensors: of any device, with the dtypes of safetensors files.
            info: a little JSON beside them (seconds, steps, shape); "created" is added, in
                seconds since 1970.

        Raises:
            StoreError: when there is no room or the folder cannot be written.
            ValueError: for a key, a tensor or an info that is not stored.
        """
        path = self._path(entries.tensors_name(key))
        entries.info_text(info)
        for name, tensor in tensors.items():
            entries.check_storable(name, tensor)
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        size = sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())
        with self._told(size):
            path.parent.mkdir(parents=True, exist_ok=True)
            entries.write_entry(path, key, tensors, info)
        self._make_room(path, size + 2**12)  # its header is not larger, as a rule

    def put_file(self, key: str, suffix: str, content: bytes | os.PathLike[str]) -> Path:
        """Stores bytes, or a copy of a file, whole or not at all. Returns where it lies.

        Args:
            key: 64 hexadecimal digits.
            suffix: like ".mp4"; ".safetensors" is for tensors.
            content: the bytes, or the file to copy.

        Raises:
            StoreError: when there is no room or the folder cannot be written.
            OSError: when the file to copy cannot be read.
            ValueError: for a key or suffix that is not stored.
        """
        entries.file_name(key, suffix, "")  # before a large file is read
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        path = self._path(entries.file_name(key, suffix, entries.content_hash(data)))
        with self._told(len(data)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(data)
        self._make_room(path, len(data))
        return path

    def keep(self, keys: Iterable[str]) -> None:
        """Counts everything stored for these keys as used now, so that a run that begins finds it
        when it comes to it: what others have stored is removed first."""
        wanted: dict[str, set[str]] = {}
        for key in keys:
            entries.check_key(key)
            wanted.setdefault(key[:2], set()).add(key)
        for shard, of_shard in wanted.items():
            for item in entries.listed(self.folder / shard):
                if item.name[:64] in of_shard:
                    entries.touch(item.path)

    def generation(self) -> str:
        """Another text after anything was removed: who remembers keys should look again."""
        with suppress(OSError, UnicodeDecodeError):
            return (self.folder / _REMOVALS).read_text(encoding="ascii")[:64]
        return ""

    def note_removal(self) -> None:
        """Something is gone, whoever removed it."""
        with suppress(OSError), replacing(self.folder / _REMOVALS) as file:
            file.write(secrets.token_hex(8).encode())

    # Before work begins

    def check_writable(self) -> None:
        """Raises StoreError unless the folder can be written; makes it if need be."""
        with self._told(1):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe.{os.getpid()}.{secrets.token_hex(4)}.tmp"
            try:
                with open(probe, "xb") as file:
                    file.write(b"?")
            finally:
                probe.unlink(missing_ok=True)
            if not self.generation():  # new, or someone removed the whole folder
                self.note_removal()

    def check_room(self, bytes_needed: int, bytes_kept: int = 0) -> None:
        """Raises StoreError when a video would not fit, before hours are spent on it.

        Args:
            bytes_needed: of the entries that are still to be put.
            bytes_kept: of those of the same video that are there already.
        """
        most = self.limit_bytes - self._spare  # of a video beyond it the beginning would go
        if bytes_needed + bytes_kept > most:
            raise StoreError(
                f"the segments of this video take {as_text(bytes_needed + bytes_kept)}, the store "
                f"{self.folder} may hold {as_text(most)}: raise its limit, or make a shorter or "
                "smaller video"
            )
        now, found = time.time(), list(self._scan())
        old = sum(entry.size for entry in found if not self._in_use(entry, now))
        surplus = sum(entry.size for entry in found) + bytes_needed - self.limit_bytes
        room = self._free() + min(old, max(0, surplus))
        if bytes_needed > room:
            raise StoreError(
                f"no disk space for the segments of this video in {self.folder}: they need "
                f"{as_text(bytes_needed)}, {as_text(room)} are free: make room on the disk, or "
                "choose another folder"
            )

    # Inside

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _files(self, key: str, suffix: str) -> list[Entry]:
        """The files of `key` and `suffix`, the last used first."""
        folder = self._path(entries.file_name(key, suffix, "")).parent
        found = [e for e in entries.entries(folder) if e.key == key and e.path.endswith(suffix)]
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def _scan(self) -> Iterator[Entry]:
        for shard in entries.listed(self.folder):
            if _SHARD.fullmatch(shard.name) and shard.is_dir(follow_symlinks=False):
                yield from entries.entries(shard.path)

    def _in_use(self, entry: Entry, now: float) -> bool:
        return abs(now - entry.used) < self.grace

    def _make_room(self, latest: Path, size: int) -> None:
        """Removes the least recently used entries above the limit, never the `latest`."""
        self._room -= size
        if self._room >= 0 and time.monotonic() - self._counted < _COUNT_AGAIN_SECONDS:
            return
        found, now = sorted(self._scan(), key=lambda entry: entry.used), time.time()
        surplus = sum(entry.size for entry in found) - self.limit_bytes
        spare = self._spare if surplus > 0 else 0
        removed = False
        for entry in found:
            if surplus + spare <= 0:
                break
            if self._in_use(entry, now) or entry.path == os.fspath(latest):
                continue
            if entries.remove_unused(entry):
                surplus -= entry.size
                removed = True
        if removed:
            self.note_removal()
        self._room, self._counted = -surplus, time.monotonic()

    def _free(self) -> int:
        """Bytes free on the disk of the folder, which may not be there yet."""
        folder = self.folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free

    @contextmanager
    def _told(self, size: int) -> Iterator[None]:
        """Turns what the system says of a failed write into what to do about it."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.folder}: {self._why(error, size)}") from error

    def _why(self, error: OSError, size: int) -> str:
        if error.errno in _NO_ROOM:
            return (
                f"no disk space: {as_text(size)} are needed, {as_text(self._free())} are free (a "
                "quota or a limit of the system may allow less): make room on the disk, or choose "
                "another folder"
            )
        if error.errno in _READ_ONLY:
            return "cannot be written: give ComfyUI the right to write there, or choose another"
        if error.errno in _IN_THE_WAY:
            there = error.filename2 or error.filename
            return f"{there} is in the way: remove it, or choose another folder"
        return f"cannot be written: {error.strerror or error}"


def as_text(count: float) -> str:
    """Bytes for people: 831 bytes, 4.2 MB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    units = ["kB", "MB", "GB", "TB"]
    while count >= 999.95 and units:
        count, unit = count / 1000, units.pop(0)
    return f"{count:.1f} {unit}"
