"""Videos whose frames show their own number, as 12 black or white blocks, three by four."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

ROWS, COLUMNS = 3, 4


def draw(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (height, width, 3); its bits in reading order, the lowest first."""
    bits = np.array([number >> bit & 1 for bit in range(ROWS * COLUMNS)]).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    return np.repeat(bits[rows][:, columns, None] * 255, 3, axis=2).astype(np.uint8)


def read(frame: np.ndarray) -> int:
    """The number that a frame (H, W, 3) shows, after scaling and compression."""
    height, width = frame.shape[:2]
    rows = ((np.arange(ROWS) + 0.5) * height / ROWS).astype(int)
    columns = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    bits = frame[rows][:, columns].mean(axis=2).ravel() > 127
    return int((bits << np.arange(bits.size)).sum())


def write_video(
    path: Path,
    frames: int | Sequence[np.ndarray] = 30,
    rate: float = 30,
    *,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    gop: int = 10,
    rotation: int = 0,
) -> Path:
    """A video of so many numbered frames, or of given ones. times: of each frame in ms."""
    if isinstance(frames, int):
        frames = [draw(i, *size) for i in range(frames)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_animation(path: Path, durations: Sequence[int], size=(48, 64)) -> Path:
    """An animated .webp or .gif of numbered frames, each shown for so many ms."""
    images = [Image.fromarray(draw(i, *size)) for i in range(len(durations))]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=list(durations), loop=0, **options
    )
    return path
