"""Copies of files: equal bytes, other sizes and codecs; and files that only look a little alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.numbered import write_video
from tests.training.engine.footage import moving, save_real_clips, shot
from training.engine.duplicates import _originals, mark_duplicates
from training.engine.run import run
from training.engine.scan import Fingerprint, Probe, list_files, orientation
from training.engine.work import Work

CLIPS = ["api_grok_imagine_video_1_5-1.webp", "video_causal_forcing_i2v-1.webp"]


def resized(frames: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    return [np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    """Two real clips; of the first a copy, and one in another codec, rate of bits and size."""
    folder = tmp_path_factory.mktemp("duplicates")
    media = folder / "media"
    save_real_clips(media, CLIPS)
    shutil.copyfile(media / CLIPS[0], media / "copy.webp")
    write_video(media / "small.mp4", resized(shot(CLIPS[0]), (176, 144)), 15)
    for seed in range(3):
        write_video(media / f"moving{seed}.mp4", list(moving(seed, 30)), 15)
    write_video(media / "shorter.mp4", list(moving(0, 20)), 15)
    write_video(media / "black1.mp4", [np.zeros((48, 64, 3), np.uint8)] * 30, 15)
    write_video(media / "black2.mp4", [np.full((48, 64, 3), 9, np.uint8)] * 30, 15)
    Image.new("RGB", (64, 48), "red").save(media / "still.png")
    work = Work.create(folder / "work", media)
    list_files(work, shard_files=4)
    run(work, [Probe()], workers=2)
    run(work, [Fingerprint()], workers=2)
    mark_duplicates(work)
    return work


def found(work: Work) -> dict[str, tuple[str | None, str | None]]:
    return {
        row["source"]["path"]: (row["duplicate"]["of"], row["duplicate"]["same_bytes_as"])
        for row in work.rows("files")
    }


def test_copies_are_found_and_others_are_not(work: Work) -> None:
    pairs = found(work)
    assert pairs["copy.webp"] == (CLIPS[0], CLIPS[0])
    assert pairs["small.mp4"] == (CLIPS[0], None)
    copies = {"copy.webp", "small.mp4"}
    assert all(pair == (None, None) for path, pair in pairs.items() if path not in copies)


def test_marking_again_changes_nothing(work: Work) -> None:
    before = [path.read_bytes() for path in sorted((work.folder / "files").iterdir())]
    assert mark_duplicates(work) == 2
    assert [path.read_bytes() for path in sorted((work.folder / "files").iterdir())] == before


def test_the_copy_of_most_pixels_stays() -> None:
    hashes = [["00ff" * 4], ["00ff" * 4], ["00fe" + "00ff" * 3], ["ff00" * 4]]
    lengths, pixels = np.array([5.0, 5.1, 5.0, 5.0]), np.array([100, 400, 200, 900])
    assert _originals(["a", "b", "c", "d"], hashes, lengths, pixels, 6.0) == [1, 1, 1, 3]
    assert _originals(["a", "b", "a", "d"], hashes, np.array([5, 9, 5, 5.0]), pixels, 6.0)[2] == 2
    assert _originals([], [], np.array([]), np.array([]), 6.0) == []


def test_near_is_what_a_comparison_of_all_with_all_calls_near() -> None:
    """Groups of equal quarters find every pair whose hashes differ in up to three bits."""
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 2**63, (40, 5), dtype=np.uint64)
    values = np.concatenate([bases, bases])
    for frame in range(5):
        for _ in range(3):
            flips = rng.integers(0, 64, 40).astype(np.uint64)
            values[40:, frame] ^= np.uint64(1) << flips
    hashes = [[f"{value:016x}" for value in row] for row in values.tolist()]
    contents, ones = [str(i) for i in range(80)], np.ones(80)
    assert _originals(contents, hashes, ones, ones, 6.0)[40:] == list(range(40))


def test_orientation() -> None:
    assert [orientation(9, 16), orientation(16, 9), orientation(100, 104)] == [
        "landscape", "portrait", "square"
    ]  # fmt: skip


def test_what_a_probe_tells_of_a_file(work: Work) -> None:
    probes = {row["source"]["path"]: row["probe"] for row in work.rows("files")}
    video = probes["moving0.mp4"]
    assert (video["height"], video["width"], video["orientation"]) == (96, 128, "landscape")
    assert (video["fps"], video["frames"], video["codec"]) == (15.0, 30, "h264")
    assert video["seconds"] == pytest.approx(2.0) and "mp4" in video["container"]
    assert probes["still.png"]["fps"] == 0 and len(video["hash"]) == 64


def test_turned_video_is_probed_as_it_is_shown(tmp_path: Path) -> None:
    from training.engine.reader import Reader

    write_video(tmp_path / "a.mp4", 6, rotation=90)
    row = {"id": "a", "source": {"path": "a.mp4", "size": 1}}
    probe = Probe().run(row, Reader(row, tmp_path))
    assert (probe["height"], probe["width"], probe["orientation"]) == (64, 48, "portrait")
