"""The segment store: exact, checked on reading, bounded, and shared by processes that may die."""

from __future__ import annotations

import json
import logging
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from stiv.header import DTYPES
from stiv.store import SegmentStore, StoreError
from stiv.tensor_file import tensor_hash
from tests.stiv.stores import BIG, KEY, OTHER, TENSORS, assert_same, file_of, used_at


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(tmp_path / "store", BIG)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    count = dtype.itemsize
    for side in shape:
        count *= side
    data = draw(st.binary(min_size=count, max_size=count))
    if dtype == torch.bool:
        data = bytes(byte & 1 for byte in data)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0)
    return flat.to(torch.uint8).view(dtype).reshape(shape)


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"  # the header's own
)
infos = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.none() | st.booleans() | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.integers(0, 9), max_size=3),
    max_size=4,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, tensors(), max_size=4), infos)
def test_round_trip(table: dict[str, torch.Tensor], info: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SegmentStore(folder, BIG)
        store.put(KEY, table, info)
        assert_same(store.get(KEY), table)
        stated = store.info(KEY)
        assert {**stated, **info} == stated and set(stated) == {"created", *info}
        assert store.has(KEY) and not store.has(OTHER) and store.get(OTHER) is None


def test_views_and_later_changes(store: SegmentStore) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    view = whole.t()[1:3]
    wanted = view.clone()
    store.put(KEY, {"view": view}, {})
    whole.zero_()
    found = store.get(KEY)["view"]
    assert torch.equal(found, wanted)
    found.zero_()  # a reader's own memory
    assert torch.equal(store.get(KEY)["view"], wanted)


def test_a_second_put_replaces(store: SegmentStore) -> None:
    store.put(KEY, TENSORS, {"steps": 1})
    store.put(KEY, {"x": torch.ones(2)}, {"steps": 2})
    assert set(store.get(KEY)) == {"x"} and store.info(KEY)["steps"] == 2


def test_files(store: SegmentStore, tmp_path: Path) -> None:
    (tmp_path / "made.bin").write_bytes(b"from a file")
    first = store.put_file(KEY, ".mp4", b"a piece of film")
    store.put_file(KEY, ".bin", tmp_path / "made.bin")
    store.put_file(OTHER, ".mp4", b"")
    assert store.path(KEY, ".mp4") == first and first.read_bytes() == b"a piece of film"
    assert first.suffix == ".mp4"
    assert store.path(KEY, ".bin").read_bytes() == b"from a file"
    assert store.path(OTHER, ".mp4").read_bytes() == b""
    assert store.path(KEY, ".webm") is None and store.path(OTHER, ".bin") is None
    assert not store.has(KEY), "files are not tensors"


def test_the_latest_file_of_a_key_is_found(store: SegmentStore) -> None:
    used_at(store.put_file(KEY, ".mp4", b"old"), 50)
    store.put_file(KEY, ".mp4", b"new")
    assert store.path(KEY, ".mp4").read_bytes() == b"new"


@pytest.mark.parametrize(
    "key",
    ["", "ab", "AB" * 32, "../" + "a" * 61, "a" * 63 + "/", "a" * 64 + "\n", 7, None, "g" * 64],
)
def test_other_keys_are_refused(store: SegmentStore, key: object) -> None:
    for act in (
        lambda: store.get(key), lambda: store.has(key), lambda: store.info(key),
        lambda: store.put(key, TENSORS, {}), lambda: store.keep([key]),
        lambda: store.path(key, ".mp4"), lambda: store.put_file(key, ".mp4", b""),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            act()
    assert not store.folder.exists()


@pytest.mark.parametrize("suffix", ["", "mp4", ".safetensors", "./x", ".MP4", ".a.b", ".mp4\n"])
def test_other_suffixes_are_refused(store: SegmentStore, suffix: str) -> None:
    for act in (lambda: store.put_file(KEY, suffix, b""), lambda: store.path(KEY, suffix)):
        with pytest.raises(ValueError, match="expected one like"):
            act()


@pytest.mark.parametrize(
    ("table", "info", "named"),
    [
        ({"c": torch.zeros(2, dtype=torch.complex64)}, {}, "tensor c is torch.complex64"),
        ({"s": torch.eye(3).to_sparse()}, {}, "tensor s is sparse"),
        ({"m": torch.zeros(3, device="meta")}, {}, "tensor m is sparse or has no data"),
        ({"d": torch.zeros([1] * 9)}, {}, "9 dimensions"),
        ({"__metadata__": torch.zeros(1)}, {}, "tensor name"),
        ({"": torch.zeros(1)}, {}, "tensor name"),
        ({"a\nb": torch.zeros(1)}, {}, "tensor name"),
        (TENSORS, {"seconds": float("nan")}, "JSON"),
        (TENSORS, {"text": "\ud800"}, "surrogate"),
        (TENSORS, {"text": "x" * 100_000}, "bytes of JSON"),
    ],
)
def test_what_is_not_stored(store: SegmentStore, table: dict, info: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        store.put(KEY, table, info)
    assert not store.has(KEY)


# Damage


def test_any_changed_byte_is_noticed(store: SegmentStore, caplog: pytest.LogCaptureFixture) -> None:
    store.put(KEY, TENSORS, {"steps": 50})
    path = file_of(store)
    good = path.read_bytes()
    draw = random.Random(0)
    with caplog.at_level(logging.CRITICAL):
        for position in range(len(good)):
            data = bytearray(good)
            data[position] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            assert store.get(KEY) is None, position
            assert not path.exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_wrong_data_is_never_returned(data: st.DataObject) -> None:
    """Cut, lengthened, overwritten anywhere with anything: gone, or exactly what was stored."""
    with tempfile.TemporaryDirectory() as folder:
        store = SegmentStore(folder, BIG)
        store.put(KEY, TENSORS, {"steps": 50})
        store.put_file(KEY, ".mp4", b"piece" * 20)
        for path in (file_of(store), store.path(KEY, ".mp4")):
            good = path.read_bytes()
            start = data.draw(st.integers(0, len(good)))
            end = data.draw(st.integers(start, len(good)))
            path.write_bytes(good[:start] + data.draw(st.binary(max_size=20)) + good[end:])
        found, piece = store.get(KEY), store.path(KEY, ".mp4")
        if found is not None:
            assert_same(found, TENSORS)
        assert piece is None or piece.read_bytes() == b"piece" * 20


def test_a_damaged_file_is_noticed_and_removed(
    store: SegmentStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.put_file(KEY, ".mp4", b"a piece of film")
    path.write_bytes(b"a piece of fiLm")
    assert store.path(KEY, ".mp4") is None and not path.exists()
    assert len(caplog.messages) == 1 and "its bytes are not those" in caplog.text


def test_foreign_entries(store: SegmentStore, caplog: pytest.LogCaptureFixture) -> None:
    def refused(why: str) -> None:
        caplog.clear()
        assert store.info(KEY) is None and store.get(KEY) is None
        assert len(caplog.messages) == 1 and why in caplog.text and "\n" not in caplog.messages[0]
        assert not os.path.lexists(path)

    path = file_of(store)
    store.put(OTHER, TENSORS, {})
    path.parent.mkdir()
    path.write_bytes(file_of(store, OTHER).read_bytes())
    refused("another key")
    save_file(TENSORS, path)
    refused("not an entry of this store")
    save_file(TENSORS, path, {"stiv.format": "1", "stiv.tensor_hash": tensor_hash(TENSORS)})
    refused("not an entry of this store")
    path.symlink_to(file_of(store, OTHER))
    refused("not a regular file")
    os.mkfifo(path)
    refused("not a regular file")
    for content_ in (b"", b"\x80\x04pickle", b"PK\x03\x04" * 9, b"<html>\n\x1b[31m" * 9):
        path.write_bytes(content_)
        refused("segment store")
    path.write_bytes(struct.pack("<Q", 2**62) + b"{" * 100)
    refused("claims")
    header = json.dumps({"__metadata__": {"stiv.store": "1"}, "x": {"dtype": "F32", "shape": [2**62]
                        , "data_offsets": [0, 8]}}).encode()  # fmt: skip
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused("bad header")
    assert_same(store.get(OTHER), TENSORS)


def test_a_folder_in_the_place_of_an_entry(store: SegmentStore) -> None:
    path = file_of(store)
    path.mkdir(parents=True)
    assert store.get(KEY) is None and path.is_dir()
    with pytest.raises(StoreError, match=f"{path.name} is in the way: remove it"):
        store.put(KEY, TENSORS, {})
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_odd_names_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path, 1, grace=0.0)
    (tmp_path / "ab").mkdir()
    (tmp_path / "AB").mkdir()
    (tmp_path / "zz").symlink_to(tmp_path)
    odd = ["notes.txt", "ab/x.safetensors", f"ab/{KEY}", f"ab/{KEY}.MP4", f"ab/{KEY}-00.mp4",
           f"AB/{KEY}.safetensors", f"{KEY}.safetensors", "ab/.hidden", "ab/$(touch x)",
           "ab/new\nline"]  # fmt: skip
    for name in odd:
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / "ab" / f"{OTHER}.mp4").mkdir()
    (tmp_path / "cd").write_bytes(b"a file where a folder belongs")
    store.put(KEY, TENSORS, {})
    store.keep([KEY, OTHER])
    assert store.get(OTHER) is None
    assert all((tmp_path / name).read_bytes() == b"x" * 100 for name in odd)
    with pytest.raises(StoreError, match="cd is in the way"):
        store.put(OTHER, TENSORS, {})


# Bounds


def filled(store: SegmentStore, count: int, size: int = 10_000) -> list[str]:
    """Entries used a day ago and less: the first is the oldest."""
    keys = [f"{n:02x}" * 32 for n in range(count)]
    for n, key in enumerate(keys):
        store.put(key, {"x": torch.zeros(size, dtype=torch.uint8)}, {})
        used_at(file_of(store, key), 86_400 - n)
    return keys


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    keys = filled(SegmentStore(tmp_path, BIG), 6)
    used_at(file_of(SegmentStore(tmp_path, BIG), keys[2]), 90_000)
    store = SegmentStore(tmp_path, 45_000)
    store.get(keys[0])  # used now
    store.put(KEY, {"x": torch.zeros(10_000, dtype=torch.uint8)}, {})
    left = [key for key in (*keys, KEY) if store.has(key)]
    assert left == [keys[0], keys[4], keys[5], KEY], "the limit holds four of them"
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 45_000


def test_files_and_tensors_share_the_limit(tmp_path: Path) -> None:
    keys = filled(SegmentStore(tmp_path, BIG), 2)
    old = SegmentStore(tmp_path, BIG).put_file(KEY, ".mp4", bytes(10_000))
    used_at(old, 86_399.5)
    store = SegmentStore(tmp_path, 35_000)
    store.put_file(OTHER, ".mp4", bytes(20_000))
    assert [store.has(key) for key in keys] == [False, True]
    assert store.path(KEY, ".mp4") is None and store.path(OTHER, ".mp4")


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    keys = filled(SegmentStore(tmp_path, BIG), 5)
    SegmentStore(tmp_path, BIG).keep(keys[:2])  # by anyone: another server
    store = SegmentStore(tmp_path, 1)
    store.put(KEY, TENSORS, {})
    assert [store.has(key) for key in (*keys, KEY)] == [True, True, False, False, False, True]


def test_keep_refreshes_files_too(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path, 1)
    piece = store.put_file(KEY, ".mp4", b"piece")
    used_at(piece, 86_400)
    store.keep([KEY, OTHER])
    store.put(OTHER, TENSORS, {})
    assert store.path(KEY, ".mp4") == piece


def test_every_put_counts_before_the_next_listing(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path, 100_000, grace=0.0)
    filled(store, 40)
    used = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert 50_000 < used <= 100_000


def test_a_time_in_the_future_is_no_reason_to_stay(tmp_path: Path) -> None:
    keys = filled(SegmentStore(tmp_path, BIG), 1)
    used_at(file_of(SegmentStore(tmp_path, BIG), keys[0]), -1e7)
    SegmentStore(tmp_path, 1).put(KEY, TENSORS, {})
    assert not file_of(SegmentStore(tmp_path, 1), keys[0]).exists()


def test_half_files_of_dead_writers_are_cleaned(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    shard = tmp_path / "ab"
    shard.mkdir()
    names = {
        "dead": f".{KEY}.safetensors.{ended.pid}.00000000.tmp",
        "dead but new": f".{KEY}.safetensors.{ended.pid}.00000001.tmp",
        "alive": f".{KEY}.safetensors.{os.getpid()}.00000002.tmp",
        "abandoned": f".{KEY}.safetensors.{os.getpid()}.00000003.tmp",
        "no process": f".{KEY}.safetensors.{10**30}.00000004.tmp",
    }
    ages = {"dead": 120, "dead but new": 5, "alive": 120, "abandoned": 90_000, "no process": 120}
    for what, name in names.items():
        (shard / name).write_bytes(b"half")
        used_at(shard / name, ages[what])
    SegmentStore(tmp_path, BIG).put(OTHER, TENSORS, {})
    assert {n for n in names if (shard / names[n]).exists()} == {"dead but new", "alive"}


def test_the_limit_must_be_more_than_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        SegmentStore(tmp_path, 0)


# Errors for people
