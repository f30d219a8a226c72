"""The motion score against textures that move at a known speed, and the dynamic degree."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift, zoom
from scipy.stats import spearmanr

from training.engine.motion import DYNAMIC, SIDE, FlowMeter, Speeds, at_rate, flow_speeds

SPEEDS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 14.0)  # pixels of 256 per frame


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(300, 420)), 3)
    return 255 * (smooth - smooth.min()) / np.ptp(smooth)


def moved(texture: np.ndarray, speed: float, frames: int = 4) -> list[np.ndarray]:
    """Frames of 256 x 256 in which the texture moves to the left."""
    clip = []
    for index in range(frames):
        grey = shift(texture, (0, -speed * index), order=3, mode="wrap")[20:276, 20:276]
        clip.append(np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1))
    return clip


@pytest.fixture(scope="module")
def scores(texture) -> list[float]:
    return [flow_speeds(moved(texture, speed)).score(fps=10) for speed in SPEEDS]


def test_score_is_the_speed_in_percent_of_the_side_per_second(scores) -> None:
    expected = 100 * 10 * np.array(SPEEDS) / 256
    assert scores == pytest.approx(expected.tolist(), rel=0.3, abs=0.05)
    assert scores[4:] == pytest.approx(expected[4:].tolist(), rel=0.02)


def test_score_ranks_clips_by_their_speed(scores) -> None:
    assert spearmanr(scores, SPEEDS).statistic >= 0.98
    assert np.corrcoef(scores, SPEEDS)[0, 1] >= 0.99  # linear


def test_score_does_not_depend_on_the_resolution(texture) -> None:
    clip = moved(texture, 4)
    half = [zoom(frame, (0.5, 0.5, 1), order=1) for frame in clip]
    wide = [np.concatenate([frame, frame], axis=1) for frame in clip]
    score = flow_speeds(clip).score(10)
    assert flow_speeds(half).score(10) == pytest.approx(score, rel=0.1)
    assert flow_speeds(wide).score(10) == pytest.approx(score, rel=0.1)


def test_a_clip_is_dynamic_where_a_part_of_it_moves_fast(texture) -> None:
    def with_patch(speed: float) -> list[np.ndarray]:
        still, clip = moved(texture, 0, 1)[0], []
        for frame in moved(texture, speed, 8):
            clip.append(still.copy())
            clip[-1][60:160, 60:160] = frame[60:160, 60:160]
        return clip

    assert not flow_speeds(with_patch(2)).is_dynamic()
    assert flow_speeds(with_patch(10)).is_dynamic()


def test_a_quarter_of_the_steps_has_to_be_fast() -> None:
    fast, slow = [2 * DYNAMIC], [0.5 * DYNAMIC]
    assert Speeds(np.zeros(15), np.array(fast * 4 + slow * 11)).is_dynamic()
    assert not Speeds(np.zeros(15), np.array(fast * 3 + slow * 12)).is_dynamic()
    assert not Speeds(np.zeros(1), np.array(slow)).is_dynamic()


def test_one_frame_does_not_move(texture) -> None:
    speeds = flow_speeds(moved(texture, 0, 1))
    assert speeds.score(8) == 0 and not speeds.is_dynamic()


def test_frames_are_taken_at_a_rate() -> None:
    assert at_rate(10, 24) == [0, 3, 6, 9]
    assert at_rate(4, 8) == at_rate(4, 5) == [0, 1, 2, 3]
    assert SIDE == 256


def test_other_frames_are_refused() -> None:
    meter = FlowMeter()
    with pytest.raises(ValueError, match="expected uint8"):
        meter.add(np.zeros((8, 8, 3)))
    meter.add(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="those before it"):
        meter.add(np.zeros((64, 32, 3), np.uint8))


def test_missing_opencv_is_named_as_pip_calls_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        FlowMeter()
    assert missing.value.name == "opencv-python-headless"
