"""The compiled index: it finds every sample, notices changes, and names what is broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import training
from training.data.index import ENTRY, Index, compile_index

BUCKETS = {"3x2x2": 13, "1x2x4": 17}


def _keys(index: Index) -> list[str]:
    """Read every sample's key from the shard that the index names, with another reader."""
    keys = []
    for bucket, entries in index.buckets.items():
        for i in range(len(entries)):
            path, size, row = index.find(bucket, i)
            assert path.stat().st_size == size
            with open(path, "rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            assert path.name.startswith(f"latents-{bucket}-")
            keys.append(json.loads(header["__metadata__"]["samples"])[row]["key"] + bucket)
    return keys


def test_finds_every_sample_once(cache):
    index = Index.open(cache)
    assert {name: len(entries) for name, entries in index.buckets.items()} == BUCKETS
    keys = _keys(index)
    assert len(keys) == len(set(keys)) == 30
    assert (index.channels, index.provenance["encoder"]) == (4, "encoder-1")
    with pytest.raises(IndexError):
        index.find("3x2x2", 13)


def test_strides_are_those_of_the_samples(cache, shard):
    shard(cache, "b-0", 2, strides=(2.5, 6))
    assert Index.open(cache).strides == {"1x2x4": (3, 3), "3x2x2": (2.5, 6)}


def test_an_index_of_another_layout_is_left_alone(cache, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(training.data.index, "_LAYOUT", "1")
        old = compile_index(cache)
    assert compile_index(cache) != old
    assert old.exists() and Index.open(cache).strides["3x2x2"] == (3, 3)


@pytest.mark.parametrize("stride", [0, -1, np.nan, np.inf])
def test_a_shard_whose_strides_are_none_is_broken(cache, shard, stride):
    shard(cache, "b-0", 2, strides=(3, stride))
    with pytest.raises(ValueError, match=r"latents-3x2x2-b-0\.safetensors \(strides .*above 0"):
        compile_index(cache)


def test_entries_are_a_plain_mappable_array(cache):
    index = Index.open(cache)
    entries = np.load(index.entries, mmap_mode="r", allow_pickle=False)
    assert entries.dtype == ENTRY and entries.itemsize == 6 and len(entries) == 30
    for entry, shard in zip(entries, [*[0] * 17, *[1] * 5, *[2] * 8], strict=True):
        assert entry["shard"] == shard


def test_compiled_once_and_again_after_a_change(cache, shard):
    path = compile_index(cache)
    before = path.stat().st_mtime_ns, path.with_suffix(".npy").stat().st_mtime_ns
    old = Index.open(cache)
    assert (path.stat().st_mtime_ns, path.with_suffix(".npy").stat().st_mtime_ns) == before
    shard(cache, "b-0", 2)
    new = Index.open(cache)
    assert len(new.buckets["3x2x2"]) == 15 and new.digest != old.digest
    assert len(_keys(old)) == 30  # a run that goes on with the old index is left alone


def test_a_shard_replaced_by_one_of_the_same_size_is_noticed(cache, shard):
    old = Index.open(cache)
    for name, count, shape in (
        ("a-0", 5, (3, 2, 2)),
        ("a-1", 8, (3, 2, 2)),
        ("a-0", 17, (1, 2, 4)),
    ):
        path = shard(cache, name, count, shape, encoder="encoder-2")
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    new = Index.open(cache)
    assert new.provenance["encoder"] == "encoder-2" and new.digest != old.digest


def test_digest_is_of_the_data_not_of_the_place(cache, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy, ignore=shutil.ignore_patterns("index"))
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    assert Index.open(copy).digest == Index.open(cache).digest


def test_other_files_are_left_out(cache):
    (cache / "text-a-0.safetensors").write_bytes(b"not latents")
    (cache / "latents-3x2x2-a-9.safetensors.part").write_bytes(b"half")
    assert len(_keys(Index.open(cache))) == 30


def test_processes_at_once(cache):
    code = (
        "import sys; from training.data.index import Index; print(Index.open(sys.argv[1]).digest)"
    )
    command = [sys.executable, "-c", code, str(cache)]
    given = {"stdout": subprocess.PIPE, "text": True, "cwd": Path(training.__file__).parents[1]}
    running = [subprocess.Popen(command, **given) for _ in range(4)]
    printed = [process.communicate()[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    assert set(printed) == {Index.open(cache).digest + "\n"}
    assert sorted(path.suffix for path in (cache / "index").iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize(
    "damage", ["truncated", "garbage", "empty", "no provenance", "huge header"]
)
def test_broken_shards_are_named(cache, damage):
    path = cache / "latents-3x2x2-a-1.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncated": data[:-1],
            "garbage": b"\x00\xff" * 300,
            "empty": b"",
            "no provenance": data.replace(b"provenance", b"PROVENANCE"),
            "huge header": (2**40).to_bytes(8, "little") + data[8:],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"latents-3x2x2-a-1\.safetensors \(.*cache latents"):
        compile_index(cache)
    assert not list(cache.glob("index/*"))


def test_of_many_broken_shards_some_are_named(tmp_path):
    for i in range(12):
        (tmp_path / f"latents-1x1x1-a-{i}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="and 4 more"):
        compile_index(tmp_path)


def test_shards_of_two_encoders_are_refused(cache, shard):
    shard(cache, "b-0", 2, encoder="encoder-2")
    with pytest.raises(ValueError, match=r"latents-3x2x2-b-0\.safetensors: encoder is encoder-2"):
        compile_index(cache)


def test_empty_folders_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="cache latents"):
        compile_index(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        compile_index(tmp_path / "none")


@pytest.mark.parametrize("suffix", [".json", ".npy"])
def test_a_damaged_index_is_named_and_made_again(cache, suffix):
    path = compile_index(cache).with_suffix(suffix)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"index/?.* is damaged .*delete"):
        Index.open(cache)
    shutil.rmtree(path.parent)
    assert len(_keys(Index.open(cache))) == 30


def test_rows_are_where_the_index_says(cache):
    index = Index.open(cache)
    path, _, row = index.find("3x2x2", 7)  # the third of the second shard
    assert (path.name, row) == ("latents-3x2x2-a-1.safetensors", 2)
    assert load_file(path)["latents"][row, 0, 0, 0, 0] == 2
