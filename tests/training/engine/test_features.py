"""Features against pictures whose truth is known: speeds, blur, captions, bars, logos."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, shift
from scipy.stats import spearmanr

from tests.training.engine.footage import coloured, measured, shot, texture
from training.engine.features.clarity import Clarity
from training.engine.features.motion import Motion
from training.engine.features.picture import Picture
from training.engine.features.sampling import Ticks
from training.engine.features.text import Text

SPEEDS = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0)  # percent of the shorter side per second


def panned(speed: float, frames: int = 9, fps: float = 8.0, side: int = 256) -> list[np.ndarray]:
    """A texture that moves to the left at so many percent of the side per second."""
    wide = texture(side, side + 200, 1)
    step = speed / 100 * side / fps
    return [
        coloured(shift(wide, (0, -step * i), order=3, mode="wrap")[:, :side]) for i in range(frames)
    ]


def test_motion_is_the_speed_in_percent_of_the_side_per_second() -> None:
    sections = [measured(Motion(), panned(speed), 8.0) for speed in SPEEDS]
    scores = [section["score"] for section in sections]
    assert scores == pytest.approx(SPEEDS, rel=0.1, abs=0.4)
    assert spearmanr(scores, SPEEDS).statistic >= 0.98
    assert np.corrcoef(scores, SPEEDS)[0, 1] >= 0.999
    assert sections[0]["still"] == 1 and sections[-1]["still"] == 0


def test_motion_does_not_depend_on_the_frame_rate() -> None:
    fast, slow = (measured(Motion(), panned(20, int(fps) + 1, fps), fps) for fps in (24.0, 8.0))
    assert fast["score"] == pytest.approx(slow["score"], rel=0.1)


def test_motion_of_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="one frame"):
        measured(Motion(), panned(0, 1))


def test_warp_error_grows_with_flicker_not_with_speed() -> None:
    rng = np.random.default_rng(0)
    calm = [measured(Motion(), panned(speed), 8.0)["warp_error"] for speed in (2, 20)]
    clip = panned(20)
    flickering = []
    for strength in (4, 8, 16):
        noisy = [coloured(f[..., 0] + rng.normal(0, strength, f.shape[:2])) for f in clip]
        flickering.append(measured(Motion(), noisy, 8.0)["warp_error"])
    assert max(calm) < 0.01 < flickering[0] < flickering[1] < flickering[2]


def test_warp_error_tells_a_jump() -> None:
    clip = panned(10)
    other = [coloured(255 - frame[..., 0].astype(float)) for frame in clip]
    assert (
        measured(Motion(), clip[:5] + other[5:], 8.0)["warp_error"]
        > 3 * measured(Motion(), clip, 8.0)["warp_error"]
    )


@pytest.mark.parametrize("name", ["api_kling2_6_i2v-1.webp", "api_happyhorse1_0_i2v-1.webp"])
def test_clarity_falls_with_every_step_of_blur(name: str) -> None:
    clip = shot(name)[:8]
    scores = []
    for sigma in (0, 0.5, 1, 2, 4):
        blurred = gaussian_filter(clip.astype(np.float32), (0, sigma, sigma, 0))
        scores.append(measured(Clarity(), list(blurred.round().astype(np.uint8)))["score"])
    assert all(sharp > soft for sharp, soft in pairwise(scores))


def test_clarity_tells_the_worst_frame() -> None:
    clip = [frame.copy() for frame in shot("api_kling2_6_i2v-1.webp")[:8]]
    clip[4] = gaussian_filter(clip[4], (4, 4, 0))
    section = measured(Clarity(), clip)
    assert section["worst"] < section["score"] / 4


def captioned(size: int, y: int, lines: int = 1) -> tuple[np.ndarray, float]:
    """A frame of 640 x 360 with a caption, and the share of the frame that its box covers."""
    image = Image.fromarray(coloured(texture(360, 640, 2, grain=20) * 0.4))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    covered = 0.0
    for line in range(lines):
        place = (40, y + 2 * line * size)
        draw.text(place, "WINTER IN THE HILLS", "white", font)
        left, top, right, bottom = draw.textbbox(place, "WINTER IN THE HILLS", font)
        covered += (right - left) * (bottom - top) / (360 * 640)
    return np.asarray(image), covered


def test_text_area_is_that_of_the_captions() -> None:
    truth, areas = [0.0], [measured(Text(), [captioned(30, 0, 0)[0]])["area"]]
    for size, lines in ((18, 1), (28, 1), (28, 3), (44, 3)):
        frame, covered = captioned(size, 60, lines)
        section = measured(Text(frames=1), [frame])
        assert "WINTER" in section["words"]
        truth.append(covered)
        areas.append(section["area"])
    assert areas[0] == 0
    # boxes of text detectors stand a little off the letters
    assert all(1 <= area / real < 1.9 for area, real in zip(areas[1:], truth[1:], strict=True))
    assert spearmanr(areas, truth).statistic == pytest.approx(1)


def test_text_is_of_the_frames_that_show_it() -> None:
    bare, full = captioned(30, 0, 0)[0], captioned(30, 60)[0]
    section = measured(Text(frames=3), [bare, full, bare])
    assert section["largest"] == pytest.approx(3 * section["area"], rel=1e-3)


def test_textures_are_no_text() -> None:
    for name in ("api_happyhorse1_0_i2v-1.webp", "api_kling_omni_t2v-1.webp"):
        assert measured(Text(), list(shot(name)))["area"] == 0


def test_brightness_and_contrast_are_those_of_the_grey_levels() -> None:
    for level in (0, 60, 200, 255):
        section = measured(Picture(), [np.full((90, 160, 3), level, np.uint8)] * 4)
        assert section["brightness"] == pytest.approx(level / 255, abs=0.005)
        assert section["contrast"] == 0
    halves = np.zeros((90, 160, 3), np.uint8)
    halves[:, 80:] = 255
    assert measured(Picture(), [halves] * 4)["contrast"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("bars", [(0, 0, 0, 0), (24, 24, 0, 0), (0, 0, 40, 40), (10, 30, 16, 0)])
def test_bars_are_measured_on_every_side(bars: tuple[int, ...]) -> None:
    top, bottom, left, right = bars
    clip = [60 + frame // 2 for frame in panned(20, 8)]
    clip = [np.pad(frame[:, :, :], ((0, 0), (0, 64), (0, 0)), "wrap") for frame in clip]
    height, width = clip[0].shape[:2]
    for frame in clip:
        frame[:top] = frame[height - bottom :] = frame[:, :left] = 8
        frame[:, width - right :] = 8
    section = measured(Picture(), clip)
    found = [section[side] for side in ("top", "bottom", "left", "right")]
    expected = [top / height, bottom / height, left / width, right / width]
    assert found == pytest.approx(expected, abs=0.01)
    inside = (height - top - bottom) * (width - left - right) / (height * width)
    assert section["bars"] == pytest.approx(1 - inside, abs=0.01)


def test_a_dark_corner_is_no_bar_and_a_black_picture_has_none() -> None:
    clip = panned(20, 8)
    for frame in clip:
        frame[:40, :40] = 0
    assert measured(Picture(), clip)["bars"] == 0
    assert measured(Picture(), [np.zeros((64, 64, 3), np.uint8)] * 4)["bars"] == 0


def test_a_logo_is_what_stays_while_the_rest_moves() -> None:
    clip = panned(40, 8)
    assert measured(Picture(), clip)["logo"] < 0.002
    mark = ImageDraw.Draw(canvas := Image.new("L", (256, 256), 0))
    mark.text((150, 10), "LOGO", 255, ImageFont.load_default(32))
    stamp = np.asarray(canvas) > 128
    marked = []
    for frame in clip:
        marked.append(frame.copy())
        marked[-1][stamp] = 255
    share = measured(Picture(), marked)["logo"]
    assert stamp.mean() / 2 < share < 4 * stamp.mean()


def test_nothing_is_a_logo_where_nothing_moves() -> None:
    assert measured(Picture(), panned(0, 8))["logo"] is None


def test_frames_are_taken_at_an_even_rate() -> None:
    class At:
        def __init__(self, seconds: float):
            self.seconds = seconds

    ticks = Ticks(8.0)
    taken = [i for i in range(60) if ticks.wants(At(i / 24))]
    assert taken == list(range(0, 60, 3))
    ticks = Ticks(8.0)  # slower than the rate: all of them, and gaps are not made up for
    assert [t for t in (0.0, 0.5, 0.51, 2.0, 2.01) if ticks.wants(At(t))] == [0.0, 0.5, 2.0]
    with pytest.raises(ValueError, match="rate is 0"):
        Ticks(0)
