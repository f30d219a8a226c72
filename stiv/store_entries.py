"""The files of a segment store: their names, what they state and how they are listed and removed.

Two kinds: tensors as `<key>.safetensors`, with what was told about them and a checksum in the
header, and any other file as `<key>-<checksum><suffix>`. A key is 64 hexadecimal digits.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from .header import (
    MAX_DIMENSIONS,
    MAX_NAME_LENGTH,
    CheckpointError,
    parse_header,
    parse_json,
)
from .tensor_file import DTYPE_NAMES, TEMPORARY, tensor_hash, write_tensors

LATENTS = ".safetensors"
"""The suffix of tensors."""

MAX_INFO_BYTES = 64 * 2**10

_FORMAT = "1"
_KEY = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,12}")
_FILE = re.compile(r"([0-9a-f]{64})(?:-([0-9a-f]{32}))?(\.[a-z0-9]{1,12})")
_TEMPORARY = re.compile(TEMPORARY)

# A writer that died leaves its half file. Process ids mean nothing across containers and machines
# that share the folder, so the file must also have been left alone for a while.
_DEAD_AFTER_SECONDS = 60.0
_ABANDONED_AFTER_SECONDS = 86_400.0

# Says nothing of the file: it may be sound, and readable a moment later.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ESTALE}


class DamagedError(ValueError):
    """Why a file is not what was stored."""


@dataclass(frozen=True)
class Entry:
    """A file of the store, as a listing found it."""

    path: str
    key: str
    size: int
    """Bytes."""
    used: float
    """When it was last used, in seconds since 1970."""


def check_key(key: str) -> None:
    """Raise ValueError unless the key is one: it becomes part of a path."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(f"store key {key!r:.80}: expected 64 hexadecimal digits, lower case")


def tensors_name(key: str) -> str:
    """The file name of the tensors of `key`. Raises ValueError for what is no key."""
    check_key(key)
    return key + LATENTS


def file_name(key: str, suffix: str, digest: str) -> str:
    """The file name of content with this `content_hash`. Raises ValueError for odd names."""
    check_key(key)
    if suffix == LATENTS or not isinstance(suffix, str) or not _SUFFIX.fullmatch(suffix):
        raise ValueError(f"suffix {suffix!r:.40}: expected one like .mp4, not {LATENTS}")
    return f"{key}-{digest}{suffix}"


def content_hash(content: bytes) -> str:
    """What stands in the name of a file: half a SHA-256, 32 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


# Tensors


def write_entry(
    path: Path, key: str, tensors: Mapping[str, Tensor], info: Mapping[str, Any]
) -> None:
    """Writes tensors on the CPU and what is told about them, atomically. Raises OSError."""
    text, digest = info_text(info), tensor_hash(tensors)
    metadata = {
        "stiv.store": _FORMAT,
        "stiv.key": key,
        "stiv.info": text,
        "stiv.tensor_hash": digest,
        "stiv.check": _header_hash(key, text, digest),
    }
    write_tensors(path, metadata, tensors)


def read_entry(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of an entry, proven to be those that were written.

    Raises:
        DamagedError: when they are not, or the file is not an entry for `key`.
        OSError: when the file cannot be read.
    """
    with _opened(path) as (file, size):
        stated = _stated(path, key, file, size)
        file.seek(0)
        data = file.read(size)  # at once: another process may put or remove entries meanwhile
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise DamagedError(_first_line(error, path)) from None
    if tensor_hash(tensors) != stated["stiv.tensor_hash"]:
        raise DamagedError("its tensors are not those that were stored")
    return tensors


def read_info(path: Path, key: str) -> dict[str, Any] | None:
    """What was told about the tensors of an entry; None when its header is damaged or missing."""
    try:
        with _opened(path) as (file, size):
            return parse_json(_stated(path, key, file, size)["stiv.info"])
    except (OSError, ValueError):
        return None


def check_storable(name: str, tensor: Tensor) -> None:
    """Raise ValueError, naming the tensor, unless a file can hold it."""
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable() or name == "__metadata__":
        raise ValueError(f"tensor name {name!r:.80} is empty, too long or unprintable")
    if tensor.dtype not in DTYPE_NAMES:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPE_NAMES)
        raise ValueError(f"tensor {name} is {tensor.dtype}, which is not stored: expected {wanted}")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"tensor {name} is sparse or has no data: expected an ordinary tensor")
    if tensor.ndim > MAX_DIMENSIONS:
        raise ValueError(f"tensor {name} has {tensor.ndim} dimensions, at most {MAX_DIMENSIONS}")


def info_text(info: Mapping[str, Any]) -> str:
    """The info as JSON, with the time. Raises ValueError for what cannot be read back."""
    text = json.dumps({"created": int(time.time()), **info}, allow_nan=False)
    if len(text) > MAX_INFO_BYTES:
        raise ValueError(f"info is {len(text):,} bytes of JSON, at most {MAX_INFO_BYTES:,}")
    parse_json(text)
    return text


def _stated(path: Path, key: str, file: BinaryIO, size: int) -> Mapping[str, str]:
    """The texts of an entry's header, if a store wrote them, for this key."""
    try:
        metadata = parse_header(path, file, size).metadata
    except CheckpointError as error:
        raise DamagedError(_first_line(error, path)) from None
    names = ("stiv.store", "stiv.key", "stiv.info", "stiv.tensor_hash", "stiv.check")
    if not all(name in metadata for name in names) or metadata["stiv.store"] != _FORMAT:
        raise DamagedError("it is not an entry of this store")
    if metadata["stiv.key"] != key:
        raise DamagedError("it was stored under another key")
    wanted = _header_hash(key, metadata["stiv.info"], metadata["stiv.tensor_hash"])
    if metadata["stiv.check"] != wanted:
        raise DamagedError("its header is not the one that was stored")
    return metadata


def _header_hash(key: str, info: str, digest: str) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, key, info, digest]).encode()).hexdigest()


# Other files


def check_file(path: Path) -> None:
    """Raise DamagedError unless the file's bytes are those that its name states; OSError."""
    digest = hashlib.sha256()
    with _opened(path) as (file, _):
        while chunk := file.read(2**20):
            digest.update(chunk)
    if digest.hexdigest()[:32] != _FILE.fullmatch(path.name)[2]:
        raise DamagedError("its bytes are not those that were stored")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """An entry to read and its size. Raises DamagedError for links, pipes and folders; OSError."""
    if not stat.S_ISREG(os.lstat(path).st_mode):  # before opening: a pipe would wait for a writer
        raise DamagedError("it is not a regular file")
    with open(path, "rb") as file:
        yield file, os.fstat(file.fileno()).st_size


# Folders


def listed(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """What a folder holds; nothing when there is none or it cannot be read."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError:
        return


def entries(shard: str | os.PathLike[str]) -> Iterator[Entry]:
    """The entries in a folder; half files of dead writers are cleaned up on the way."""
    for item in listed(shard):
        try:
            if not item.is_file(follow_symlinks=False):
                continue
            status = item.stat(follow_symlinks=False)
        except OSError:  # removed meanwhile
            continue
        if match := _FILE.fullmatch(item.name):
            yield Entry(item.path, match[1], status.st_size, status.st_mtime)
        elif match := _TEMPORARY.fullmatch(item.name):
            _clean(item.path, int(match[1]), time.time() - status.st_mtime)


def identity(path: Path) -> tuple[int, ...] | None:
    """Which file lies there, so as not to remove one that took its place; None without any.

    Its number alone does not tell: the system gives that of a removed file to the next one.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def remove_damaged(path: Path, seen: tuple[int, ...] | None, reason: Exception) -> None:
    """Removes what could not be read, if it is still the one that was `seen`, and says why."""
    if seen is None or identity(path) != seen:
        return
    line = _first_line(reason, path)
    logging.warning("segment store: %s cannot be used and is made again: %s", path, line)
    if not (isinstance(reason, OSError) and reason.errno in _PASSING):
        unlink(path)


def remove_unused(entry: Entry) -> bool:
    """Removes an entry unless someone used it since the listing. Whether it is gone."""
    try:
        if os.stat(entry.path).st_mtime != entry.used:
            return False
        os.unlink(entry.path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def unlink(path: str | os.PathLike[str]) -> None:
    try:
        os.unlink(path)
    except OSError:  # a read-only store: it stays, and is refused again
        return


def touch(path: str | os.PathLike[str]) -> None:
    """Makes this the time when the file was last used."""
    try:
        os.utime(path)
    except OSError:  # a read-only store has no order; an entry may have gone
        return


def _clean(path: str, writer: int, age: float) -> None:
    dead = age > _DEAD_AFTER_SECONDS and not _alive(writer)
    if dead or age > _ABANDONED_AFTER_SECONDS:
        unlink(path)


def _alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere there is no harmless way to ask
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _first_line(error: Exception, path: Path) -> str:
    """What went wrong, without the file's name and what to do with a checkpoint."""
    text = str(error).removeprefix(f"{path}: ").split("; ")[0]
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
