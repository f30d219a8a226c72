"""Pieces of a film: the bytes, their place in time, and pixels as the host would encode them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from ComfyUI_STIV.nodes.host.pieces import (
    CRF,
    boxes,
    eight_bit,
    encode_piece,
    frame_rate,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nodes.moving import decoded, pieces, scenery

RATES = {
    24: Fraction(24),
    23.976: Fraction(24000, 1001),
    float(Fraction(24000, 1001)): Fraction(24000, 1001),
    8: Fraction(8),
    12.5: Fraction(25, 2),
    29.97: Fraction(30000, 1001),
    119.88: Fraction(120000, 1001),
    0.5: Fraction(1, 2),
    Fraction(1000, 33): Fraction(1000, 33),
    7.123: Fraction(7123, 1000),
}


@pytest.mark.parametrize(("fps", "rate"), RATES.items())
def test_every_beginning_plays_on_time(fps: float, rate: Fraction) -> None:
    assert frame_rate(fps) == rate
    film, total = b"", 0
    for piece in pieces([5, 1, 12, 2], fps):
        assert film == b"" or film.startswith(piece.header)
        film = (film or piece.header) + piece.body
        total += piece.frames
        assert piece.start + piece.frames == total
        assert [time for time, _ in decoded(film)] == [index / rate for index in range(total)]
        with av.open(io.BytesIO(film)) as container:
            video = container.streams.video[0]
            assert video.average_rate == rate
            assert video.duration * video.time_base == total / rate
            assert container.duration == pytest.approx(float(total / rate) * av.time_base, abs=1)


def test_a_piece_is_one_closed_fragment() -> None:
    first, second = pieces([6, 4], 8)
    assert [kind for kind, _ in boxes(memoryview(first.header))] == [b"ftyp", b"moov"]
    assert [kind for kind, _ in boxes(memoryview(first.body))] == [b"moof", b"mdat"]
    # decodable without the piece before, in place on the timeline
    alone = list(decoded(second.header + second.body))
    assert [time for time, _ in alone] == [Fraction(index, 8) for index in range(6, 10)]
    together = list(decoded(first.header + first.body + second.body))
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(alone, together[6:], strict=True))


def test_pixels_are_close_to_the_frames() -> None:
    """Nearly as close as cutting off to 8 bits and halving the resolution of colours allow."""
    frames, errors = scenery(8, 192, 128, scale=4), []
    for crf in (0, CRF):
        piece = encode_piece([frames], 0, 0, 24, crf=crf)
        found = np.stack([pixels for _, pixels in decoded(piece.header + piece.body)])
        errors.append(np.abs(found - frames.numpy() * 255).mean())
    assert errors[0] < 2 and errors[1] < errors[0] + 0.3


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 45).map(lambda half: 2 * half),
    st.integers(1, 45).map(lambda half: 2 * half),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_same_frames_same_bytes(width: int, height: int, batches: list[int]) -> None:
    """Of any size, in whatever batches they come."""
    frames = scenery(sum(batches), width, height)
    whole = encode_piece([frames], 3, 1, 24)
    assert encode_piece(frames.split(batches), 3, 1, 24) == whole
    assert whole.frames == len(list(decoded(whole.header + whole.body))) == len(frames)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pixels_are_those_that_the_host_encodes(dtype: torch.dtype, tmp_path: Path) -> None:
    """Lossless, so that what comes out is what went into the encoder."""
    generator = torch.Generator().manual_seed(4)
    frames = (torch.rand(6, 34, 50, 3, generator=generator) * 1.2 - 0.1).to(dtype)
    host = tmp_path / "host.mp4"
    components = Types.VideoComponents(images=frames, frame_rate=Fraction(24))
    InputImpl.VideoFromComponents(components).save_to(str(host), crf=0)
    piece = encode_piece([frames], 0, 0, 24, crf=0)
    with av.open(str(host)) as a, av.open(io.BytesIO(piece.header + piece.body)) as b:
        for ours, theirs in zip(a.decode(video=0), b.decode(video=0), strict=True):
            assert ours.format.name == theirs.format.name == "yuv420p"
            assert np.array_equal(ours.to_ndarray(), theirs.to_ndarray())


def test_eight_bits_are_cut_off_not_rounded() -> None:
    values = torch.tensor([-0.5, 0.0, 0.999 / 255, 1.001 / 255, 254.9 / 255, 1.0, 7.0])
    assert eight_bit(values).tolist() == [0, 0, 0, 1, 254, 255, 255]


def test_quality_is_in_the_size() -> None:
    sizes = [len(pieces([8], 24, crf=crf)[0].body) for crf in (0, 18, 40)]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < sizes[0] / 2


def test_frames_are_taken_one_batch_at_a_time() -> None:
    """The encoder asks for the next batch when it has the last: all of them are never held."""
    alive: list[int] = []

    def stream() -> Iterator[torch.Tensor]:
        for start in range(0, 40, 4):
            alive.append(start)
            yield scenery(4, start=start)
            if start == 20:
                raise InterruptedError  # as the host's Cancel does

    with pytest.raises(InterruptedError):
        encode_piece(stream(), 0, 0, 24)
    assert alive == [0, 4, 8, 12, 16, 20]


def test_bad_frames_are_named() -> None:
    good = scenery(3)
    broken = good.clone()
    broken[1, 5, 5, 0] = float("nan")
    for batches, message in (
        ([], r"piece 2, from frame 10, has no frames"),
        ([good[:0]], r"piece 2, from frame 10, has no frames"),
        ([good, broken], r"frame 14 contains NaN or infinity \(torch.float32\)"),
        ([good[0]], r"frames from 10 on have shape \(32, 48, 3\)"),
        ([good, good[:, :30]], r"frame 13 is 48 × 30 pixels, those before it 48 × 32"),
        ([good[:, :31]], r"frames are 48 × 31 pixels, H.264 needs even sides: use 48 × 32"),
        ([good[..., :2]], r"shape \(3, 32, 48, 2\): expected \(frames, height, width, 3\)"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            encode_piece(batches, 10, 2, 24)
        assert "\n" not in str(error.value)


def test_bad_settings_are_named() -> None:
    for change, message in (
        ({"crf": 52}, r"crf is 52: expected 0"),
        ({"fps": 0}, r"fps is 0: expected a number from 0.001 to 1000"),
        ({"fps": float("nan")}, r"fps is nan"),
        ({"start": -1}, r"piece 0 starts at frame -1"),
    ):
        with pytest.raises(ValueError, match=message):
            encode_piece([scenery(1)], **{"start": 0, "index": 0, "fps": 24, **change})
