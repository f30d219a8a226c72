"""Pictures and animations by Pillow: opening them safely, their timing, their pixels as RGB."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

LARGEST_FRAME = 2**26  # pixels: 8192 x 8192
MOST_FRAMES = 2**23  # of one file: 38 hours at 60 frames per second
_PICTURES = ("WEBP", "GIF", "PNG", "JPEG", "BMP", "TIFF", "AVIF")
_ANIMATIONS = ("WEBP", "GIF", "PNG", "AVIF")


class MediaError(ValueError):
    """A file that cannot be used, and why."""


def open_picture(stream: BinaryIO) -> Image.Image:
    """The picture or animation in a stream, its pixels not yet decoded. Raises MediaError."""
    try:
        image = Image.open(stream, formats=_PICTURES)
    except Exception as error:
        raise MediaError(say(error)) from error
    check_size(*image.size)
    return image


def moments(image: Image.Image) -> np.ndarray:
    """int64 (n,) milliseconds at which each frame of an animation is shown; (0,) for a still."""
    if not getattr(image, "is_animated", False) or image.format not in _ANIMATIONS:
        return np.zeros(1, np.int64)
    lengths = _webp_durations(image.fp) if image.format == "WEBP" else None
    lengths = lengths or list(_durations(image))
    image.seek(0)
    # What is to be shown for 10 ms or less is shown for 100 by every browser.
    shown_for = [length if length > 10 else 100 for length in lengths[:-1]]
    return np.cumsum([0, *shown_for]).astype(np.int64)


def check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > LARGEST_FRAME:
        raise MediaError(f"frames of {width}x{height}: expected at most {LARGEST_FRAME} pixels")


def shown(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data says."""
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, transparent pixels over white (the background of rendered views)."""
    if image.mode == "RGB":
        return image.copy()
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    if image.mode.startswith("I"):  # 16 bits of grey
        levels = np.asarray(image, np.int64) >> 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _durations(image: Image.Image) -> Iterator[float]:
    """Milliseconds of each frame of an animation."""
    for index in range(min(image.n_frames, MOST_FRAMES)):
        image.seek(index)
        image.load()
        yield image.info.get("duration", 0)


def _webp_durations(stream: BinaryIO) -> list[int]:
    """Milliseconds of each frame of an animated WebP, from its chunks' headers alone.

    WebP container specification: RIFF chunks of four characters and a 32-bit size; an ANMF chunk
    holds x, y, width, height, duration as 24-bit numbers.
    """
    durations = []
    stream.seek(12)
    while len(head := stream.read(8)) == 8 and len(durations) < MOST_FRAMES:
        size = int.from_bytes(head[4:], "little")
        body = stream.read(16) if head[:4] == b"ANMF" else b""
        if len(body) == 16:
            durations.append(int.from_bytes(body[12:15], "little"))
        stream.seek(size + size % 2 - len(body), os.SEEK_CUR)
    return durations


def say(error: Exception) -> str:
    """The error without the name of a stream object in it."""
    text = getattr(error, "strerror", None) or str(error)
    return text.split(" <_io")[0].split("'<none>'")[0][:300] or type(error).__name__
