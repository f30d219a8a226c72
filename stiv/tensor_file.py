"""Tensors as bytes: their hash, and safetensors files that are whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .header import DTYPES, CheckpointError, Header

Tensors = Mapping[str, Tensor]
"""Tensors by name; they may be `LazyTensors`."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The file format's name of every dtype that is written."""

TEMPORARY = r"\..+\.(\d+)\.[0-9a-f]{8}\.tmp"
"""Pattern of the name of a file that is being written; the group is the writer's process id."""

_CHUNK_BYTES = 16 * 2**20

Progress = Callable[[str, int, int], None]
"""progress(what, done, total): bytes of a long work, told every few megabytes."""


class LazyTensors(Mapping[str, Tensor]):
    """Tensors that are made when they are asked for, and not kept.

    What is larger than the memory is converted and written through it: one tensor at a time.

    Args:
        described: every tensor as one of the meta device, for its dtype and shape.
        make: the tensor of a name; it must have the dtype and shape that were described.
    """

    def __init__(self, described: Mapping[str, Tensor], make: Callable[[str], Tensor]):
        self.described = dict(described)
        self._make = make

    def __getitem__(self, name: str) -> Tensor:
        wanted = self.described[name]
        tensor = self._make(name)
        if (tensor.dtype, tensor.shape) != (wanted.dtype, wanted.shape):
            raise ValueError(
                f"tensor {name} was made as {tensor.dtype} {tuple(tensor.shape)}, "
                f"described as {wanted.dtype} {tuple(wanted.shape)}"
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.described)

    def __len__(self) -> int:
        return len(self.described)


def described(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same names with tensors good for their dtype and shape alone: none is made for it."""
    return tensors.described if isinstance(tensors, LazyTensors) else tensors


def read_lazily(
    path: str | os.PathLike[str], header: Header, stored: Mapping[str, str]
) -> LazyTensors:
    """Tensors of a safetensors file; every use reads one anew.

    Args:
        path: the file.
        header: what `read_header` found in it.
        stored: the names to give them, each with its name in the file.

    A tensor that cannot be read raises CheckpointError when it is used.
    """
    known = {}
    for name, key in stored.items():
        info = header.tensors[key]
        known[name] = torch.empty(info.shape, dtype=DTYPES[info.dtype], device="meta")

    def read(name: str) -> Tensor:
        # The file is mapped for this one tensor alone: its pages leave memory with the tensor.
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return file.get_tensor(stored[name])
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(path, f"cannot be read: {error}; get it again") from error

    return LazyTensors(known, read)


def byte_count(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(t.numel() * t.dtype.itemsize for t in described(tensors).values())


def tensor_hash(tensors: Mapping[str, Tensor], progress: Progress | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes in name order, as 64 hexadecimal digits.

    For every tensor, sorted by name (code points): the line `["name","dtype",[shape]]` as compact
    JSON in UTF-8 with the file format's dtype name, a newline, and the little-endian bytes. Names
    are those in the file, prefixes included; the order within the file does not matter.
    """
    digest, total, done = hashlib.sha256(), byte_count(tensors), 0
    for name in sorted(tensors):
        tensor = tensors[name]
        line = [name, DTYPE_NAMES[tensor.dtype], list(tensor.shape)]
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        digest.update(text.encode() + b"\n")
        for chunk in tensor_bytes(tensor):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress("hash", done, total)
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor of any device and dtype in row-major order, a few megabytes a time."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    view = memoryview(flat.numpy())
    for start in range(0, len(view), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends without an error.

    Until then what was at `path` stays; after an error or the end of the process too. A process
    that is killed leaves a file whose name fits `TEMPORARY`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name too must survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_tensors(
    path: Path,
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    progress: Progress | None = None,
) -> None:
    """Writes a safetensors file atomically; equal contents give equal files, byte for byte.

    Args:
        path: the file to write; its folder must exist.
        metadata: texts for the header.
        tensors: by name, of the dtypes in `DTYPE_NAMES`; `LazyTensors` are made one by one.
        progress: told of the bytes written.

    Raises:
        OSError: when the file cannot be written; what was there stays.
    """
    # Wide dtypes first keeps every tensor aligned; names make the order, and so the file, fixed.
    known = described(tensors)
    order = sorted(known, key=lambda name: (-known[name].dtype.itemsize, name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for name in order:
        tensor = known[name]
        end = position + tensor.numel() * tensor.dtype.itemsize
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)

    with replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        done = 0
        for name in order:
            for chunk in tensor_bytes(tensors[name]):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress("write", done, position)
