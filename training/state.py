"""The whole state of a run on disk: what a killed run continues from, bit for bit.

A state is a folder `step-00001000` under the run's `states`: tensors by torch's distributed
checkpoint (each process writes its shards; they open on any number of processes), and `run.json`
with the step, the counters and the resolved config. A folder has its final name only once complete.

torch keeps the table of the tensors as a pickle, and a pickle may call any function. So the table
is read by `_Reader`, which refuses all but what torch itself writes there.
"""

from __future__ import annotations

import errno
import json
import logging
import pickle
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from .config import TrainConfig

log = logging.getLogger(__name__)

# What may differ between a state and the config that continues it: these change when a run ends,
# what it shows and how the machine is used, but not what a step computes.
_FREE = (
    "steps",
    "run",
    "name",
    "notes",
    "license",
    "save",
    "watch",
    "engine",
    "init",
    "vae",
    "vae_space",
)
_FREE_INNER = {
    "optimizer": ("cooldown",),
    "data": ("sets", "workers", "latents"),
    "text": ("file", "tokenizer", "cache", "weights"),
}
# It logs the times of every tensor, which takes longer than to write a small model.
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.ERROR)

_SHOWN = 60
"""Characters of a value that an error quotes."""
_NAME = re.compile(r"step-(\d{8})")

_DCP = "torch.distributed.checkpoint"
_TABLE_MODULES = (f"{_DCP}.metadata", f"{_DCP}.filesystem")
_DTYPES = tuple(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))
_TABLE_NAMES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in _DTYPES),
}


def states(run: Path) -> list[Path]:
    """The complete states of a run, oldest first."""
    found = (run / "states").glob("step-*")
    return sorted(path for path in found if _NAME.fullmatch(path.name) and path.is_dir())


def save_state(run: Path, step: int, tensors: dict[str, Tensor], info: dict, *, keep: int) -> Path:
    """Write a state under a temporary name, give it its final one, and drop old ones.

    tensors: name to tensor, plain or sharded; every process must call. Raises OSError (disk full,
    or whatever else fails) with the older states untouched and nothing left of this one.
    """
    final = run / "states" / f"step-{step:08d}"
    part = final.with_name(final.name + ".part")
    is_main = _rank() == 0
    try:
        if is_main:
            for stale in (run / "states").glob("step-*.part"):
                shutil.rmtree(stale, ignore_errors=True)
            part.mkdir(parents=True)
            (part / "run.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
        _barrier()
        with _plainly():
            dcp.save(tensors, checkpoint_id=part)
    except OSError as error:
        if is_main:
            shutil.rmtree(part, ignore_errors=True)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room (or lower save.keep) and run again" if is_full else "run again"
        raise OSError(
            f"{final}: the state could not be written ({error.strerror or error}). Older states "
            f"are whole: {remedy}"
        ) from error
    _barrier()
    if is_main:
        if final.exists():
            shutil.rmtree(final)
        part.replace(final)
        for old in states(run)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    _barrier()
    return final


def read_info(state: Path) -> dict[str, Any]:
    """The `run.json` of a state. Raises ValueError for one that cannot be read."""
    try:
        return json.loads((state / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(state, error) from error


def load_tensors(state: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors (plain or sharded, any number of processes) in place from a state.

    Raises ValueError where the state lacks one of them or has another shape, where its table
    is damaged or would run code, or where it cannot be read now.
    """
    reader = _Reader(state)
    metadata = reader.read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        stored = metadata.get(name)
        if not isinstance(stored, TensorStorageMetadata):  # other values would be unpickled
            raise ValueError(f"{state} holds no {name!r}: it is the state of other networks")
        if tuple(stored.size) != tuple(tensor.shape):
            raise ValueError(
                f"{state}: {name!r} has shape {tuple(stored.size)}, the config's networks have "
                f"{tuple(tensor.shape)}"
            )
    try:
        with _plainly():
            dcp.load(tensors, storage_reader=reader)
    except OSError as error:
        raise _unreadable(state, error) from error


def _unreadable(state: Path, error: Exception) -> ValueError:
    """A state whose bytes are not those of one is lost. One that the system fails to give (a file
    server that is away, memory that is full) may be whole: nobody is told to remove it at once."""
    is_damaged = _number(error) in (None, errno.ENOENT)
    remedy = "remove that folder" if is_damaged else "try again; if it stays so, remove that folder"
    return ValueError(f"{state}: not a readable state ({error}): {remedy}")


class _Reader(dcp.FileSystemReader):
    """torch's, but for the table. Takes no `rank`: torch then falls back to no other table."""

    def read_metadata(self) -> Metadata:
        try:
            with open(Path(self.path, ".metadata"), "rb") as file:
                metadata = _Unpickler(file).load()
            if not isinstance(metadata, Metadata):
                raise ValueError(f"its table is a {type(metadata).__name__}")
            if not isinstance(metadata.state_dict_metadata, dict):
                raise ValueError("its table lists no tensors")
        except Exception as error:  # what unpickling other bytes may raise has no bounds
            raise _unreadable(self.path, error) from error
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _Unpickler(pickle.Unpickler):
    """Finds no function but what torch writes into the table of a state."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "WindowsPath"):
            return PurePath  # the other system's can not be made
        if module in _TABLE_MODULES and "." not in name:
            found = super().find_class(module, name)
            if is_dataclass(found) or (isinstance(found, type) and issubclass(found, Enum)):
                return found
        if (module, name) in _TABLE_NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it would call {module}.{name}"[:200])


def fingerprint(config: TrainConfig, digests: dict[str, str]) -> dict[str, Any]:
    """What a step computes from: the part of the config that matters, and the data's digests."""
    # Without what is not set, so that a new key does not change what older states say.
    values = config.model_dump(mode="json", exclude=set(_FREE), exclude_none=True)
    for section, keys in _FREE_INNER.items():
        for key in keys:
            values[section].pop(key, None)
    return {"config": values, "data": digests}


def differences(found: dict[str, Any], expected: dict[str, Any], at: str = "") -> list[str]:
    """Lines "key: was -> is" for everything that differs between two fingerprints."""
    lines = []
    for key in sorted({*found, *expected}):
        name, was, now = f"{at}{key}", found.get(key), expected.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            lines += differences(was, now, f"{name}.")
        elif was != now:
            lines.append(f"{name.removeprefix('config.')}: {_change(name, was, now)}")
    return lines


def _change(name: str, was: Any, now: Any) -> str:
    """What is another of two values, in words; of long ones the place where they differ."""
    if name.startswith("data.") and isinstance(was, str) and isinstance(now, str):
        (clips, _, left), (same, _, left_now) = was.partition(":"), now.partition(":")
        if clips == same:  # see `training.data.plan.Without`
            return (
                f"of the same clips {left or 'all'} -> {left_now or 'all'} are trained on, as "
                "watch.heldout_every or watch.heldout_clips holds out others"
            )
    texts = repr(was), repr(now)
    pairs = enumerate(zip(*texts, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(map(len, texts)))
    start = max(0, first - _SHOWN // 3) if max(map(len, texts)) > _SHOWN else 0
    return " -> ".join(
        "…" * (start > 0) + text[start:][:_SHOWN] + "…" * (len(text) > start + _SHOWN)
        for text in texts
    )


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


@contextmanager
def _plainly() -> Iterator[None]:
    """Without torch's remark that there is only one process, and with its failures as an OSError:
    its own is no Exception, and quotes every frame of every process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is.*")
        try:
            yield
        except CheckpointException as failed:
            errors = [error for error, _ in failed.failures.values()]
            if interrupt := next((e for e in errors if not isinstance(e, Exception)), None):
                raise interrupt from None
            causes = [_cause(error) for error in errors]
            number = next(filter(None, map(_number, causes)), None)
            reason = "; ".join(dict.fromkeys(map(_reason, causes)))
            raise (OSError(number, reason) if number else OSError(reason)) from failed


def _cause(error: BaseException) -> BaseException:
    """The system's error, where torch met it first and then failed of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if _number(cause) is not None:
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _number(error: BaseException) -> int | None:
    """The system's number of an error; None where it is not the system's."""
    if isinstance(error, OSError):
        return error.errno
    # torch's allocator on CPUs raises a plain RuntimeError.
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return errno.ENOMEM if is_memory or "can't allocate memory" in str(error) else None


def _reason(error: BaseException) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or (str(error) or type(error).__name__).splitlines()[0]
