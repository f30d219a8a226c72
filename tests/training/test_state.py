"""States of strangers: nothing in them runs, and each refusal names the state."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from training.state import load_tensors, save_state

SHAPES = {"model.a": (2, 3), "model.b": (4,)}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    tensors["step"] = torch.tensor(3)
    tensors["low"] = torch.randn(3).bfloat16()
    return save_state(tmp_path, 3, tensors, {"step": 3}, keep=1)


class Call:
    """A pickle that makes a folder where it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def empty() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in SHAPES.items()}


def test_what_was_saved_comes_back(state: Path) -> None:
    torch.manual_seed(0)
    found = {**empty(), "step": torch.tensor(0), "low": torch.zeros(3, dtype=torch.bfloat16)}
    load_tensors(state, found)
    assert torch.equal(found["model.a"], torch.randn(2, 3)) and found["step"] == 3
    assert found["low"].any()


@pytest.mark.parametrize("table", [".metadata", "__0.metadata"])
def test_no_table_runs_code(state: Path, tmp_path: Path, table: str) -> None:
    """Neither the one that all processes share, nor that of one of them, which torch would try."""
    evil = tmp_path / "evil"
    (state / ".metadata").write_bytes(b"no pickle at all")
    (state / table).write_bytes(pickle.dumps(Call(evil)))
    with pytest.raises(ValueError, match="step-00000003: not a readable state"):
        load_tensors(state, empty())
    assert not evil.exists()


@pytest.mark.parametrize("value", [3, Metadata(state_dict_metadata=7)], ids=type)
def test_a_table_of_something_else_is_refused(state: Path, value: object) -> None:
    (state / ".metadata").write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match="not a readable state"):
        load_tensors(state, empty())


def test_values_that_are_no_tensors_are_not_read(state: Path) -> None:
    """torch would unpickle them."""
    described = dict.fromkeys(SHAPES, BytesStorageMetadata())
    (state / ".metadata").write_bytes(pickle.dumps(Metadata(state_dict_metadata=described)))
    with pytest.raises(ValueError, match=r"holds no 'model\.a'"):
        load_tensors(state, empty())
