"""The whole state of a run on disk: what a killed run continues from, bit for bit.

A state is a folder `step-00001000` under the run's `states`: tensors by torch's distributed
checkpoint (each process writes its shards; they open on any number of processes), and `run.json`
with the step, the counters and the resolved config. A folder has its final name only once complete.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

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
    "text": ("file", "tokenizer", "cache"),
}
# It logs the times of every tensor, which takes longer than to write a small model.
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.ERROR)

_NAME = re.compile(r"step-(\d{8})")


def states(run: Path) -> list[Path]:
    """The complete states of a run, oldest first."""
    found = (run / "states").glob("step-*")
    return sorted(path for path in found if _NAME.fullmatch(path.name) and path.is_dir())


def save_state(run: Path, step: int, tensors: dict[str, Tensor], info: dict, *, keep: int) -> Path:
    """Write a state under a temporary name, give it its final one, and drop old ones.

    tensors: name to tensor, plain or sharded; every process must call. Raises OSError (disk full)
    with the older states untouched.
    """
    final = run / "states" / f"step-{step:08d}"
    part = final.with_name(final.name + ".part")
    is_main = _rank() == 0
    if is_main:
        for stale in (run / "states").glob("step-*.part"):
            shutil.rmtree(stale, ignore_errors=True)
        part.mkdir(parents=True)
        (part / "run.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    _barrier()
    with _quiet():
        dcp.save(tensors, checkpoint_id=part)
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
    """The `run.json` of a state. Raises ValueError for a damaged one."""
    try:
        return json.loads((state / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{state}: not a readable state ({error}): remove that folder") from error


def load_tensors(state: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors (plain or sharded, any number of processes) in place from a state.

    Raises ValueError where the state lacks one of them or has another shape.
    """
    metadata = dcp.FileSystemReader(state).read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        stored = metadata.get(name)
        if stored is None:
            raise ValueError(f"{state} holds no {name!r}: it is the state of other networks")
        if tuple(stored.size) != tuple(tensor.shape):
            raise ValueError(
                f"{state}: {name!r} has shape {tuple(stored.size)}, the config's networks have "
                f"{tuple(tensor.shape)}"
            )
    with _quiet():
        dcp.load(tensors, checkpoint_id=state)


def fingerprint(config: TrainConfig, digests: dict[str, str]) -> dict[str, Any]:
    """What a step computes from: the part of the config that matters, and the data's digests."""
    values = config.model_dump(mode="json", exclude=set(_FREE))
    for section, keys in _FREE_INNER.items():
        for key in keys:
            values[section].pop(key)
    return {"config": values, "data": digests}


def differences(found: dict[str, Any], expected: dict[str, Any], at: str = "") -> list[str]:
    """Lines "key: was -> is" for everything that differs between two fingerprints."""
    lines = []
    for key in sorted({*found, *expected}):
        name, was, now = f"{at}{key}", found.get(key), expected.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            lines += differences(was, now, f"{name}.")
        elif was != now:
            lines.append(f"{name.removeprefix('config.')}: {was!r:.60} -> {now!r:.60}")
    return lines


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is.*")
        yield
