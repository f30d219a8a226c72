"""Seams of constructed videos, whose jumps are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stiv.seams import (
    FLOOR,
    FrameStatistics,
    Seam,
    frame_statistics,
    join_statistics,
    seam_report,
    to_text,
)


def greys(*levels: float) -> torch.Tensor:
    """A video (T, 4, 6, 3) of flat grey frames."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 4, 6, 3)


def noise(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 5, 7, 3, generator=torch.Generator().manual_seed(seed))


def ratios(seam: Seam) -> tuple[float, float, float]:
    return seam.luma.ratio, seam.colour.ratio, seam.motion.ratio


def test_statistics_of_flat_colours() -> None:
    frames = torch.zeros(3, 4, 6, 3)
    frames[1] = torch.tensor([1.0, 0.5, 0.25])
    frames[2, :2] = 1.0
    found = frame_statistics(frames)
    expected = [0.2126 + 0.7152 * 0.5 + 0.0722 * 0.25, 0.5]
    assert found.luma[1:].tolist() == pytest.approx(expected)
    assert found.colour[1].tolist() == [1.0, 0.5, 0.25]
    # half of the frame goes on to white, 0 + 0.5 + 0.75, the other back to black, 1 + 0.5 + 0.25
    assert found.motion[2].item() == pytest.approx((1.25 / 3 + 1.75 / 3) / 2)
    assert found.luma[0] == 0 and math.isnan(found.motion[0])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_pieces_give_the_numbers_of_the_whole(lengths: list[int]) -> None:
    video = noise(sum(lengths))
    parts, before = [], None
    for part in video.split(lengths):
        parts.append(frame_statistics(part, before))
        before = part[-1]
    joined, whole = join_statistics(parts), frame_statistics(video)
    assert len(joined) == len(whole) == len(video)
    assert torch.equal(joined.colour, whole.colour)
    assert torch.equal(joined.motion.nan_to_num(-1), whole.motion.nan_to_num(-1))


def test_a_fade_has_no_seams() -> None:
    video = greys(*torch.linspace(0, 1, 25).tolist())
    for seam in seam_report(frame_statistics(video), [5, 6, 18]):
        assert ratios(seam) == pytest.approx((1.0, 1.0, 1.0), rel=1e-4)
        assert seam.worst == pytest.approx(1.0, rel=1e-4) and not seam.stands_still


def test_a_step_has_the_ratio_of_its_size() -> None:
    levels = [0.01 * index + (0.15 if index >= 8 else 0.0) for index in range(16)]
    stepped, smooth = seam_report(frame_statistics(greys(*levels)), [8, 12])
    assert stepped.luma.change == pytest.approx(0.16, rel=1e-4)
    assert ratios(stepped) == pytest.approx((16.0, 16.0, 16.0), rel=1e-3)
    # a step belongs to its seam: it is not what is usual at the other one
    assert ratios(smooth) == pytest.approx((1.0, 1.0, 1.0), rel=1e-3)


def test_a_change_of_colour_alone() -> None:
    red, green, _ = (0.2126, 0.7152, 0.0722)
    video = greys(*[0.5] * 8).clone()
    video[4:, ..., 0] += 0.2
    video[4:, ..., 1] -= 0.2 * red / green
    (seam,) = seam_report(frame_statistics(video), [4])
    assert seam.luma.ratio == pytest.approx(0, abs=1e-3)
    assert seam.colour.ratio == pytest.approx(0.2 * math.hypot(1, red / green) / FLOOR, rel=1e-3)


def test_a_doubled_frame_does_not_move() -> None:
    video = noise(8)
    video[4] = video[3]
    doubled, other = seam_report(frame_statistics(video), [4, 6])
    assert doubled.motion.ratio == 0.0 and doubled.stands_still
    assert not other.stands_still and other.motion.ratio == pytest.approx(1.0, abs=0.3)
    assert doubled.worst > other.worst
    assert "doubled" in to_text([other, doubled]).splitlines()[1]


def test_a_still_video_is_fine_and_its_steps_stay_finite() -> None:
    still = frame_statistics(greys(*[0.3] * 9))
    assert all(ratios(seam) == (0, 0, 0) for seam in seam_report(still, [3, 6]))
    assert not any(seam.stands_still for seam in seam_report(still, [3, 6]))
    (step,) = seam_report(frame_statistics(greys(0.2, 0.2, 0.3, 0.3)), [2])
    assert step.luma.ratio == pytest.approx(0.1 / FLOOR, rel=1e-4)


def test_segments_of_one_frame_use_what_is_usual_elsewhere() -> None:
    levels = [0.0, 0.02, 0.04, 0.06, 0.16, 0.26]
    seams = seam_report(frame_statistics(greys(*levels)), [3, 4, 5])
    assert seams[2].luma.ratio == pytest.approx(5, rel=1e-4)
    only = seam_report(frame_statistics(greys(0.0, 0.1)), [1])
    assert only[0].luma.ratio == pytest.approx(0.1 / FLOOR, rel=1e-4)


def test_an_unknown_frame_before_leaves_the_motion_open() -> None:
    video = noise(8)
    parts = [frame_statistics(video[:4]), frame_statistics(video[4:])]
    (seam,) = seam_report(join_statistics(parts), [4])
    (known,) = seam_report(frame_statistics(video), [4])
    assert math.isnan(seam.motion.ratio) and not seam.stands_still
    assert seam.luma == known.luma and math.isfinite(seam.worst)
    assert "?" in to_text([seam])


videos = st.integers(6, 14).flatmap(
    lambda frames: st.tuples(
        st.integers(0, 2**16).map(lambda seed: noise(frames, seed)),
        st.sets(st.integers(1, frames - 1), min_size=1, max_size=frames // 2).map(sorted),
    )
)


@given(videos)
def test_backwards_the_seams_are_the_same(scene: tuple[torch.Tensor, list[int]]) -> None:
    video, seams = scene
    forwards = seam_report(frame_statistics(video), seams)
    mirrored = [len(video) - seam for seam in reversed(seams)]
    backwards = seam_report(frame_statistics(video.flip(0)), mirrored)
    for seam, mirror in zip(forwards, reversed(backwards), strict=True):
        assert ratios(seam) == pytest.approx(ratios(mirror), rel=1e-9)
        assert mirror.position == len(video) - seam.position


@given(videos, st.floats(-0.4, 0.4), st.floats(0.25, 1.0))
def test_brightness_and_contrast_do_not_matter(
    scene: tuple[torch.Tensor, list[int]], offset: float, scale: float
) -> None:
    """With a floor of the same contrast."""
    video, seams = scene
    video = video.double()
    changed = seam_report(
        FrameStatistics(*_moments(video * scale + offset)), seams, floor=FLOOR * scale
    )
    for seam, other in zip(
        seam_report(FrameStatistics(*_moments(video)), seams), changed, strict=True
    ):
        assert ratios(seam) == pytest.approx(ratios(other), rel=1e-6, abs=1e-9)


def _moments(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics in double precision, written again: as the definition has them."""
    motion = torch.full((len(video),), math.nan, dtype=torch.float64)
    motion[1:] = (video[1:] - video[:-1]).abs().mean((1, 2, 3))
    return video.mean((1, 2)), motion


def test_statistics_follow_the_definition() -> None:
    video = noise(6)
    found, expected = frame_statistics(video), FrameStatistics(*_moments(video.double()))
    torch.testing.assert_close(found.colour, expected.colour, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.motion, expected.motion, rtol=1e-6, atol=0, equal_nan=True)


def test_half_precision_frames_are_taken() -> None:
    video = noise(4)
    half = frame_statistics(video[1:].half(), video[0])
    torch.testing.assert_close(half.motion, frame_statistics(video).motion[1:], rtol=0, atol=1e-3)


def test_text_is_ordered_and_bounded() -> None:
    levels = [0.002 * index for index in range(400)]
    for index in range(201, 400):
        levels[index] += 0.1
    seams = seam_report(frame_statistics(greys(*levels)), range(1, 400, 10))
    text = to_text(seams, limit=5).splitlines()
    assert text[1].split()[0] == "201" and len(text) == 1 + 5 + 2
    assert text[-2].split() == ["…", "and", "35", "seams", "that", "show", "less"]
    assert text[-1].startswith("40 seams, median: luma 1.0 ×")
    assert "no seams" in to_text([])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0], r"seam at frame 0 after 0 in a video of 6 frames: expected .* 1 to 5"),
        ([6], r"seam at frame 6"),
        ([3, 3], r"seam at frame 3 after 3"),
        ([4, 2], r"seam at frame 2 after 4"),
    ],
)
def test_positions_that_are_no_seams(positions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seam_report(frame_statistics(noise(6)), positions)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames have shape \(4, 6, 3\)"):
        frame_statistics(noise(1)[0, :4, :6])
    with pytest.raises(ValueError, match=r"the frame before has shape \(5, 6, 3\)"):
        frame_statistics(noise(2), noise(1)[0, :, :6])
    with pytest.raises(ValueError, match="no statistics to join"):
        join_statistics([])
    with pytest.raises(ValueError, match="floor of changes is 0"):
        seam_report(frame_statistics(noise(2)), [1], floor=0)
