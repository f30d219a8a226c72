"""How sharp a segment is: the variance of the Laplacian of its grey levels (0 to 255).

The usual measure (Pech-Pacheco et al. 2000). It counts contrast and noise as sharpness, and depends
on the size at which it is taken: frames are scaled down to `side`, smaller ones are taken as they
are. `score` is the median over the frames, `worst` the least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..reader import Frame, Uniform
from ..rows import Row, Section
from ..step import FrameStep
from .sampling import FRAMES, SIDES


@dataclass(frozen=True)
class Clarity(FrameStep):
    """frames: looked at, spread evenly. side: pixels of the shorter side."""

    name: ClassVar[str] = "clarity"
    version: ClassVar[int] = 1
    packages: ClassVar[dict[str, str]] = {"cv2": "opencv-python-headless"}
    limits: ClassVar[dict[str, tuple[float, float]]] = {"frames": FRAMES, "side": SIDES}

    frames: int = 8
    side: int = 480

    def start(self, row: Row) -> _Clarity:
        return _Clarity(Uniform(self.frames, row), self.side)


class _Clarity:
    def __init__(self, picker: Uniform, side: int):
        self.wants = picker.wants
        self._side = side
        self._variances: list[float] = []

    def add(self, frame: Frame) -> None:
        import cv2

        grey = cv2.cvtColor(frame.rgb(self._side), cv2.COLOR_RGB2GRAY)
        self._variances.append(float(cv2.Laplacian(grey, cv2.CV_32F).var()))

    def result(self) -> Section:
        if not self._variances:
            raise ValueError("none of the frames to look at could be decoded")
        return {
            "score": round(float(np.median(self._variances)), 2),
            "worst": round(min(self._variances), 2),
        }
