"""Thumbnails and the gallery: a picture as it is, a video as four of its moments or moving, in few
bytes."""

from __future__ import annotations

import io
import re

import pytest
import torch
from PIL import Image

from scripts.prepare import ROOT
from scripts.thumbnails import CELL, GALLERY, GAP, MOVING_LARGEST, jpeg, main, moving, thumbnail


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


@pytest.mark.parametrize(
    ("count", "fps", "shown", "duration"), [(16, 8, 16, 125), (48, 24, 24, 83), (400, 24, 72, 83)]
)
def test_a_moving_picture_plays_as_fast_as_the_video(
    count: int, fps: float, shown: int, duration: int
) -> None:
    frames = [Image.new("RGB", (8, 8), (i * 97 % 256, i * 53 % 256, 0)) for i in range(count)]
    with Image.open(io.BytesIO(moving(frames, fps))) as image:
        assert (image.format, image.size, image.n_frames) == ("WEBP", (256, 256), shown)
        image.seek(1)
        image.load()
        assert image.info["duration"] == pytest.approx(duration, abs=1)


def test_the_gallery_shows_every_workflow_and_nothing_else() -> None:
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    files = {path.stem: path for path in GALLERY.iterdir()}
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert set(files) == names
    assert set(re.findall(r'src="gallery/(\w+)\.webp"', page)) == names
    for name, path in files.items():
        assert f"**{name}**" in page
        assert path.stat().st_size <= MOVING_LARGEST
        with Image.open(path) as image:
            assert image.format == "WEBP"
            assert (image.n_frames > 1) == (name not in ("text_to_image", "multi_view"))
