"""Small pictures of segments: which frame, how large, and that they survive the store."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from ComfyUI_STIV.nodes.host import thumbnails
from ComfyUI_STIV.stiv.store import SegmentStore
from PIL import Image


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ([], {}),
        ([-1, -1], {}),
        ([0], {0: 0}),
        ([0, 1, 1, 1, 1, -1, 2], {0: 0, 3: 1, 6: 2}),
        ([1, 0, 1, 0, 1], {2: 1, 3: 0}),
    ],
)
def test_each_segment_shows_the_middle_of_its_frames(
    slots: list[int], expected: dict[int, int]
) -> None:
    assert thumbnails.moments(slots) == expected


@pytest.mark.parametrize("shape", [(64, 64), (17, 301), (1080, 1920), (1, 1)])
def test_a_thumbnail_is_small_and_like_the_frame(shape: tuple[int, int]) -> None:
    frame = torch.zeros(*shape, 3)
    frame[..., 0] = 0.8
    data = thumbnails.thumbnail(frame)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= thumbnails.SIDE
        assert abs(picture.width / picture.height - shape[1] / shape[0]) < 0.25 * shape[1]
        mean = np.asarray(picture, dtype=float).mean((0, 1))
    assert np.abs(mean - [204, 0, 0]).max() < 6


def test_noise_fits_too_and_bad_numbers_do_no_harm() -> None:
    noise = torch.rand(96, 96, 3, generator=torch.Generator().manual_seed(1))
    assert len(thumbnails.thumbnail(noise)) <= thumbnails.MAX_BYTES
    assert thumbnails.thumbnail(noise.mul(4).sub(2).half())


def test_thumbnails_lie_in_the_store_beside_other_tensors(tmp_path: Path) -> None:
    store, key = SegmentStore(tmp_path, 10**6), "a" * 64
    pictures = {0: b"one", 12: b"twelve"}
    tensors = {"colour": torch.zeros(3), **thumbnails.to_tensors(pictures)}
    store.put(key, tensors, {"name": "statistics"})
    assert thumbnails.from_tensors(store.get(key)) == pictures
