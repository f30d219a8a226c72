"""A growing film: whole at every moment, continued from what it is, and a video for the host."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl
from comfy_extras.nodes_video import SaveVideo
from ComfyUI_STIV.nodes.host import film as film_module
from ComfyUI_STIV.nodes.host.film import Film, finish
from ComfyUI_STIV.nodes.host.pieces import Piece, boxes, encode_piece
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nodes import tiny
from tests.nodes.moving import decoded, pieces, scenery

LENGTHS = [5, 1, 7, 3]
IDS = ["key0", "seg0", "seg1", "seg2"]


@pytest.fixture(scope="module")
def made() -> list[Piece]:
    return pieces(LENGTHS, 8)


class Maker:
    """Hands out pieces and remembers which were asked for."""

    def __init__(self, made: list[Piece]):
        self.made, self.asked = made, []

    def __call__(self, index: int) -> Piece:
        self.asked.append(index)
        return self.made[index]


def grown(path: Path, made: list[Piece], ids: list[str], upto: int | None = None) -> list[int]:
    """The pieces that had to be made."""
    make = Maker(made)
    expected = sum(piece.frames for piece in made[: len(ids) if upto is None else upto])
    assert Film(path).grow(ids, make, upto) >= expected
    return make.asked


def check_plays(path: Path, fps: Fraction | int = 8, rounded: bool = False) -> int:
    """Number of frames; they are the scenery, each at its time."""
    frames = list(decoded(path))
    assert all(
        abs(time - index / Fraction(fps)) <= (1e-4 if rounded else 0)
        for index, (time, _) in enumerate(frames)
    )
    for (_, pixels), frame in zip(frames, scenery(len(frames)), strict=True):
        assert np.abs(pixels - frame.numpy() * 255).mean() < 6
    return len(frames)


def test_it_plays_after_every_piece(tmp_path: Path, made: list[Piece]) -> None:
    film = Film(tmp_path / "new" / "film.mp4")  # the folder is made
    assert film.frames() == film.kept(IDS) == 0
    for count in range(1, 5):
        assert film.grow(IDS, made.__getitem__, count) == sum(LENGTHS[:count])
        assert check_plays(film.path) == film.frames() == sum(LENGTHS[:count])
        assert film.kept(IDS) == count
    overhead = film.path.stat().st_size - sum(len(piece.body) for piece in made)
    assert overhead <= len(made[0].header) + 4 * 80
    assert os.listdir(film.path.parent) == ["film.mp4"]


def test_a_rerun_makes_nothing(tmp_path: Path, made: list[Piece]) -> None:
    path = tmp_path / "film.mp4"
    assert grown(path, made, IDS) == [0, 1, 2, 3]
    before = path.read_bytes()
    for upto in (None, 1, 99):
        assert grown(path, made, IDS, upto) == []
    assert path.read_bytes() == before


@pytest.mark.parametrize("edited", range(4))
def test_an_edit_makes_what_follows_anew(tmp_path: Path, made: list[Piece], edited: int) -> None:
    path, fresh = tmp_path / "film.mp4", tmp_path / "fresh.mp4"
    grown(path, made, IDS)
    ids = [*IDS[:edited], "edited", *IDS[edited + 1 :]]
    assert grown(path, made, ids) == list(range(edited, 4))
    grown(fresh, made, ids)
    assert path.read_bytes() == fresh.read_bytes() and check_plays(path) == sum(LENGTHS)


def test_a_shorter_plan_cuts_the_film(tmp_path: Path, made: list[Piece]) -> None:
    path = tmp_path / "film.mp4"
    grown(path, made, IDS)
    assert grown(path, made, IDS[:2]) == []
    assert check_plays(path) == sum(LENGTHS[:2])
    assert grown(path, made, IDS) == [2, 3]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6))
def test_any_history_leads_to_the_same_film(
    tmp_path_factory: pytest.TempPathFactory, made: list[Piece], history: list[tuple[int, int]]
) -> None:
    """Edits at one place and stops at another, in any order."""
    folder = tmp_path_factory.mktemp("films")
    path, fresh = folder / "film.mp4", folder / "fresh.mp4"
    for run, (edited, upto) in enumerate(history):
        ids = [*IDS[:edited], *(f"{name} {run}" for name in IDS[edited:])]
        grown(path, made, ids, upto)
        assert not path.exists() or check_plays(path) == Film(path).frames()
    grown(path, made, IDS)
    grown(fresh, made, IDS)
    assert path.read_bytes() == fresh.read_bytes()


def states_of_appending(before: bytes, after: bytes) -> Callable[[int], bytes]:
    """What a killed append may have left: part of the covered piece, or all of it uncovered."""
    cover = (len(after) - len(before)).to_bytes(4, "big") + after[len(before) + 4 :]
    return lambda cut: before + cover[:cut]


def test_half_written_pieces_do_not_show(tmp_path: Path, made: list[Piece]) -> None:
    path, torn = tmp_path / "film.mp4", tmp_path / "torn.mp4"
    grown(path, made, IDS[:2])
    before = path.read_bytes()
    grown(path, made, IDS)
    grown(path, made, IDS[:3])
    after = path.read_bytes()
    state = states_of_appending(before, after)
    cuts = sorted({*range(0, 200, 3), *range(0, len(after) - len(before) + 1, 41)})
    for cut in [*cuts, len(after) - len(before)]:
        torn.write_bytes(state(cut))
        assert len(list(decoded(torn))) == Film(torn).frames() == sum(LENGTHS[:2])
        assert grown(torn, made, IDS[:3]) == [2]
        assert torn.read_bytes() == after


def grow_again_and_again(path: str, ready, made: list[Piece], ids: list[str]) -> None:
    while True:
        Film(Path(path)).grow(ids, made.__getitem__)
        ready.set()
        # cut it at a random place, as an edit would
        Film(Path(path)).grow(ids[: random.randrange(1, len(ids))], made.__getitem__)


def test_killed_at_any_moment_it_plays(tmp_path: Path) -> None:
    """A real process, kill -9 in the middle of writing, and the next run goes on."""
    lengths = [2] * 12
    noise = torch.rand(2, 128, 192, 3, generator=torch.Generator().manual_seed(1))
    made = [encode_piece([noise], 2 * index, index, 8, crf=0) for index in range(len(lengths))]
    assert len(made[0].body) > 50_000
    ids, path, whole = [str(index) for index in range(12)], tmp_path / "f.mp4", tmp_path / "w.mp4"
    Film(whole).grow(ids, made.__getitem__)
    context = multiprocessing.get_context("fork")
    chance, seen = random.Random(3), set()
    for _ in range(15):
        ready = context.Event()
        process = context.Process(target=grow_again_and_again, args=(str(path), ready, made, ids))
        process.start()
        assert ready.wait(60)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        frames = Film(path).frames()
        assert len(list(decoded(path))) == frames and frames % 2 == 0 and frames >= 2
        seen.add(frames)
        make = Maker(made)
        assert Film(path).grow(ids, make) == 24
        assert make.asked == list(range(frames // 2, 12))
        assert path.read_bytes() == whole.read_bytes()
    assert len(seen) > 1  # it was interrupted at different places


def test_two_processes_write_one_film(tmp_path: Path, made: list[Piece]) -> None:
    path = tmp_path / "film.mp4"
    context = multiprocessing.get_context("fork")
    ids = [[*IDS[:2], f"{run} a", f"{run} b"] for run in range(3)]
    processes = [
        context.Process(target=_grow_often, args=(str(path), made, names)) for names in ids
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert check_plays(path) == Film(path).frames()
    assert grown(path, made, IDS)[-2:] == [2, 3]
    grown(tmp_path / "fresh.mp4", made, IDS)
    assert path.read_bytes() == (tmp_path / "fresh.mp4").read_bytes()


def _grow_often(path: str, made: list[Piece], ids: list[str]) -> None:
    for _ in range(20):
        Film(Path(path)).grow(ids, made.__getitem__)


def test_an_interrupted_run_leaves_what_is_done(tmp_path: Path, made: list[Piece]) -> None:
    def make(index: int) -> Piece:
        if index == 2:
            raise InterruptedError
        return made[index]

    with pytest.raises(InterruptedError):
        Film(tmp_path / "film.mp4").grow(IDS, make)
    assert check_plays(tmp_path / "film.mp4") == sum(LENGTHS[:2])


def test_another_size_begins_the_film_anew(tmp_path: Path, made: list[Piece]) -> None:
    """Under the same ids, as after an update of the encoder."""
    path = tmp_path / "film.mp4"
    grown(path, made, IDS, upto=2)
    other = pieces(LENGTHS, 12)
    assert grown(path, other, IDS) == [2, 0, 1, 2, 3]
    assert check_plays(path, fps=12) == sum(LENGTHS)


def test_pieces_that_do_not_fit_are_refused(tmp_path: Path, made: list[Piece]) -> None:
    path = tmp_path / "film.mp4"
    other = pieces(LENGTHS, 9)
    for wrong, message in (
        ([made[0], made[2]], r"piece 1 starts at frame 6, but the film has 5 frames before it"),
        ([made[0], other[1]], r"piece 1 of the film has another size or frame rate than"),
        ([made[1]], r"piece 0 starts at frame 5, but the film has 0 frames"),
    ):
        path.unlink(missing_ok=True)
        with pytest.raises(ValueError, match=message) as error:
            Film(path).grow(IDS[: len(wrong)], wrong.__getitem__)
        assert "\n" not in str(error.value)


def test_other_files_are_not_overwritten(tmp_path: Path, made: list[Piece]) -> None:
    path = tmp_path / "holiday.mp4"
    for content in (b"not a film", made[0].header + made[0].body, bytes(500)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"holiday\.mp4 is no film of STIV and would be over"):
            Film(path).grow(IDS, made.__getitem__)
        assert path.read_bytes() == content and Film(path).frames() == 0
    path.write_bytes(b"")  # made by a download that never began, or a touch
    assert grown(path, made, IDS) == [0, 1, 2, 3]


def test_a_full_disk_is_told_and_leaves_the_film(tmp_path: Path, made: list[Piece]) -> None:
    """A real limit on the size of files, in a process of its own."""
    path = tmp_path / "film.mp4"
    grown(path, made, IDS[:2])
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    limit = path.stat().st_size + 300
    process = context.Process(target=_grow_within, args=(str(path), made, limit, result))
    process.start()
    message = result.get(timeout=60)
    process.join()
    assert "piece 2 of the film cannot be written" in message and "make room" in message
    assert check_plays(path) == sum(LENGTHS[:2])
    assert grown(path, made, IDS) == [2, 3]


def _grow_within(path: str, made: list[Piece], limit: int, result) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Film(Path(path)).grow(IDS, made.__getitem__)
    except OSError as error:
        result.put(str(error))
    else:
        result.put("written")


def test_an_impossible_folder_is_told(tmp_path: Path, made: list[Piece]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"piece 0 of the film cannot be written"):
        Film(tmp_path / "file" / "film.mp4").grow(IDS, made.__getitem__)


def test_adding_reads_and_writes_the_end_alone(tmp_path: Path, made: list[Piece]) -> None:
    """As many bytes for the hundredth piece as for the second."""
    path = tmp_path / "film.mp4"
    long = [encode_piece([scenery(1, start=i)], i, i, 8) for i in range(100)]
    ids = [str(index) for index in range(100)]
    costs = []
    for count in (2, 50, 100):
        Film(path).grow(ids, long.__getitem__, count - 1)
        before = _io_bytes()
        Film(path).grow(ids, long.__getitem__, count)
        costs.append(_io_bytes() - before)
    assert max(costs) < min(costs) + 8_000  # reads come in buffers of some thousand bytes
    assert check_plays(path) == 100


def _io_bytes() -> int:
    """Bytes that this process has read and written, by the system's count."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"]) + int(fields["wchar"])


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Encoding six times as many pieces takes no more memory."""
    film, frames = Film(tmp_path / "film.mp4"), scenery(4, 128, 96)
    ids = [str(index) for index in range(120)]

    def make(index: int) -> Piece:
        return encode_piece([frames], 4 * index, index, 24)

    film.grow(ids, make, 20)
    before = _resident()
    assert film.grow(ids, make) == 480
    assert _resident() - before < 16 * 2**20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


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
    assert check_plays(target) == sum(LENGTHS[:3]) == Film(film).frames()
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


def test_a_piece_that_is_too_long_is_refused(
    tmp_path: Path, made: list[Piece], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film_module, "_BIGGEST", 100)
    with pytest.raises(ValueError, match=r"piece 0 has .* bytes, more than a fragment can hold"):
        Film(tmp_path / "film.mp4").grow(IDS, made.__getitem__)
