"""Probing and decoding real files: which frames, when, how many are decoded for it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.numbered import draw, read, write_animation, write_video
from training.data.formats import Member
from training.data.media import Media
from training.data.pictures import MediaError

# What a container does to its time stamps differs, so each is tried.
CONTAINERS = {
    "a.mp4": "libx264",
    "a.mov": "libx264",
    "a.mkv": "libx264",
    "a.webm": "libvpx-vp9",
    "a.avi": "mpeg4",
    "b.avi": "libx264",
    "a.flv": "libx264",
    "a.mpg": "mpeg2video",
    "a.ts": "libx264",
}


def numbers(media: Media, pts) -> list[int]:
    return [read(np.asarray(image)) for image in media.frames(pts)]


@pytest.mark.parametrize("name", CONTAINERS)
def test_frames_are_the_ones_asked_for(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 40, 25, codec=CONTAINERS[name])
    media = Media(path)
    timeline = media.timeline()
    assert (timeline.height, timeline.width, len(timeline.pts)) == (48, 64, 40)
    assert timeline.fps == pytest.approx(25)
    for first in range(0, 37, 4):
        wanted = [first, first + 1, first + 3]
        assert numbers(media, timeline.pts[wanted]) == wanted
    assert media.content() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_of_ten_hours_only_the_window_is_decoded(tmp_path: Path) -> None:
    minutes = [60_000 * i for i in range(600)]
    media = Media(write_video(tmp_path / "long.mkv", 600, times=minutes))
    timeline = media.timeline()
    assert timeline.times[-1] == pytest.approx(599 * 60)
    media.decoded = 0
    assert numbers(media, timeline.pts[[505, 507, 509]]) == [505, 507, 509]
    assert media.decoded <= 11  # the group of pictures around it, and the look beyond its end


def test_times_of_a_variable_rate_are_read(tmp_path: Path) -> None:
    times = [0, 40, 80, 400, 440, 1000]
    timeline = Media(write_video(tmp_path / "a.mkv", 6, times=times)).timeline()
    assert timeline.times == pytest.approx(np.array(times) / 1000)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_animations_have_their_frames_and_times(suffix: str, tmp_path: Path) -> None:
    media = Media(write_animation(tmp_path / f"a{suffix}", [100, 200, 50, 50, 0]))
    timeline = media.timeline()
    assert timeline.times == pytest.approx([0, 0.1, 0.3, 0.35, 0.4])
    assert numbers(media, timeline.pts[[1, 3, 4]]) == [1, 3, 4]


def test_a_still_is_one_frame_without_a_rate(tmp_path: Path) -> None:
    Image.fromarray(draw(77)).save(tmp_path / "a.png")
    media = Media(tmp_path / "a.png")
    timeline = media.timeline()
    assert (timeline.fps, timeline.pts.tolist()) == (0, [0])
    assert numbers(media, [0]) == [77]


def test_frames_of_a_folder_come_in_numeric_order(tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(draw(number)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.md").write_text("not a frame")
    media = Media(tmp_path, fps=12)
    timeline = media.timeline()
    assert timeline.times[-1] == pytest.approx(11 / 12)
    assert numbers(media, timeline.pts) == list(range(12))


def test_pictures_and_videos_are_turned_as_they_say(tmp_path: Path) -> None:
    upright = draw(5, 64, 48)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    lying = write_video(tmp_path / "a.mp4", [np.rot90(upright).copy()] * 3, rotation=-90)
    for path in (tmp_path / "a.png", lying):
        media = Media(path)
        timeline = media.timeline()
        assert (timeline.height, timeline.width) == (64, 48)
        assert numbers(media, timeline.pts[:1]) == [5]


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(tmp_path / "a.png")
    (image,) = Media(tmp_path / "a.png").frames([0])
    assert image.getextrema() == ((255, 255),) * 3


def test_sixteen_bits_of_grey_keep_their_levels(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 128 * 256, np.uint16)).save(tmp_path / "a.png")
    (image,) = Media(tmp_path / "a.png").frames([0])
    assert image.getpixel((0, 0)) == (128,) * 3


def test_hd_without_named_colours_is_bt709(tmp_path: Path) -> None:
    green = np.zeros((720, 64, 3), np.uint8)
    green[:] = (0, 200, 0)
    import av

    frame = av.VideoFrame.from_ndarray(green, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 720, 64, "yuv420p"
        plain = av.VideoFrame(64, 720, "yuv420p")
        for source, target in zip(frame.planes, plain.planes, strict=True):
            target.update(bytes(source))
        container.mux(stream.encode(plain))
        container.mux(stream.encode())
    (image,) = Media(tmp_path / "a.mkv").frames([0])
    assert np.abs(np.asarray(image).astype(int) - green).max() <= 4


def test_a_member_of_a_tar_is_read_in_place(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 20)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("before"), io.BytesIO())
        tar.add(video, "x/a.mp4")
        tar.add(video, "after")
    with tarfile.open(tmp_path / "s.tar") as tar:
        member = tar.getmember("x/a.mp4")
    media = Media(tmp_path / "s.tar", Member("x/a.mp4", member.offset_data, member.size))
    timeline = media.timeline()
    assert numbers(media, timeline.pts[[3, 19]]) == [3, 19]
    assert media.content() == Media(video).content()


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.png", "a.mkv"])
def test_empty_and_missing_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="file not found"):
        Media(tmp_path / name).timeline()
    (tmp_path / name).touch()
    with pytest.raises(MediaError, match="empty file"):
        Media(tmp_path / name).timeline()


def test_a_truncated_file_gives_what_it_still_holds(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "a.mkv", list(noise))
    os.truncate(path, path.stat().st_size // 2)
    media = Media(path)
    timeline = media.timeline()
    assert 5 < len(timeline.pts) < 30
    assert len(list(media.frames(timeline.pts[:5]))) == 5
    step = int(timeline.pts[1] - timeline.pts[0])
    with pytest.raises(MediaError):
        list(media.frames([0, 25 * step, 29 * step]))


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".png"])
def test_truncated_files_without_their_index_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".mp4":
        write_video(path)
    elif suffix == ".webp":
        write_animation(path, [50] * 20)
    else:
        Image.effect_noise((64, 64), 50).save(path)
    os.truncate(path, path.stat().st_size // 2)
    media = Media(path)
    with pytest.raises((MediaError, OSError)):
        list(media.frames(media.timeline().pts))


def test_a_play_list_named_as_a_video_opens_nothing_else(tmp_path: Path) -> None:
    secret = write_video(tmp_path / "secret.ts", 10, codec="libx264")
    listing = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.mp4").write_text(listing)
    with pytest.raises(MediaError):
        Media(tmp_path / "a.mp4").timeline()


def test_a_picture_of_too_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    Image.new("1", (8192, 8200)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="8192x8200"):
        Media(tmp_path / "a.png").timeline()
