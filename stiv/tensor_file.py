"""Tensors as bytes: their hash, and safetensors files that are whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .header import DTYPES

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The file format's name of every dtype that is written."""

TEMPORARY = r"\..+\.(\d+)\.[0-9a-f]{8}\.tmp"
"""Pattern of the name of a file that is being written; the group is the writer's process id."""

_CHUNK_BYTES = 16 * 2**20


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes in name order, as 64 hexadecimal digits.

    For every tensor, sorted by name (code points): the line `["name","dtype",[shape]]` as compact
    JSON in UTF-8 with the file format's dtype name, a newline, and the little-endian bytes. Names
    are those in the file, prefixes included; the order within the file does not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        line = [name, DTYPE_NAMES[tensor.dtype], list(tensor.shape)]
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        digest.update(text.encode() + b"\n")
        for chunk in tensor_bytes(tensor):
            digest.update(chunk)
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


def write_tensors(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file atomically; equal contents give equal files, byte for byte.

    Args:
        path: the file to write; its folder must exist.
        metadata: texts for the header.
        tensors: by name, of the dtypes in `DTYPE_NAMES`.

    Raises:
        OSError: when the file cannot be written; what was there stays.
    """
    # Wide dtypes first keeps every tensor aligned; names make the order, and so the file, fixed.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for name in order:
        end = position + tensors[name].numel() * tensors[name].dtype.itemsize
        entries[name] = {
            "dtype": DTYPE_NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)

    with replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            for chunk in tensor_bytes(tensors[name]):
                file.write(chunk)
