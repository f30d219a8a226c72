"""Frames as pieces of H.264 that join into one film byte by byte.

A piece is a fragment of MP4 (ISO/IEC 14496-12, section 8.8) that begins with a key frame and
carries its place on the timeline. The header, which names size, frame rate and codec, is the same
for all pieces of a film: header + piece 0 + piece 1 + … is a playable file however many there are.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import torch
from torch import Tensor

CRF = 18
"""H.264's constant rate factor where nobody chose one: differences to the frames are hardly seen"""

_FASTEST = 1000  # frames per second
_MUXER = {
    # One fragment per file, addressed from its own start and placed at its frames' timestamps. An
    # index of the fragments (mfra) would have to come last, so there is none.
    "movflags": "frag_custom+empty_moov+default_base_moof+frag_discont+skip_trailer",
    "avoid_negative_ts": "disabled",  # or else each piece is moved to the beginning
    "fflags": "+bitexact",  # no version of the muxer in the header
}
_ENCODER = {
    "bf": "0",  # no B-frames: every piece then ends where its last frame ends
    # Headers that do not depend on the pictures, bytes that do not depend on the processor.
    "x264-params": "stitchable=1:cpu-independent=1",
}


@dataclass(frozen=True)
class Piece:
    """Consecutive frames of a film, encoded."""

    header: bytes
    """File type and description (ftyp, moov), the same for all pieces of a film."""
    body: bytes
    """The frames (moof, mdat); they need no earlier frame."""
    start: int
    """Place of the first frame on the film's timeline."""
    frames: int

    def to_bytes(self) -> bytes:
        """A playable file of this piece alone, its frames at their place."""
        return self.header + self.body

    @classmethod
    def from_bytes(cls, data: bytes, start: int, frames: int) -> Piece:
        """The inverse of `to_bytes`. Raises ValueError for what is no MP4."""
        return cls(*_split(memoryview(data)), start, frames)


def frame_rate(fps: float | Fraction) -> Fraction:
    """Frames per second as the exact number that video formats use.

    23.976, 29.97 and 59.94 are 24000/1001, 30000/1001 and 60000/1001; other numbers are rounded
    to a thousandth, as the host does. Raises ValueError outside 0.001 … 1000.
    """
    if not 0.001 <= fps <= _FASTEST:
        raise ValueError(f"fps is {fps}: expected a number from 0.001 to {_FASTEST}")
    if isinstance(fps, Fraction) and fps.denominator <= 1001:
        return fps
    ntsc = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    if fps >= 1 and ntsc.denominator == 1001 and abs(fps - ntsc) < 2e-4:
        return ntsc
    return Fraction(round(fps * 1000), 1000)


def eight_bit(frames: Tensor) -> Tensor:
    """uint8 of frames in [0, 1], by the very steps of the host's SaveVideo: cut off, not rounded.

    In the type of the frames, so that half precision gives what the host would encode.
    """
    return (frames * 255).clamp(0, 255).byte().cpu()


def encode_piece(
    frames: Iterable[Tensor],
    start: int,
    index: int,
    fps: float | Fraction,
    crf: int = CRF,
) -> Piece:
    """Encode frames, taken batch by batch, as the piece number `index` of a film.

    frames: batches (t, H, W, 3) in [0, 1], one size with even sides. start: place of the first
    one on the timeline, in frames. crf: 0 (lossless) to 51. The same frames and settings give the
    same bytes. Raises ValueError for no frames, other shapes, odd sides, NaN and infinity, and
    for settings out of range.
    """
    if start < 0 or index < 0:
        raise ValueError(f"film: piece {index} starts at frame {start}: expected 0 or more")
    if not 0 <= crf <= 51:
        raise ValueError(f"film: crf is {crf}: expected 0 (lossless) to 51 (small)")
    rate = frame_rate(fps)
    count, file = 0, io.BytesIO()
    options = {**_MUXER, "fragment_index": str(index + 1)}
    with av.open(file, "w", format="mp4", options=options) as container:
        stream = None
        for picture in _pictures(frames, start):
            stream = stream or _add_stream(container, picture, rate, crf)
            picture.pts = start + count
            _mux(container, stream.encode(picture))
            count += 1
        if stream is None:
            raise ValueError(f"film: piece {index}, from frame {start}, has no frames")
        _mux(container, stream.encode(None))
    return Piece(*_split(file.getbuffer()), start, count)


def _add_stream(
    container: av.container.OutputContainer, picture: av.VideoFrame, rate: Fraction, crf: int
) -> av.VideoStream:
    options = {**_ENCODER, "crf": str(crf)}
    try:
        stream = container.add_stream("libx264", rate=rate, options=options)
    except av.codec.codec.UnknownCodecError as error:
        raise RuntimeError(
            "film: this PyAV has no H.264 encoder libx264: reinstall it in ComfyUI's Python with "
            "pip install --force-reinstall av"
        ) from error
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
    stream.codec_context.thread_count = 1  # the bytes depend on it; the default is the machine's
    return stream


def _pictures(frames: Iterable[Tensor], start: int) -> Iterator[av.VideoFrame]:
    """The frames as the encoder takes them, checked."""
    position, shape = start, None
    for batch in frames:
        shape = shape or batch.shape[1:]
        _check(batch, shape, position)
        for pixels in eight_bit(batch).numpy():
            # The host's conversion: its default matrix and range.
            yield av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        position += batch.shape[0]


def _check(batch: Tensor, shape: torch.Size, position: int) -> None:
    if batch.ndim != 4 or batch.shape[-1] != 3:
        raise ValueError(
            f"film: frames from {position} on have shape {tuple(batch.shape)}: "
            "expected (frames, height, width, 3)"
        )
    if batch.shape[1:] != shape:
        raise ValueError(
            f"film: frame {position} is {batch.shape[2]} × {batch.shape[1]} pixels, those before "
            f"it {shape[1]} × {shape[0]}: give all frames one size"
        )
    height, width = shape[:2]
    if height % 2 or width % 2 or not height or not width:
        raise ValueError(
            f"film: frames are {width} × {height} pixels, H.264 needs even sides: "
            f"use {width + width % 2} × {height + height % 2}"
        )
    if not torch.isfinite(batch).all():
        finite = torch.isfinite(batch).flatten(1).all(1)
        raise ValueError(
            f"film: frame {position + int(finite.logical_not().nonzero()[0])} contains NaN or "
            f"infinity ({batch.dtype}): check the VAE (in fp16 it is the usual cause) and the model"
        )


def _mux(container: av.container.OutputContainer, packets: list[av.Packet]) -> None:
    for packet in packets:
        packet.duration = 1  # in frames; the muxer cannot know it of the last one
        container.mux(packet)


def boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes of an MP4, outermost level: (type, the whole box)."""
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if not 8 <= size <= len(data) - position:
            raise ValueError(f"box {kind!r} at byte {position} is said to have {size} bytes")
        yield kind, data[position : position + size]
        position += size


def _split(data: memoryview) -> tuple[bytes, bytes]:
    header, body = bytearray(), bytearray()
    for kind, box in boxes(data):
        (header if kind in (b"ftyp", b"moov") else body).extend(box)
    return bytes(header), bytes(body)
