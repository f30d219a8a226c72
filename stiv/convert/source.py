"""Other trainers' files as tensors by name: safetensors, shards, folders of diffusers, pickles.

Nothing is read before it is asked for, and nothing is kept: a file of 8 GB passes through the
memory tensor by tensor. Files come from strangers. Headers and JSON are bounded, a shard cannot
name a file elsewhere, and a pickle is opened by torch's loader for weights only, which runs no
code of the file.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..header import MAX_NAME_LENGTH, CheckpointError, parse_json, read_header
from ..tensor_file import DTYPE_NAMES, LazyTensors, read_lazily

Which = Literal["auto", "ema", "raw"]
"""Averaged weights, those of the last step, or averaged ones where the file has them."""

_STATES = {"ema": ("state_dict_ema", "ema"), "raw": ("state_dict", "model")}
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
"""Ends of the names of files that are read as pickles; all others are safetensors."""
_WEIGHT_FILES = ("diffusion_pytorch_model", "model")
_REMAP_BYTES = 256 * 2**20  # read of a pickle before it is mapped anew
_MAX_PICKLE_BYTES = 8 * 2**20  # of the table of tensors: thousands of times fewer than weights
_SWELLING = (b"\nbytearray\n", b"c_codecs\n")
"""What torch's loader allows but no table of tensors needs: a few bytes of it make gigabytes."""
_MAX_JSON_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Source:
    """A foreign model before it is understood."""

    path: Path
    tensors: LazyTensors
    folder: Path
    """Where the weights lie."""
    weights: str = ""
    """Which of a training checkpoint's weights these are: "ema", "raw" or not stated."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the header of one safetensors file says besides."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config.json beside the weights (diffusers), empty without one."""
        path = self.folder / "config.json"
        values = _json(path) if path.is_file() else {}
        return values if isinstance(values, dict) else {}


def open_source(path: str | os.PathLike[str], weights: Which = "auto") -> Source:
    """The tensors of a file or of a diffusers folder (a pipeline's or its transformer's).

    weights: which to take from a training checkpoint that holds both.
    Raises CheckpointError, naming the file, for what is no such thing or cannot be trusted.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, weights)
    if not path.is_file():
        raise CheckpointError(path, "there is no such file; check the name")
    if path.name.endswith(".index.json"):
        return Source(path, _shards(path), path.parent)
    if path.suffix.lower() in PICKLES:
        return _pickle(path, weights)
    return Source(path, _safetensors(path), path.parent, metadata=read_header(path).metadata)


def _folder(path: Path, weights: Which) -> Source:
    places = [path / "transformer", path]
    for place in places:
        for stem in _WEIGHT_FILES:
            for name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}.bin"):
                if (place / name).is_file():
                    return replace(open_source(place / name, weights), path=path)
    raise CheckpointError(
        path,
        "holds no diffusion_pytorch_model.safetensors (nor shards, nor .bin), neither itself nor "
        "in a folder transformer; name a diffusers folder or one file",
    )


def _json(path: Path) -> Any:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(path, "is too large for what it should be; get it again")
    try:
        return parse_json(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(path, f"is no valid JSON: {error}; get it again") from None


# --- safetensors ---------------------------------------------------------------------------------


def _safetensors(path: Path) -> LazyTensors:
    header = read_header(path)
    return read_lazily(path, header, {name: name for name in header.tensors})


def _shards(path: Path) -> LazyTensors:
    """The files that an index names, which lie beside it."""
    index = _json(path)
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise CheckpointError(path, "has no weight_map of tensors and files; get it again")
    parts: dict[str, LazyTensors] = {}
    for name in sorted(set(table.values())):
        plain = Path(name).name == name and "\\" not in name and name.endswith(".safetensors")
        if not plain:
            raise CheckpointError(
                path, f"names the file {name[:80]!r}: expected a .safetensors file beside it"
            )
        parts[name] = _safetensors(path.parent / name)
    if missing := [tensor for tensor, name in table.items() if tensor not in parts[name]]:
        raise CheckpointError(
            path, f"says that {table[missing[0]]} holds {missing[0]}, which it does not"
        )
    described = {tensor: parts[name].described[tensor] for tensor, name in table.items()}
    return LazyTensors(described, lambda tensor: parts[table[tensor]][tensor])


# --- pickles -------------------------------------------------------------------------------------


def _pickle(path: Path, weights: Which) -> Source:
    _check_archive(path)
    state, which = _state(path, _unpickle(path), weights)
    described = {}
    for name, tensor in state.items():
        _check_tensor(path, name, tensor)
        described[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    del state
    return Source(path, LazyTensors(described, _Mapped(path, weights).get), path.parent, which)


class _Mapped:
    """A pickle's tensors, mapped from the file; mapped anew now and then to let its pages go."""

    def __init__(self, path: Path, weights: Which):
        self.path, self.weights = path, weights
        self._state: Mapping[str, Tensor] | None = None
        self._read = 0

    def get(self, name: str) -> Tensor:
        if self._state is None or self._read > _REMAP_BYTES:
            self._state, _ = _state(self.path, _unpickle(self.path), self.weights)
            self._read = 0
        tensor = self._state[name].detach()
        self._read += tensor.nbytes
        return tensor


def _check_archive(path: Path) -> None:
    """Only archives of torch.save can be mapped; their tables of contents are bounded here."""
    remedy = "save it again with torch.save of torch 1.6 or newer, or as safetensors"
    if not zipfile.is_zipfile(path):
        raise CheckpointError(path, f"is no archive of torch.save, or of a very old one; {remedy}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError(path, f"is compressed and cannot be read in parts; {remedy}")
            tables = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if any(table.file_size > _MAX_PICKLE_BYTES for table in tables):
                raise CheckpointError(
                    path, "its table of tensors is larger than any model's; choose another file"
                )
            pickles = [archive.read(table) for table in tables]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(path, f"is damaged ({error}); get it again") from None
    if odd := [word for word in _SWELLING if any(word in table for table in pickles)]:
        raise _more_than_tensors(path, odd[0].decode().strip().removeprefix("c"))


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise _more_than_tensors(path, named[1] if named else "nobody knows what") from None
    except Exception as error:  # what a hostile file makes the loader stumble over can be anything
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise CheckpointError(path, f"cannot be read: {reason}; get it again") from error


def _more_than_tensors(path: Path, what: str) -> CheckpointError:
    # torch's own message goes on with advice to trust the file, which nobody should follow
    return CheckpointError(
        path,
        f"holds more than tensors ({what[:80]}) and is not read, since it could run code; get it "
        "as safetensors, or have whoever made it save the tensors alone",
    )


def _state(path: Path, loaded: Any, weights: Which) -> tuple[Mapping[str, Tensor], str]:
    """The table of tensors in what a pickle holds, and which weights they are."""
    order = {"auto": ("ema", "raw"), "ema": ("ema",), "raw": ("raw",)}[weights]
    if isinstance(loaded, dict):
        for which in order:
            for key in _STATES[which]:
                if isinstance(loaded.get(key), dict):
                    return _tensors_of(path, loaded[key]), which
        if weights != "ema" and any(isinstance(value, Tensor) for value in loaded.values()):
            return _tensors_of(path, loaded), ""
    held = ", ".join(map(str, list(loaded)[:5])) if isinstance(loaded, dict) else type(loaded)
    wanted = "averaged weights (state_dict_ema, ema)" if weights == "ema" else "table of tensors"
    raise CheckpointError(path, f"holds no {wanted}, only {held!s:.200}; name another --weights")


def _tensors_of(path: Path, table: dict[Any, Any]) -> dict[str, Tensor]:
    """The tensors by name; numbers of a trainer's beside them are passed over."""
    tensors = {k: v for k, v in table.items() if isinstance(v, Tensor)}
    for name in tensors:
        good = isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()
        if not good:
            raise CheckpointError(
                path, f"names a tensor {name!r:.80}: expected a short printable text"
            )
    return tensors


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what is not plainly stored, such as views that repeat a few bytes without bound."""
    is_plain = not tensor.is_nested and tensor.layout == torch.strided
    is_plain = is_plain and tensor.device.type == "cpu" and tensor.dtype in DTYPE_NAMES
    if not is_plain or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.dtype.itemsize:
        raise CheckpointError(
            path, f"tensor {name} ({tensor.dtype}) is not stored as numbers; get another file"
        )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A config.json of diffusers."""
    path.write_text(json.dumps(dict(values), indent=2) + "\n", "utf-8")
