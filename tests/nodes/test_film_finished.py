"""A finished film is an ordinary video for the host."""

from __future__ import annotations

import hashlib
import os
from fractions import Fraction
from pathlib import Path

import av
import pytest
from comfy_api.latest import InputImpl
from comfy_extras.nodes_video import SaveVideo
from ComfyUI_STIV.nodes.host.film import Film, finish
from ComfyUI_STIV.nodes.host.pieces import Piece, boxes

from tests.nodes import tiny
from tests.nodes.films import IDS, LENGTHS, check_plays, grown, states_of_appending
from tests.nodes.moving import pieces


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(8), Fraction(25, 2), Fraction(30000, 1001)]
)
def test_the_host_saves_a_finished_film(tmp_path: Path, rate: Fraction) -> None:
    made = pieces(LENGTHS, rate)
    film, target = tmp_path / "film.mp4", tmp_path / "out.mp4"
    grown(film, made, IDS)
    finish(film, target)
    assert sorted(os.listdir(tmp_path)) == ["film.mp4", "out.mp4"]
    assert [kind for kind in _kinds(target) if kind != b"free"] == [b"ftyp", b"moov", b"mdat"]

    video = InputImpl.VideoFromFile(str(target))
    total = sum(LENGTHS)
    assert video.get_frame_count() == total and video.get_frame_rate() == rate
    assert video.get_dimensions() == (48, 32)
    assert video.get_duration() == pytest.approx(float(total / rate), abs=2e-3)
    components = video.get_components()
    assert components.images.shape == (total, 32, 48, 3) and components.frame_rate == rate

    saved = tmp_path / "saved.mp4"
    video.save_to(str(saved), metadata={"prompt": {"1": "x"}})
    assert check_plays(target, rate) == check_plays(saved, rate, rounded=True) == total
    for path in (target, saved):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.frames == total
            assert stream.average_rate == pytest.approx(rate, rel=1e-4)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate and stream.duration * stream.time_base == total / rate
    # never encoded again; the host's clock, with the oldest PyAV, rounds times
    assert _packets(film) == _packets(target)
    assert [data for _, data in _packets(saved)] == [data for _, data in _packets(film)]


def test_the_node_save_video_takes_it(tmp_path: Path, made: list[Piece]) -> None:
    import folder_paths

    film, target = tmp_path / "film.mp4", tmp_path / "out.mp4"
    grown(film, made, IDS)
    finish(film, target)
    tiny.run(
        SaveVideo.PREPARE_CLASS_CLONE(None),  # as the host does before it runs a node
        video=InputImpl.VideoFromFile(str(target)),
        filename_prefix="film",
        format="mp4",
        codec={"codec": "h264"},
    )
    (saved,) = Path(folder_paths.get_output_directory()).glob("film_*.mp4")
    assert check_plays(saved) == sum(LENGTHS)
    saved.unlink()


def _kinds(path: Path) -> list[bytes]:
    return [kind for kind, _ in boxes(memoryview(path.read_bytes()))]


def _packets(path: Path) -> list[tuple[Fraction, str]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.dts is not None]
        return [
            (packet.pts * packet.time_base, hashlib.sha256(bytes(packet)).hexdigest())
            for packet in packets
        ]


def test_an_unfinished_film_can_be_finished(tmp_path: Path, made: list[Piece]) -> None:
    """The whole pieces of it; and the same film gives the same file."""
    film, target, again = (tmp_path / name for name in ("film.mp4", "out.mp4", "again.mp4"))
    grown(film, made, IDS[:3])
    before = film.read_bytes()
    grown(film, made, IDS)
    state = states_of_appending(before, film.read_bytes())
    film.write_bytes(state(200))  # killed while the last one was written
    target.write_bytes(b"an older one")
    finish(film, target)
    finish(film, again)
    assert check_plays(target) == sum(LENGTHS[:3]) and Film(film).kept(IDS) == 3
    assert target.read_bytes() == again.read_bytes()


def test_a_film_that_cannot_be_finished_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"an older one")
    (tmp_path / "film.mp4").write_bytes(b"no film at all")
    for film in ("film.mp4", "missing.mp4"):
        with pytest.raises(OSError, match=r"out\.mp4: the video cannot be written from .*film"):
            finish(tmp_path / film, target)
    assert target.read_bytes() == b"an older one"
    assert sorted(os.listdir(tmp_path)) == ["film.mp4", "out.mp4"]
