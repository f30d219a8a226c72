"""Choice of bucket, moments and crop: properties over many shapes, and pixels that tell."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stiv.model import MICRO_CONDITIONS
from tests.training.data.numbered import draw, read, write_animation, write_video
from training.data import cutting as cutting_module
from training.data.cutting import (
    SAME_ASPECT,
    Cutting,
    Drop,
    choose_length,
    choose_size,
    choose_starts,
    cut,
    even_grid,
    key_rng,
    place_crop,
    plan,
)
from training.data.formats import Source
from training.data.media import Timeline
from training.data.pictures import MediaError

SIDES = st.integers(1, 64).map(lambda n: 16 * n)
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=8)
PIXELS = st.integers(1, 5000)


def aspect_error(size, height: int, width: int) -> float:
    ratio = size[0] / size[1] / (height / width)
    return max(ratio, 1 / ratio)


@given(SIZES, PIXELS, PIXELS, st.none() | st.integers(1, 2000))
def test_the_nearest_aspect_and_the_largest_size_that_is_covered(sizes, height, width, least):
    covers = [s for s in sizes if s[0] <= height and s[1] <= width]
    best = min(aspect_error(s, height, width) for s in sizes)
    alike = [s for s in sizes if aspect_error(s, height, width) < best * SAME_ASPECT * (1 - 1e-9)]
    try:
        chosen = choose_size(height, width, sizes, least)
    except Drop as drop:
        assert drop.reason == "too small"
        assert not set(alike) & set(covers)
        assert least is None or min(height, width) < least
        return
    assert aspect_error(chosen, height, width) <= best * SAME_ASPECT * (1 + 1e-9)
    area = chosen[0] * chosen[1]
    fitting = [s[0] * s[1] for s in alike if s in covers]
    if chosen in covers:
        assert area >= max(fitting, default=0)
    else:
        assert not fitting and area <= min(s[0] * s[1] for s in alike)
        assert least is not None and min(height, width) >= least


def test_portrait_goes_to_a_portrait_bucket() -> None:
    sizes = [(256, 448), (448, 256), (256, 256), (512, 512)]
    assert choose_size(1920, 1080, sizes) == (448, 256)
    assert choose_size(1081, 1919, sizes) == (256, 448)
    assert choose_size(500, 600, sizes) == (256, 256)
    assert choose_size(513, 517, sizes) == (512, 512)


@given(
    st.integers(1, 2000),
    st.lists(st.integers(1, 100), min_size=1, max_size=5),
    st.integers(1, 20),
    st.sampled_from(["first", "middle", "uniform", "all"]),
    st.integers(1, 30),
)
def test_windows_lie_inside_and_are_the_longest(available, lengths, stride, extract, count):
    spans = {length: (length - 1) * stride + 1 for length in lengths}
    try:
        length = choose_length(available, lengths, stride)
    except Drop as drop:
        assert drop.reason == "too short" and min(spans.values()) > available
        return
    assert spans[length] <= available
    assert all(spans[other] > available for other in lengths if other > length)
    starts = choose_starts(available, length, stride, extract, count)
    assert starts == sorted(set(starts))
    assert starts[0] >= 0 and starts[-1] + spans[length] <= available
    if extract == "all":
        assert set(np.diff(starts)) <= {length * stride}
        assert starts[0] == 0 and starts[-1] + length * stride + spans[length] > available
    elif extract == "uniform" and count > 1:
        assert len(starts) == min(count, available - spans[length] + 1)
        assert starts[0] == 0
        assert len(starts) == 1 or starts[-1] + spans[length] == available
        gaps = np.diff(starts)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
    else:
        assert len(starts) == 1


@given(PIXELS, PIXELS, st.tuples(SIDES, SIDES), st.integers(0, 9))
def test_a_crop_just_covers_its_bucket(height, width, size, seed):
    for rng in (None, key_rng(seed, "a.mp4#0")):
        tall, wide, top, left = place_crop(height, width, size, rng)
        assert tall == size[0] or wide == size[1]
        assert 0 <= top <= tall - size[0] and 0 <= left <= wide - size[1]
        scale = max(size[0] / height, size[1] / width)
        assert abs(tall - height * scale) <= 0.51 and abs(wide - width * scale) <= 0.51


def timeline(times_ms, fps: float | None = None) -> Timeline:
    pts = np.array(times_ms, np.int64)
    length = (pts[-1] - pts[0]) / 1000
    return Timeline(8, 8, pts, Fraction(1, 1000), fps or (len(pts) - 1) / length)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=50), st.floats(1, 60))
def test_resampling_takes_the_nearest_frame_to_each_tick(intervals, fps):
    times = np.cumsum([0, *intervals])
    try:
        index, rate = even_grid(timeline(times), fps)
    except Drop:
        return
    assert rate == fps
    ticks = np.arange(len(index)) * 1000 / fps
    off = np.abs(times[None] - ticks[:, None])
    assert off[np.arange(len(index)), index] == pytest.approx(off.min(axis=1), abs=1e-6)
    assert ticks[-1] <= times[-1] + 500 / fps + 1e-6 < ticks[-1] + 1000 / fps + 2e-6


def test_rounded_time_stamps_are_a_steady_rate() -> None:
    index, rate = even_grid(timeline([round(i * 1000 / 60) for i in range(60)], 60))
    assert index.tolist() == list(range(60)) and rate == 60


def test_a_lost_frame_does_not_shift_what_follows() -> None:
    kept = [i for i in range(20) if i not in (7, 8)]
    index, rate = even_grid(timeline([40 * i for i in kept]))
    assert rate == pytest.approx(25)
    shown = [kept[i] for i in index]
    assert len(shown) == 20
    assert [n for i, n in enumerate(shown) if i not in (7, 8)] == kept


def clips_of(path: Path, **changes) -> tuple[list, list[list[int]]]:
    """The cuts of a file of numbered frames, and the numbers in each clip."""
    settings = {"sizes": [[48, 64]], "frames": [5]} | changes
    source, cutting = Source(path, (), path.parent), Cutting(**settings)
    cuts = plan(source, cutting)
    return cuts, [[read(frame) for frame in cut(source, cutting, c)] for c in cuts]


@pytest.mark.parametrize("extract", ["first", "middle", "uniform", "all"])
def test_stride_is_exact(extract: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 41)
    cuts, numbers = clips_of(path, stride=3, extract=extract, clips_per_video=3)
    first = {"first": [0], "middle": [14], "uniform": [0, 14, 28], "all": [0, 15]}[extract]
    assert numbers == [list(range(start, start + 15, 3)) for start in first]
    assert [c.key for c in cuts] == [f"a.mp4#{start}" for start in first]
    assert all(c.micro == (48, 64, 0, 0, 3, 5) and c.fps == pytest.approx(10) for c in cuts)
    assert sum(MICRO_CONDITIONS.values()) == len(cuts[0].micro)


def test_fps_takes_frames_by_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30, 24)
    (only,), (numbers,) = clips_of(path, fps=10, stride=7)
    assert numbers == [0, 2, 5, 7, 10]  # ticks of 0.1 s at 24 frames per second
    assert (only.fps, only.micro[4]) == (10, pytest.approx(2.4))
    with pytest.raises(Drop, match="frame rate too low"):
        clips_of(path, fps=30)


def test_a_variable_rate_is_taken_at_even_times(tmp_path: Path) -> None:
    times = [0, 100, 200, 240, 260, 300, 400, 500, 600, 700]
    path = write_animation(tmp_path / "a.webp", np.diff([*times, 800]).tolist())
    _, (numbers,) = clips_of(path, frames=[4], stride=2)
    assert numbers == [0, 2, 6, 8]  # at 0, 0.2, 0.4 and 0.6 s


def test_a_long_pause_gives_one_clip_of_its_picture(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.webp", [100] * 10 + [60_000] + [100] * 10)
    cuts, numbers = clips_of(path, extract="all")
    assert len({c.key for c in cuts}) == len(cuts) < 10
    assert numbers[:2] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert numbers[2] == [10] * 5


def test_seconds_bound_the_clips(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40, 20)
    cutting = Cutting(sizes=[[48, 64]], frames=[5], extract="all")
    cuts = plan(Source(path, (), tmp_path, start=0.5, end=0.95), cutting)
    assert [c.key for c in cuts] == ["a.mp4#10"]
    with pytest.raises(Drop, match="too short"):
        plan(Source(path, (), tmp_path, start=5), cutting)


def test_views_are_the_frames_of_one_clip(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.fromarray(draw(i)).save(path)
    source = Source(paths[0], (), tmp_path, views=tuple(paths[1:]))
    cutting = Cutting(sizes=[[48, 64]], frames=[5, 7], stride=3)
    (only,) = plan(source, cutting)
    assert [read(frame) for frame in cut(source, cutting, only)] == list(range(7))
    assert (only.fps, only.micro[4:]) == (0, (1, 7))
    with pytest.raises(Drop, match="views fit no bucket"):
        plan(source, Cutting(sizes=[[48, 64]], frames=[5]))


def test_frames_of_other_sizes_are_not_distorted(tmp_path: Path) -> None:
    for i, size in enumerate([(48, 64), (64, 64)]):
        Image.fromarray(draw(i, *size)).save(tmp_path / f"{i}.png")
    source = Source(tmp_path, (), tmp_path.parent)
    cutting = Cutting(sizes=[[48, 64]], frames=[2])
    (only,) = plan(source, cutting)
    with pytest.raises(MediaError, match=r"frame 1 is \(64, 64\), expected \(64, 48\)"):
        cut(source, cutting, only)


def test_a_file_of_endless_clips_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    monkeypatch.setattr(cutting_module, "MOST_CLIPS", 29)
    with pytest.raises(MediaError, match="gives 30 clips, expected at most 29"):
        clips_of(path, frames=[1], extract="all")


def test_the_crop_is_where_the_conditions_say(tmp_path: Path) -> None:
    ramp = np.arange(200, dtype=np.uint8)[None, :, None].repeat(50, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "a.png")  # each column shows its number
    source = Source(tmp_path / "a.png", (), tmp_path)
    seen = set()
    for seed in range(4):
        cutting = Cutting(sizes=[[48, 48]], frames=[1], crop="random", seed=seed)
        (only,) = plan(source, cutting)
        clip = cut(source, cutting, only)
        height, width, top, left, stride, frames = only.micro
        assert (height, width, top, stride, frames) == (50, 200, 0, 1, 1)
        column = clip[0, 24, :, 0].astype(float)
        expected = (left + np.arange(48) + 0.5) * 200 / 192 - 0.5
        assert np.abs(column - expected)[2:-2].max() <= 1
        seen.add(left)
    assert len(seen) > 1


def test_odd_sizes_fill_their_bucket(tmp_path: Path) -> None:
    Image.fromarray(draw(9, 37, 51)).save(tmp_path / "a.png")
    for least, bucket in ((None, [[32, 48]]), (30, [[64, 96]])):
        source = Source(tmp_path / "a.png", (), tmp_path)
        cutting = Cutting(sizes=bucket, frames=[1], min_side=least)
        clip = cut(source, cutting, plan(source, cutting)[0])
        assert clip.shape == (1, *bucket[0], 3)
        assert read(clip[0]) == 9


def test_one_frame_videos_are_images_or_too_short(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 1)
    (only,), numbers = clips_of(path, frames=[1, 5])
    assert (numbers, only.fps, only.bucket) == ([[0]], 0, (1, 48, 64))
    with pytest.raises(Drop, match="too short"):
        clips_of(path, frames=[5])
