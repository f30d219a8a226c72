"""A growing film whose writer is killed, refused or not alone is whole at every moment."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from ComfyUI_STIV.nodes.host import film as module
from ComfyUI_STIV.nodes.host.film import Film
from ComfyUI_STIV.nodes.host.pieces import Piece, encode_piece

from tests.nodes.films import (
    IDS,
    LENGTHS,
    WHOLE_PIECES,
    Maker,
    check_plays,
    grown,
    states_of_appending,
)
from tests.nodes.moving import decoded


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
        assert len(list(decoded(torn))) == sum(LENGTHS[:2]) and Film(torn).kept(IDS) == 2
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
        done = Film(path).kept(ids)
        assert len(list(decoded(path))) == 2 * done >= 2
        seen.add(done)
        make = Maker(made)
        assert Film(path).grow(ids, make) == 24
        assert make.asked == list(range(done, 12))
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
    assert check_plays(path) in WHOLE_PIECES
    assert grown(path, made, IDS)[-2:] == [2, 3]
    grown(tmp_path / "fresh.mp4", made, IDS)
    assert path.read_bytes() == (tmp_path / "fresh.mp4").read_bytes()


def test_a_film_that_another_process_cuts_is_read_as_far_as_it_goes(
    tmp_path: Path, made: list[Piece]
) -> None:
    path, before = tmp_path / "film.mp4", []
    for upto in (2, 4):
        grown(path, made, IDS, upto)
        before.append(path.stat().st_size)
    two, four = before

    class Cut(io.BytesIO):
        """Had more pieces when it was asked for its end."""

        def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
            end = super().seek(offset, whence)
            return end if whence == os.SEEK_SET else four

    for left in (two, two + 30, two + 100):
        places = list(module._places(Cut(path.read_bytes()[:left])))
        assert places[0].end == two
        assert [place.mark.pieces for place in places] == [2, 1]


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
