"""Thumbnails: a picture as it is, a video as four of its moments, in few bytes."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from scripts.thumbnails import CELL, GAP, jpeg, main, thumbnail


def grays(count: int, size: tuple[int, int] = (64, 64)) -> list[Image.Image]:
    return [Image.new("RGB", size, (i * 10,) * 3) for i in range(count)]


def test_a_picture_is_its_own_thumbnail() -> None:
    assert thumbnail(grays(1)).size == (2 * CELL + GAP,) * 2


def test_a_video_shows_its_start_its_end_and_two_moments_between() -> None:
    sheet = thumbnail(grays(16))
    places = [(0, 0), (-1, 0), (0, -1), (-1, -1)]
    width, height = sheet.size
    assert [sheet.getpixel((x % width, y % height))[0] for x, y in places] == [0, 50, 100, 150]


def test_a_wide_video_keeps_its_shape() -> None:
    assert thumbnail(grays(2, (320, 160))).size == (2 * CELL + GAP, CELL + GAP)


def test_even_noise_keeps_to_the_limit() -> None:
    noise = torch.randint(0, 256, (300, 300, 3), dtype=torch.uint8)
    data = jpeg(Image.fromarray(noise.numpy()), largest=50_000)
    assert len(data) <= 50_000
    assert Image.open(io.BytesIO(data)).size == (300, 300)


def test_an_unknown_workflow_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["no_such_workflow"])
    assert "there is no workflow 'no_such_workflow'" in capsys.readouterr().err
