"""Frames as a video file for people to look at."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def write_video(path: Path, frames: np.ndarray, fps: float, *, quality: int = 16) -> None:
    """An H.264 MP4 from uint8 (T, H, W, 3); odd sides get one more row or column (4:2:0).

    quality: H.264's constant rate factor; at 16 differences to the frames are not seen.
    Raises OSError when it cannot be written.
    """
    import av

    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    # faststart: the index is at the beginning, so that a browser plays before it has all
    options = {"movflags": "+faststart"}
    try:
        with av.open(str(path), "w", format="mp4", options=options) as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options={"crf": str(quality)})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 1  # some frames: threads would take the loader's cores
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise OSError(
            f"{path.parent}: a video of {width}x{height} cannot be written as H.264 ({error})"
        ) from error
