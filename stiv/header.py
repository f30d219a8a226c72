"""The bounded look at a safetensors file that comes before anything of it is used.

A checkpoint is a stranger's file. Its header is read with limits and its arithmetic is checked
against the size of the file, so that a bad one ends in one line of text and not in gigabytes of
memory. The tensors themselves are read by the safetensors library.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

MAX_HEADER_BYTES = 64 * 2**20
MAX_JSON_ITEMS = 1_000_000
MAX_JSON_DEPTH = 16
MAX_DIMENSIONS = 8
MAX_NAME_LENGTH = 512

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The file format's names of the dtypes that this pack reads and writes."""

WEIGHT_DTYPES = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Those that a network's weights may have; others are quantised with scales, or no weights."""

_PICKLE = (
    "is a Python pickle (.pt or .ckpt) renamed to .safetensors; pickles can run code and are not "
    "read: convert it to safetensors with a tool you trust"
)
_WEB_PAGE = "is a web page, not a checkpoint; download the file itself, not its page"
_FOREIGN_MAGIC = {
    **dict.fromkeys((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), _PICKLE),
    **dict.fromkeys((b"<!", b"<html", b"<HTML"), _WEB_PAGE),
    b"GGUF": "is a GGUF file; load it with a GGUF loader node",
    b"version ": "is a Git LFS pointer, not the weights; download the file itself (git lfs pull)",
    b"\x89HDF": "is an HDF5 file; expected a safetensors file",
    b"\x1f\x8b": "is gzip-compressed; unpack it first",
}
"""What other files that end up under the name .safetensors begin with."""

_DOWNLOAD_AGAIN = "the file is incomplete or damaged, download it again"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, in one line: file, what, expected, remedy."""

    def __init__(self, path: str | os.PathLike[str], message: str) -> None:
        line = " ".join(f"{os.fspath(path)}: {message}".split())
        if len(line) > 1000:  # a hostile value, quoted: keep the file's name and the remedy
            line = f"{line[:650]} … {line[-300:]}"
        super().__init__("".join(c if c.isprintable() else "?" for c in line))


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor."""

    dtype: str
    """A key of `DTYPES`."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """A checked header: metadata and tensors by name, in the order of the file."""

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a safetensors file; reads no tensor and allocates no more than the header.

    Raises:
        CheckpointError: when there is no such file, it is not a safetensors file, or any figure
            of the header does not fit the size of the file.
    """
    try:
        return _read_header(path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error


def parse_json(text: str, *, max_items: int = MAX_JSON_ITEMS) -> Any:
    """JSON from a stranger: bounded in items and depth, without duplicate keys, surrogates, or
    numbers that are not finite.

    Raises:
        ValueError: saying which.
    """
    if text.count(",") > max_items:
        raise ValueError(f"more than {max_items:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    return value


def printable(text: str, most: int = 400) -> str:
    """A stranger's text as one line for a terminal: no escapes, cut after `most` characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return line if len(text) <= most else line[:most] + "…"


def _read_header(path: str | os.PathLike[str]) -> Header:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        what = "is a link to a lost file" if os.path.islink(path) else "there is no such file"
        raise CheckpointError(path, f"{what}; check the name and the models folder") from None
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError(path, "is a folder; expected one .safetensors file")
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(path, "is not a regular file; expected one .safetensors file")
    size = status.st_size
    with open(path, "rb") as file:
        return parse_header(path, file, size)


def parse_header(path: str | os.PathLike[str], file: BinaryIO, size: int) -> Header:
    """`read_header` of an open file that has `size` bytes; `path` is only for its errors."""
    if size < 10:  # the length and an empty header
        raise CheckpointError(path, f"has only {size} bytes; {_DOWNLOAD_AGAIN}")

    start = file.read(32)
    length = int.from_bytes(start[:8], "little")
    if length > size - 8 or length > MAX_HEADER_BYTES or start[8:9] != b"{":
        raise CheckpointError(path, _why_not_safetensors(start, length, size))
    file.seek(8)
    raw = file.read(length)
    if len(raw) != length:
        raise CheckpointError(path, f"ended while its header was read; {_DOWNLOAD_AGAIN}")
    try:
        entries = parse_json(raw.decode("utf-8"))
        return _check_entries(entries, size - 8 - length)
    except ValueError as error:
        raise CheckpointError(path, f"bad header: {error}; {_DOWNLOAD_AGAIN}") from None


def _why_not_safetensors(start: bytes, length: int, size: int) -> str:
    braced = start[8:9] == b"{"
    foreign = [text for magic, text in _FOREIGN_MAGIC.items() if start.startswith(magic)]
    if foreign and not braced:
        return foreign[0]
    if length > MAX_HEADER_BYTES:
        return (
            f"is no safetensors file or damaged: its header claims {length:,} bytes, expected at "
            f"most {MAX_HEADER_BYTES:,}; choose another file or download it again"
        )
    if braced:
        return f"its header claims {length:,} bytes, the file has {size:,}; {_DOWNLOAD_AGAIN}"
    return f"is not a safetensors file (it begins with {start[:9]!r}); choose another file"


def _check_entries(entries: Any, data_bytes: int) -> Header:
    """Checks dtypes, shapes and offsets: the tensors must fill the data exactly."""
    if not isinstance(entries, dict):
        raise ValueError("expected a table of tensors")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ must map names to texts")

    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise ValueError(f"tensor name {name[:60]!r} is empty, too long or unprintable")
        tensors[name], begin, end = _check_entry(name, entry)
        spans.append((begin, end, name))

    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            kind = "overlaps the one before" if begin < position else "leaves a hole before it"
            raise ValueError(f"tensor {name!r} {kind} (offset {begin:,}, expected {position:,})")
        position = end
    if position != data_bytes:
        raise ValueError(f"the tensors need {position:,} bytes, the file holds {data_bytes:,}")
    ordered = {name: tensors[name] for _, _, name in sorted(spans)}
    return Header(metadata=metadata, tensors=ordered)


def _check_entry(name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has dtype {_short(dtype)}, expected {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has shape {_short(shape)}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has data_offsets {_short(offsets)}")
    begin, end = offsets
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != needed:
        raise ValueError(
            f"tensor {name!r} of {dtype} {shape} needs {needed:,} bytes, "
            f"its data_offsets span {end - begin:,}"
        )
    return TensorInfo(dtype, tuple(shape)), begin, end


def _naturals(value: Any) -> bool:
    """A list of integers from 0 to 2^63 - 1."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number too long to print"
    return text if len(text) <= 80 else text[:80] + "…"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{repeated[:60]!r} is there twice")
    return table


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _check_depth(value: Any) -> None:
    """Walks level by level, so that no recursion limit is met here or by whoever reads next."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                deeper.extend(item.keys())
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("a number is too large")
            elif isinstance(item, str):
                item.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
        level = deeper
        if not level:
            return
    raise ValueError(f"nested more than {MAX_JSON_DEPTH} levels deep")
