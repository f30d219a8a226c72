"""Frames as a video file: for people to look at, or exactly as they are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def write_video(path: Path, frames: np.ndarray, fps: float, *, quality: int = 16) -> None:
    """An H.264 MP4 from uint8 (T, H, W, 3); odd sides get one more row or column (4:2:0).

    quality: H.264's constant rate factor; at 16 differences to the frames are not seen.
    Raises OSError when it cannot be written.
    """
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    codec = {"name": "libx264", "pix_fmt": "yuv420p", "options": {"crf": str(quality)}}
    # faststart: the index is at the beginning, so that a browser plays before it has all
    _write(path, frames, fps, "mp4", codec, {"movflags": "+faststart"})


def write_lossless(path: Path, frames: np.ndarray, fps: float) -> None:
    """A Matroska file (FFV1) whose frames, uint8 (T, H, W, 3), come back exactly: to be measured.

    Raises OSError when it cannot be written.
    """
    _write(path, frames, fps, "matroska", {"name": "ffv1", "pix_fmt": "bgr0", "options": {}}, {})


def _write(
    path: Path,
    frames: np.ndarray,
    fps: float,
    format: str,
    codec: dict[str, Any],
    options: dict[str, str],
) -> None:
    import av

    try:
        with av.open(str(path), "w", format=format, options=options) as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream(codec["name"], rate=rate, options=codec["options"])
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = codec["pix_fmt"]
            stream.thread_count = 1  # some frames: threads would take the loader's cores
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        height, width = frames.shape[1:3]
        raise OSError(
            f"{path.parent}: a video of {width}x{height} cannot be written by {codec['name']} "
            f"({error})"
        ) from error
