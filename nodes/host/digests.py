"""Hashes of what holds nothing else: texts, numbers, tensors; and a memory of large tensors'."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import Any
from uuid import UUID

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...stiv.tensor_file import tensor_bytes

_LARGE_BYTES = 2**20
_COLUMNS = 1021  # prime, so that no usual change of a tensor moves rows as a whole

# Of large tensors, while they live: what they looked like, and their digest.
_KNOWN = WeakTensorKeyDictionary()


_NAMED = (
    torch.dtype, torch.layout, torch.memory_format, torch._ops.OpOverload,
    torch._ops.OpOverloadPacket,
)  # fmt: skip


def joined(tag: str, *parts: str | bytes) -> bytes:
    """SHA-256 of texts and bytes, which cannot run into each other."""
    digest = hashlib.sha256()
    for part in (tag, *parts):
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def plain(value: Any) -> str | bytes | None:
    """Simple values in full; None for all others. Their type is told beside them."""
    kind = type(value)
    if kind is str or kind is bytes:
        return value
    if kind is bool or value is None or value is Ellipsis or value is NotImplemented:
        return repr(value)
    if kind is int:
        return hex(value)
    if kind is float:
        return value.hex()
    if kind is complex:
        return f"{value.real.hex()} {value.imag.hex()}"
    if kind is torch.device:
        return value.type  # which of several does not matter
    if kind in _NAMED or isinstance(value, PurePath):
        return str(value)
    if kind is UUID:
        return value.bytes
    return None


def is_plain(value: Any) -> bool:
    """Whether a value is one that cannot change and holds nothing else."""
    return plain(value) is not None


def tensor_digest(tensor: Tensor) -> bytes | None:
    """SHA-256 over dtype, shape and bytes in row-major order; None for one without plain bytes.

    The device does not matter, nor the strides. Large tensors are hashed once, as long as they
    keep their content.
    """
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        return None
    if tensor.numel() * tensor.dtype.itemsize < _LARGE_BYTES:
        return _hashed(tensor)
    looks = _looks(tensor)
    known = _KNOWN.get(tensor)
    if known is not None and looks is not None and known[0] == looks:
        return known[1]
    digest = _hashed(tensor)
    if looks is not None:
        _KNOWN[tensor] = looks, digest
    return digest


def _hashed(tensor: Tensor) -> bytes:
    digest = hashlib.sha256(_heading(tensor))
    for chunk in tensor_bytes(tensor.resolve_conj().resolve_neg()):
        digest.update(chunk)
    return digest.digest()


def _looks(tensor: Tensor) -> bytes | None:
    """Tells a changed tensor from one that stayed the same, several times faster than a hash.

    Its version would be faster still, but tensors made in inference mode have none (nearly all of
    the host's), and writing through `.data`, as the host does, leaves it as it was. So all bytes
    are added up, in columns: no change of a few of them, and no usual one of many, goes unseen.
    """
    try:
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        flat = flat.view(torch.uint8)
        if flat.storage_offset() % 8:
            flat = flat.clone()
        whole = flat.numel() // (8 * _COLUMNS) * (8 * _COLUMNS)
        sums = flat[:whole].view(torch.int64).view(-1, _COLUMNS).sum(0)
        rest = flat[whole:]
        parts = [_heading(tensor), *tensor_bytes(sums), *tensor_bytes(rest)]
    except (RuntimeError, NotImplementedError):  # a device without such sums: no memory of it
        return None
    return hashlib.sha256(b"".join(parts)).digest()


def _heading(tensor: Tensor) -> bytes:
    return f"{tensor.dtype} {list(tensor.shape)}\n".encode()
