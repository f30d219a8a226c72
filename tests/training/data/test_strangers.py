"""Data sets and caches that were made to do harm: refused in words, never waited for."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from training.data.clips import Report, clips, dump
from training.data.formats import read_sources
from training.data.index import Index, compile_index
from training.data.loader import CacheDataset
from training.data.sources import DataSpec


def read(path: Path) -> tuple[list[str], dict[str, str]]:
    rejected: dict[str, str] = {}
    return [s.name for s in read_sources(path, reject=rejected.__setitem__)], rejected


def member(name: str, size: int, kind: bytes) -> bytes:
    """A header that tells any size, even one below zero."""
    head = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    head[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    head[156:157] = kind
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head)


BACK = [(kind, size) for kind in (b"0", b"Q", tarfile.GNUTYPE_SPARSE) for size in (-512, -1024)]


@pytest.mark.parametrize(("kind", "size"), [(b"0", -1), *BACK])
def test_a_tar_that_leads_back_ends(tmp_path: Path, kind: bytes, size: int) -> None:
    data = member("good.mp4", 0, tarfile.REGTYPE) + member("back.mp4", size, kind) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(data)
    names, rejected = read(tmp_path)
    assert names in ([], ["a.tar/good.mp4"]) and list(rejected) == ["a.tar"]


def sized(path: Path, data: bytes, size: int) -> None:
    """A file of any size that holds hardly anything but zeros, which take no room."""
    path.write_bytes(data)
    os.truncate(path, size)


def peak(path: Path) -> int:
    """Bytes that Python holds at most while it reads a data set."""
    tracemalloc.start()
    try:
        read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


GOOD = member("good.mp4", 0, tarfile.REGTYPE) + member("last.mp4", 0, tarfile.REGTYPE)
HEADERS = [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_as_large_as_a_disk_is_not_read(tmp_path: Path, kind: bytes) -> None:
    sized(tmp_path / "a.tar", GOOD + member("large", 2**33, kind), 2**34)
    names, rejected = read(tmp_path)
    assert names == ["a.tar/good.mp4"]  # what follows might belong to the other
    assert "headers of more than 65536 bytes" in rejected["a.tar"]
    assert peak(tmp_path) < 2**22


def test_headers_without_end_are_not_read(tmp_path: Path) -> None:
    one = member("pax", 2**15, tarfile.XHDTYPE) + bytes(2**15)
    many = member("pax", 512, tarfile.XHDTYPE) + bytes(512)
    sparse = bytearray(member("sparse.mp4", 0, tarfile.GNUTYPE_SPARSE))
    sparse[482] = 1  # its map goes on
    sparse[148:156] = b" " * 8
    sparse[148:156] = f"{sum(sparse):06o}\0 ".encode()
    for name, data in (
        ("one", one * 8),
        ("many", many * 5000),
        ("sparse", bytes(sparse) + (bytes(504) + b"\1" + bytes(7)) * 5000),
    ):
        (tmp_path / f"{name}.tar").write_bytes(GOOD + data)
    names, rejected = read(tmp_path)
    assert [name.split("/")[1] for name in names] == ["good.mp4"] * 3
    assert set(rejected) == {"one.tar", "many.tar", "sparse.tar"}
    assert peak(tmp_path) < 2**22


def test_names_and_captions_of_a_tar_have_a_bound_each(tmp_path: Path) -> None:
    caption = b"word " * 200_000
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(3):
            for suffix, data in ((".txt", caption), (".mp4", b"video")):
                info = tarfile.TarInfo(f"{'long' * 40}/{i}{suffix}")
                info.size, info.pax_headers = len(data), {"comment": "x" * 50_000}
                tar.addfile(info, io.BytesIO(data))
    names, rejected = read(tmp_path)
    assert len(names) == 3 and not rejected


LONG = "x" * 1000 + "\n"


@pytest.mark.parametrize(
    "row", ["x" * 2**25, f'"{LONG}",' * 1100, '"' + LONG * 1100], ids=["line", "fields", "field"]
)
def test_a_row_of_csv_without_end_is_not_held(tmp_path: Path, row: str) -> None:
    (tmp_path / "metadata.csv").write_text(f"path,text\na.mp4,one\n{row}\nb.mp4,two\n")
    names, rejected = read(tmp_path)
    assert names[0] == "a.mp4"
    line, reason = next(iter(rejected.items()))
    assert 3 <= int(line.removeprefix("metadata.csv:")) <= 3 + 2**20 // len(LONG)
    assert "more than 1048576 characters" in reason
    if "\n" not in row:
        assert names == ["a.mp4", "b.mp4"] and len(rejected) == 1
        assert peak(tmp_path) < 2**24


def test_a_csv_without_a_first_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("x" * 2**21)
    with pytest.raises(ValueError, match=r"metadata\.csv: its first row .*more than 1048576"):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_caption_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
    os.mkfifo(tmp_path / "a.txt")
    names, rejected = read(tmp_path)
    assert names == ["b.png"] and "no regular file" in rejected["a.txt"]


def test_numbers_beyond_all_bounds_cost_one_row(tmp_path: Path) -> None:
    rows = [f'{{"path": "{i}.mp4", "start": {start}}}' for i, start in enumerate(("1" * 400, "1"))]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    names, rejected = read(tmp_path)
    assert names == ["1.mp4"] and "start is 111" in rejected["metadata.jsonl:1"]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes")
def test_names_that_are_no_text_are_spelled_out(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    stem = os.fsdecode(b"bad\xff\x1b[2J\n")
    Image.new("RGB", (64, 64)).save(root / f"{stem}.png")
    (root / f"{stem}.txt").write_text("a caption")
    Image.new("RGB", (64, 64)).save(root / f"{stem}2.png")
    report = Report(tmp_path / "quarantine.jsonl")
    spec = DataSpec(path=root, sizes=[(64, 64)], frames=[1], crop="random")
    (clip,) = clips(spec, workers=1, report=report)
    assert clip.key == "bad\\udcff\x1b[2J\n.png#0"
    assert dump(spec, tmp_path / "dump", 1, workers=1)
    assert all(line.isprintable() for line in report.summary().split("\n"))
    assert "without a caption: 1, as bad\\udcff\\x1b[2J\\n2.png" in report.summary()


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": ["latents-/../../secret.safetensors"] * 3},
        {"shards": ["/etc/secret.safetensors"] * 3},
        {"shards": [None] * 3},
        {"shards": []},
        {"sizes": [10**30] * 3},
        {"buckets": {"3x2x2": [0, 30]}, "sizes": [1]},
        {"buckets": [1]},
        {"buckets": {"3x2x2": [0, 30, 0]}},
    ],
    ids=str,
)
def test_an_index_that_came_with_a_cache_is_checked(cache: Path, changes: dict) -> None:
    path = compile_index(cache)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    with pytest.raises(ValueError, match=r"is damaged .*delete"):
        Index.open(cache)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]"])
def test_an_index_of_other_json_is_damaged(cache: Path, text: str) -> None:
    compile_index(cache).write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        Index.open(cache)


def test_an_entry_of_no_shard_is_damage(cache: Path) -> None:
    entries = compile_index(cache).with_suffix(".npy")
    data = bytearray(entries.read_bytes())
    data[-6:] = b"\xff" * 6
    entries.write_bytes(data)
    data_set = CacheDataset(cache)
    with pytest.raises(ValueError, match="is damaged"):
        for bucket, count in data_set.buckets.items():
            data_set.load(bucket, count - 1)


def test_a_deep_table_of_samples_names_its_shard(cache: Path, shard) -> None:
    (path,) = cache.glob("latents-1x2x4-*")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["samples"] = "[" * 100_000
    text = json.dumps(header).encode()
    stream = io.BytesIO()
    stream.write(len(text).to_bytes(8, "little") + text + data[8 + length :])
    path.write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"latents-1x2x4-a-0\.safetensors"):
        CacheDataset(cache).load("1x2x4", 0)
