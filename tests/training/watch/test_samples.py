"""Sample files, read back by another path than they were written by."""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.watch.samples import contact_sheet, sheet_path, slug, write_samples


def clips(count: int = 2, frames: int = 7, height: int = 32, width: int = 48) -> np.ndarray:
    """Smooth frames whose colour tells clip and time."""
    made = np.zeros((count, frames, height, width, 3), np.uint8)
    for b in range(count):
        for t in range(frames):
            made[b, t] = (20 + 60 * b, (10 + 30 * t) % 256, 200)
    return made


def read_video(path: Path) -> tuple[np.ndarray, float, str, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        codec = stream.codec_context
        return frames, float(stream.average_rate), codec.name, codec.pix_fmt


def test_a_video_per_prompt_and_one_sheet(tmp_path: Path) -> None:
    made, prompts = clips(), ["A red cat, running!", "../etc: passwd"]
    paths = write_samples(torch.from_numpy(made), prompts, tmp_path / "samples", 1200, fps=8)
    names = ["00001200-00-a-red-cat-running.mp4", "00001200-01-etc-passwd.mp4"]
    assert [path.name for path in paths] == [*names, "00001200-sheet.png"]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == sorted(
        path.name for path in paths
    )
    assert paths[-1] == sheet_path(tmp_path / "samples", 1200)
    for path, original in zip(paths[:2], made, strict=True):
        frames, rate, codec, pixels = read_video(path)
        assert (rate, codec, pixels) == (8.0, "h264", "yuv420p")
        assert frames.shape == original.shape
        assert np.abs(frames.astype(int) - original).max() <= 6  # colour conversion and coding
        data = path.read_bytes()
        assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_odd_sides_and_fractional_rates(tmp_path: Path) -> None:
    made = clips(1, 3, 33, 49)
    path, _ = write_samples(made, [""], tmp_path, 0, fps=23.976)
    assert path.name == "00000000-00-empty.mp4"
    frames, rate, *_ = read_video(path)
    assert frames.shape == (3, 34, 50, 3)
    assert rate == pytest.approx(23.976, abs=1e-3)


def test_one_frame_is_a_picture(tmp_path: Path) -> None:
    made = clips(1, 1)
    path, sheet = write_samples(made, ["still"], tmp_path, 5, fps=8)
    assert np.array_equal(np.asarray(Image.open(path)), made[0, 0])
    assert sheet.exists()


def test_the_sheet_has_prompts_as_rows_and_frames_as_columns() -> None:
    made = clips(2, 3)
    sheet = np.asarray(contact_sheet(made, ["one", "two"]))
    rows = 12 + 2 * 4
    for b in range(2):
        top = b * (rows + 32) + rows
        for t in range(3):
            left = 4 + t * (48 + 4)
            assert np.array_equal(sheet[top : top + 32, left : left + 48], made[b, t])
        assert sheet[top - rows : top].max() > 150  # text was drawn
    many = np.asarray(contact_sheet(clips(1, 41, 8, 384), ["x" * 5000]))
    assert many.shape[1] == 10 * (192 + 4) + 4
    assert tuple(many[22, 6]) == (20, 10, 200)  # the first frame, and in the last column the last
    last = (10 + 30 * 40) % 256
    assert tuple(many[22, many.shape[1] - 8]) == (20, last, 200)


def test_writing_again_replaces_and_a_failure_leaves_the_old_files(tmp_path: Path) -> None:
    first = write_samples(clips(1), ["cat"], tmp_path, 1, fps=8)
    before = {path: path.read_bytes() for path in first}
    assert write_samples(clips(1) // 2, ["cat"], tmp_path, 1, fps=8) == first
    assert first[0].read_bytes() != before[first[0]]
    before = {path: path.read_bytes() for path in first}
    huge = np.zeros((1, 2, 2, 40_000, 3), np.uint8)  # wider than H.264 can be
    with pytest.raises(OSError, match="a video of 40000x2 cannot be written"):
        write_samples(huge, ["cat"], tmp_path, 1, fps=8)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@given(st.text(max_size=200))
def test_names_are_safe(prompt: str) -> None:
    assert re.fullmatch(r"[a-z0-9](-?[a-z0-9]){0,39}", slug(prompt))
    assert slug(prompt) == slug(prompt)
    contact_sheet(np.zeros((1, 1, 8, 8, 3), np.uint8), [prompt])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": np.zeros((1, 2, 4, 4, 3))}, "float64"),
        ({"clips": np.zeros((2, 4, 4, 3), np.uint8)}, r"\(2, 4, 4, 3\)"),
        ({"prompts": ["a", "b"]}, "1 sample clips have 2 prompts"),
        ({"fps": 0}, "at 0 fps"),
        ({"step": -1}, "step -1"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, change: dict, message: str) -> None:
    call = {"clips": clips(1), "prompts": ["a"], "folder": tmp_path, "step": 0, "fps": 8}
    with pytest.raises(ValueError, match=message):
        write_samples(**{**call, **change})
    assert not list(tmp_path.iterdir())
