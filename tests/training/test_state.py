"""States on a full disk, states of strangers (nothing in them runs), and what is said of both."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from training.state import differences, load_tensors, read_info, save_state, states

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


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit on the size of files stands in for a full disk: a write fails half-way."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [20_000, 5], ids=["tensors", "run.json"])
def test_a_full_disk_leaves_the_older_states_and_nothing_of_the_new_one(
    state: Path, limit: int
) -> None:
    run = state.parents[1]
    large = {"model.a": torch.zeros(100_000)}
    with files_of_at_most(limit), pytest.raises(OSError, match="step-00000004") as error:
        save_state(run, 4, large, {"step": 4}, keep=1)
    said = str(error.value)
    assert "could not be written (File too large)" in said and "make room" in said
    assert "\n" not in said
    assert states(run) == list((run / "states").iterdir()) == [state]
    load_tensors(state, empty())


def failing(error: Exception) -> Callable:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_disk_that_is_not_full_is_not_said_to_be(state: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match=r"\(Input/output error\).*whole: run again$"):
        save_state(state.parents[1], 4, empty(), {"step": 4}, keep=1)
    assert states(state.parents[1]) == [state]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["file server", "torch's memory", "memory"],
)
def test_a_state_that_cannot_be_read_now_need_not_be_removed(
    state: Path, monkeypatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dcp.FileSystemReader, "read_data", failing(error))
        with pytest.raises(ValueError, match=r"not a readable state .*: try again; if it stays"):
            load_tensors(state, empty())
    load_tensors(state, empty())
    monkeypatch.setattr(Path, "read_text", failing(error))
    if isinstance(error, OSError):
        with pytest.raises(ValueError, match=r"Stale file handle.*: try again; if it stays"):
            read_info(state)


def test_a_state_without_its_parts_is_no_state(state: Path) -> None:
    for name, read in (("run.json", read_info), (".metadata", lambda s: load_tensors(s, empty()))):
        (state / name).unlink()
        with pytest.raises(ValueError, match=rf"{name}.*: remove that folder$"):
            read(state)


def test_tensors_that_are_damaged_are_named(state: Path) -> None:
    for path in state.glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"step-00000003: not a readable state .*\): remove that"):
        load_tensors(state, empty())


def test_of_long_values_the_place_where_they_differ_is_quoted() -> None:
    prompt = "a long caption that goes on and on and on and on, and then says "
    was, now = ({"config": {"a": prompt + end, "b": 1}} for end in ("red", "blue"))
    (line,) = differences(was, now)
    assert line.startswith("a: …") and "red'" in line and "blue'" in line and len(line) < 140
    assert differences({"config": {"b": 1}}, {"config": {"b": [2]}}) == ["b: 1 -> [2]"]


def test_held_out_clips_are_told_from_other_clips() -> None:
    clips, others = "a" * 64, "b" * 64
    (line,) = differences({"data": {"0": clips}}, {"data": {"0": f"{clips}:12"}})
    assert "all -> 12" in line and "watch.heldout_every" in line
    (line,) = differences({"data": {"0": f"{clips}:9"}}, {"data": {"0": f"{others}:9"}})
    assert "held" not in line and "aaa" in line and "bbb" in line
