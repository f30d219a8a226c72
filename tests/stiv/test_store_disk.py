"""The segment store on disks that are full, read-only, shared or cut off in the middle."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stiv.store import SegmentStore, StoreError, as_text
from tests.stiv.store_worker import KEYS, churn, content, is_right, put_for_ever, start
from tests.stiv.stores import BIG, KEY, OTHER, TENSORS, assert_same, file_of, used_at


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(tmp_path / "store", BIG)


def test_room_is_checked_before_work_begins(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path / "not" / "made", 50_000)
    store.check_room(49_500)  # a full store is emptied to this
    for needed, kept in ((20_000, 40_000), (49_501, 0)):
        with pytest.raises(StoreError, match=r"take .* kB, the store .* may hold 49\.5 kB: raise"):
            store.check_room(needed, bytes_kept=kept)
    assert not store.folder.exists()
    with pytest.raises(StoreError, match=r"no disk space .* need .* TB, .* are free: make room"):
        SegmentStore(tmp_path, 10**18).check_room(10**17)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_999, "1.0 MB"),
     (4_200_000, "4.2 MB"), (5e15, "5000.0 TB")],
)  # fmt: skip
def test_bytes_for_people(count: float, text: str) -> None:
    assert as_text(count) == text


@contextmanager
def without_root() -> Iterator[None]:
    """Root may write anywhere: for a while be another user."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_read_only_store_is_read(open_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SegmentStore(open_folder / "store", BIG)
    store.put(KEY, TENSORS, {})
    piece = store.put_file(KEY, ".mp4", b"piece")
    store.put(OTHER, TENSORS, {})
    file_of(store, OTHER).write_bytes(b"damaged")
    for folder in (store.folder, *store.folder.iterdir()):
        os.chmod(folder, 0o555)
    try:
        with without_root():
            assert_same(store.get(KEY), TENSORS)
            assert store.path(KEY, ".mp4") == piece
            store.keep([KEY])
            assert store.get(OTHER) is None, "damaged, and cannot be removed"
            for act in (
                store.check_writable, lambda: store.put(KEY, TENSORS, {}),
                lambda: store.put_file("ef" * 32, ".mp4", b"x"),
            ):  # fmt: skip
                with pytest.raises(StoreError, match="cannot be written: give ComfyUI the right"):
                    act()
            with pytest.raises(StoreError, match="the right to write"):
                SegmentStore(open_folder / "new", BIG).check_writable()
    finally:
        for folder in (store.folder, *store.folder.iterdir()):
            os.chmod(folder, 0o755)
    assert file_of(store, OTHER).exists()


def test_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        store = SegmentStore(folder, BIG)
        assert store.get(KEY) is None and not store.has(KEY) and store.path(KEY, ".mp4") is None
        store.keep([KEY])
        for act in (store.check_writable, lambda s=store: s.put(KEY, TENSORS, {})):
            with pytest.raises(StoreError, match="is in the way: remove it, or choose") as caught:
                act()
            assert "\n" not in str(caught.value)


def test_check_writable_makes_the_folder_and_leaves_nothing(store: SegmentStore) -> None:
    store.check_writable()
    assert [path.name for path in store.folder.iterdir()] == ["removals"]


def test_no_disk_space(store: SegmentStore) -> None:
    """A limit on the size of a file fails in the middle of writing, as a full disk does."""
    store.put(KEY, TENSORS, {"steps": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        for act in (
            lambda: store.put(KEY, {"x": torch.zeros(10**6)}, {}),
            lambda: store.put_file(KEY, ".mp4", bytes(4 * 10**6)),
        ):
            with pytest.raises(StoreError, match=r"no disk space: 4\.0 MB are needed, .* are free"):
                act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same(store.get(KEY), TENSORS)
    assert [item.name for item in file_of(store).parent.iterdir()] == [file_of(store).name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store = SegmentStore(small_disk, BIG)
    with pytest.raises(StoreError, match=r"need 2\.0 MB, .* kB are free|need 2\.0 MB, 1\.0 MB"):
        store.check_room(2 * 10**6)
    with pytest.raises(StoreError, match=r"no disk space: 400\.0 kB are needed"):
        for n in range(4):
            store.put(KEYS[n], {"x": torch.zeros(400_000, dtype=torch.uint8)}, {})
    assert n == 2 and all(store.get(key) is not None for key in KEYS[:2])
    assert not list(small_disk.rglob("*.tmp"))


# Processes


def test_a_killed_writer_leaves_a_store_that_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SegmentStore(tmp_path, BIG)
    for moment in [random.Random(n).uniform(0, 0.3) for n in range(20)]:
        process = start(put_for_ever, tmp_path, BIG)
        while not any(tmp_path.iterdir()):
            time.sleep(0.001)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for key in KEYS:
            found = store.get(key)
            assert found is None or is_right(key, found)
            piece = store.path(key, ".mp4")
            assert piece is None or piece.read_bytes() == key.encode() * 500
        assert not caplog.messages, "whole or not there: nothing is found damaged"
    for half in tmp_path.rglob("*.tmp"):
        used_at(half, 120)
    store.put(KEY, TENSORS, {})
    assert not list(tmp_path.rglob("*.tmp"))


def test_processes_that_put_read_and_remove_at_once(tmp_path: Path) -> None:
    # The limit holds about five of the twelve latents, so that they remove each other's.
    processes = [start(churn, tmp_path, 60_000, seed) for seed in range(3)]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store = SegmentStore(tmp_path, BIG)
    found = {key: store.get(key) for key in KEYS}
    assert any(found.values())
    assert all(value is None or is_right(key, value) for key, value in found.items())
    assert torch.equal(content(KEYS[3], 5)["b"], torch.full((17,), 3005.0))
    assert not list(tmp_path.rglob("*.tmp"))
