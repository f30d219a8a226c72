"""Single-file weights of strangers: read with bounds, and put into a library's module by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stiv.header import WEIGHT_DTYPES, CheckpointError, Header, read_header
from stiv.shapes import mismatches, some

Path_ = str | os.PathLike[str]


def read_tensors(path: Path_, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a file, memory-mapped, under new names.

    Args:
        path: a safetensors file whose header was read before.
        names: new name -> name in the file.

    Raises:
        CheckpointError: when the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(stored) for name, stored in names.items()}
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read: {error}; get the file again") from error


def open_header(path: Path_) -> Header:
    """The checked header of a weights file; other kinds of file are refused by their ending.

    Raises:
        CheckpointError: for anything but a sound safetensors file.
    """
    if Path(path).suffix.lower() in (".pt", ".pth", ".ckpt", ".bin"):
        raise CheckpointError(
            path, "is a pickle by its name; only .safetensors is read: convert it with a tool you "
            "trust, or download the .safetensors of the same model",
        )  # fmt: skip
    return read_header(path)


def load_weights(path: Path_, module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Puts tensors into a module that was built on the meta device; every name must fit.

    The module's parameters become the given tensors: no copy, and no memory for random weights.

    Raises:
        CheckpointError: naming what is missing, unknown or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_names(path, expected, {name: tuple(t.shape) for name, t in state.items()}, what)
    module.load_state_dict(dict(state), assign=True)
    module.eval().requires_grad_(False)


def check_names(
    path: Path_,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    what: str,
) -> None:
    """Compares names and shapes.

    Raises:
        CheckpointError: naming the first of those that are missing, unknown or of other shapes.
    """
    if problems := mismatches(expected, found):
        raise CheckpointError(
            path, f"is no whole {what}: tensors {'; '.join(problems)}; choose another file or get "
            "it again",
        )  # fmt: skip


def check_dtypes(path: Path_, header: Header, names: Iterable[str]) -> None:
    """Raises CheckpointError for tensors that are no plain weights (quantised with scales, …)."""
    odd = [f"{n} is {header.tensors[n].dtype}" for n in names
           if header.tensors[n].dtype not in WEIGHT_DTYPES]  # fmt: skip
    if odd:
        raise CheckpointError(
            path, f"{len(odd)} tensors not of {', '.join(WEIGHT_DTYPES)} ({some(odd)}); choose the "
            "fp16 or fp32 file of the same model",
        )  # fmt: skip


def on_meta(build: Any) -> Any:
    """The module that `build()` gives, its parameters without memory, its buffers real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return build()


def cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors in the dtype to compute in; those that have it already are not copied."""
    return {name: tensor.to(dtype) for name, tensor in state.items()}
