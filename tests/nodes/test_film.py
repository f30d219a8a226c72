"""A growing film: it plays after every piece and is continued from what it is."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from ComfyUI_STIV.nodes.host import film as film_module
from ComfyUI_STIV.nodes.host.film import Film
from ComfyUI_STIV.nodes.host.pieces import Piece, encode_piece
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nodes.films import IDS, LENGTHS, check_plays, grown
from tests.nodes.moving import pieces, scenery


def test_it_plays_after_every_piece(tmp_path: Path, made: list[Piece]) -> None:
    film = Film(tmp_path / "new" / "film.mp4")  # the folder is made
    assert film.kept(IDS) == 0
    for count in range(1, 5):
        assert film.grow(IDS, made.__getitem__, count) == sum(LENGTHS[:count])
        assert check_plays(film.path) == sum(LENGTHS[:count])
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
        kept = Film(path).kept(ids)
        assert kept >= upto
        if upto:  # else the film was not looked at
            assert check_plays(path) == sum(LENGTHS[:kept])
    grown(path, made, IDS)
    grown(fresh, made, IDS)
    assert path.read_bytes() == fresh.read_bytes()


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
        assert path.read_bytes() == content
    path.write_bytes(b"")  # made by a download that never began, or a touch
    assert grown(path, made, IDS) == [0, 1, 2, 3]


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


def test_a_piece_that_is_too_long_is_refused(
    tmp_path: Path, made: list[Piece], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film_module, "_BIGGEST", 100)
    with pytest.raises(ValueError, match=r"piece 0 has .* bytes, more than a fragment can hold"):
        Film(tmp_path / "film.mp4").grow(IDS, made.__getitem__)
