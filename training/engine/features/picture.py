"""What the picture looks like: brightness, contrast, black bars, and a logo that stays put.

`brightness` and `contrast` are mean and standard deviation of the grey levels, 0 to 1. `bars` is
the share of the frame that bars at its edges cover (`top`, `bottom`, `left`, `right` are their
shares of the height and width), which are black in every frame. `logo` is the share of the picture
that has detail and stays the same while the rest changes; null where most of the picture stays the
same, since then nothing tells a logo from a wall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..reader import Frame, Uniform
from ..rows import Row, Section
from ..step import FrameStep
from .sampling import FRAMES

_SIDE = 256
_BLACK = 24  # level, of 255, that no pixel of a bar but a few exceeds
_SAME = 4.0  # levels by which a pixel that stays the same may vary (standard deviation)
_EDGE = 24.0  # levels per pixel of a logo's outline
_MOVING = 0.5  # share of the picture's edges that has to change


@dataclass(frozen=True)
class Picture(FrameStep):
    """frames: looked at, spread evenly."""

    name: ClassVar[str] = "picture"
    version: ClassVar[int] = 1
    packages: ClassVar[dict[str, str]] = {"cv2": "opencv-python-headless"}
    limits: ClassVar[dict[str, tuple[float, float]]] = {"frames": FRAMES}

    frames: int = 8

    def start(self, row: Row) -> _Picture:
        return _Picture(Uniform(self.frames, row))


class _Picture:
    """Keeps sums over frames, not the frames."""

    def __init__(self, picker: Uniform):
        self.wants = picker.wants
        self._count = 0
        self._levels: list[tuple[float, float]] = []
        self._sum = self._squares = 0.0
        self._rows = self._columns = 0.0

    def add(self, frame: Frame) -> None:
        import cv2

        grey = cv2.cvtColor(frame.rgb(_SIDE), cv2.COLOR_RGB2GRAY).astype(np.float32)
        self._count += 1
        self._levels.append((float(grey.mean()), float(grey.std())))
        self._sum = self._sum + grey
        self._squares = self._squares + grey**2
        self._rows = np.maximum(self._rows, np.quantile(grey, 0.98, axis=1))
        self._columns = np.maximum(self._columns, np.quantile(grey, 0.98, axis=0))

    def result(self) -> Section:
        if not self._count:
            raise ValueError("none of the frames to look at could be decoded")
        brightness, contrast = np.mean(self._levels, axis=0) / 255
        (top, bottom), (left, right) = _bars(self._rows), _bars(self._columns)
        inside = (1 - top - bottom) * (1 - left - right)
        logo = self._logo(top, bottom, left, right)
        return {
            "brightness": round(float(brightness), 4),
            "contrast": round(float(contrast), 4),
            "bars": round(1 - inside, 4),
            "top": round(top, 4),
            "bottom": round(bottom, 4),
            "left": round(left, 4),
            "right": round(right, 4),
            "logo": None if logo is None else round(logo, 5),
        }

    def _logo(self, top: float, bottom: float, left: float, right: float) -> float | None:
        import cv2

        mean = self._sum / self._count
        spread = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))
        height, width = mean.shape
        rows = slice(round(top * height), height - round(bottom * height))
        columns = slice(round(left * width), width - round(right * width))
        mean, spread = mean[rows, columns], spread[rows, columns]
        if self._count < 3 or min(mean.shape) < 8:
            return None
        edges = np.hypot(cv2.Sobel(mean, -1, 1, 0), cv2.Sobel(mean, -1, 0, 1)) / 4 > _EDGE
        same = spread < _SAME
        if (spread >= _SAME).mean() < _MOVING:
            return None
        outline = (edges & same).astype(np.uint8)
        # the area of a logo is what its outline encloses
        closed = cv2.morphologyEx(outline, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        return float(closed.mean())


def _bars(brightest: np.ndarray) -> tuple[float, float]:
    """Shares of the lines before the first and after the last that is not black."""
    lit = np.flatnonzero(brightest > _BLACK)
    count = len(brightest)
    if not len(lit):
        return 0.0, 0.0  # a black picture has no bars
    return float(lit[0]) / count, float(count - 1 - lit[-1]) / count
