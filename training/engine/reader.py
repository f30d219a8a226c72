"""The frames of one row for the steps: streamed, each converted only to the sizes asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from ..data.formats import Member, inside
from ..data.media import Media, Timeline
from ..data.pictures import MediaError
from ..data.shown import Shown
from .rows import Row, source_of


@dataclass
class Clock:
    """Where the time of one row went, in seconds, and how many frames it was."""

    decoding: float = 0.0  # waiting for the decoder
    converting: float = 0.0  # from the decoder's pixels to RGB of the size asked for
    frames: int = 0


class Frame:
    """One frame of a segment as it passes."""

    def __init__(self, image: Shown, index: int, pts: int, seconds: float, clock: Clock):
        self._image, self._clock = image, clock
        self.index = index  # in the segment
        self.pts = pts  # ticks of the source's base
        self.seconds = seconds  # from the segment's first frame
        self.height, self.width = image.height, image.width  # as displayed
        self._sizes: dict[int | None, np.ndarray] = {}

    def rgb(self, side: int | None = None) -> np.ndarray:
        """uint8 (h, w, 3), the shorter side scaled to `side`; never enlarged, None = as it is.

        Steps that ask for the same side share one array: it is not to be written to.
        """
        shorter = min(self.height, self.width)
        side = None if side is None or side >= shorter else side
        if side not in self._sizes:
            scale = 1.0 if side is None else side / shorter
            size = round(self.width * scale), round(self.height * scale)
            began = time.perf_counter()
            pixels = np.array(self._image.convert(None if side is None else size))
            self._clock.converting += time.perf_counter() - began
            pixels.flags.writeable = False
            self._sizes[side] = pixels
        return self._sizes[side]


class Reader:
    """The frames of a row's segment, or of the whole file where the row has no segment.

    root: the media folder.
    """

    def __init__(self, row: Row, root: Path):
        self.row, self.root, self.source = row, Path(root), source_of(row)
        self.clock = Clock()

    @property
    def path(self) -> Path:
        """The file (of a row from a tar, the tar). Raises ValueError where it is not inside the
        media folder: rows come from strangers."""
        return inside(self.source["path"], self.root)

    @cached_property
    def media(self) -> Media:
        """The file, to be probed or decoded in another way. Raises MediaError."""
        member = self.source.get("member")
        fps = self.source.get("fps") or 24.0  # of a folder of frames
        return Media(self.path, Member(**member) if member else None, fps=fps)

    def timeline(self) -> Timeline:
        """When each frame of the file is shown. Raises MediaError."""
        return self.media.timeline()

    def stream(self) -> Iterator[Frame]:
        """Every frame of the segment in order. Raises MediaError where it cannot be decoded."""
        segment, source = self.row.get("segment"), self.source
        start, end = (segment["start"], segment["end"]) if segment else (None, None)
        base = float(Fraction(*source["base"])) if "base" in source else None
        images = self.media.stretch(start, end)
        index, first = 0, None
        while True:
            began = time.perf_counter()
            pts, image = next(images, (None, None))
            self.clock.decoding += time.perf_counter() - began
            if image is None:
                break
            first = pts if first is None else first
            since = float(pts - first) * base if base else float(index)
            yield Frame(image, index, pts, since, self.clock)
            index += 1
            self.clock.frames += 1
        if not index:
            raise MediaError("no frame of the segment could be decoded")

    def uniform(self, count: int, side: int | None = None) -> list[np.ndarray]:
        """`count` frames spread evenly over the segment, each uint8 (h, w, 3), see `Frame.rgb`.

        They are the frames shown at the middle of `count` equal parts, so that neither a cut's
        last trace at the start nor the end weighs more. Fewer where the segment has fewer.
        """
        picker = Uniform(count, self.row)
        return [frame.rgb(side) for frame in self.stream() if picker.wants(frame)]


class Uniform:
    """Chooses frames spread evenly over a segment while they pass."""

    def __init__(self, count: int, row: Row):
        if count < 1:
            raise ValueError(f"{count} frames: expected at least 1")
        frames = (row.get("segment") or source_of(row))["frames"]
        middles = (np.arange(min(count, frames)) + 0.5) / min(count, frames)
        self._wanted = set((middles * frames).astype(int).tolist())

    def wants(self, frame: Frame) -> bool:
        return frame.index in self._wanted
