"""How fast a segment moves, and how well its frames follow from one another, by optical flow.

`score` is the mean speed of all pixels in percent of the shorter side per second; `fastest` that of
the fastest 5 %; `still` the share of steps in which next to nothing moves; `dynamic` is VBench's
yes or no (see `training.engine.motion`). `warp_error` is the temporal consistency that needs no
weights: the mean difference, in levels of 0 to 1, between a frame and the next one moved back along
the flow. It grows with flicker, morphing and cuts that were missed, and with what flow cannot
follow; compare clips of about equal motion by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..motion import SIDE, FlowMeter, warp_error
from ..reader import Frame
from ..rows import Row, Section
from ..step import FrameStep
from .sampling import RATES, Ticks

_STILL = 0.0005  # shorter sides per step: an eighth of a pixel of 256


@dataclass(frozen=True)
class Motion(FrameStep):
    """rate: frames per second between which flow is taken (a clip may have fewer)."""

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = 1
    packages: ClassVar[dict[str, str]] = {"cv2": "opencv-python-headless"}
    limits: ClassVar[dict[str, tuple[float, float]]] = {"rate": RATES}

    rate: float = 8.0

    def start(self, row: Row) -> _Motion:
        return _Motion(self.rate)


class _Motion:
    def __init__(self, rate: float):
        self._ticks = Ticks(rate)
        self.wants = self._ticks.wants
        self._meter = FlowMeter()
        self._errors: list[float] = []
        self._seconds: list[float] = []

    def add(self, frame: Frame) -> None:
        self._meter.add(frame.rgb(SIDE))
        self._seconds.append(frame.seconds)
        if self._meter.last is not None:
            self._errors.append(warp_error(*self._meter.last))

    def result(self) -> Section:
        if len(self._seconds) < 2:
            raise ValueError("has one frame only: nothing can move")
        speeds = self._meter.speeds()
        fps = (len(self._seconds) - 1) / (self._seconds[-1] - self._seconds[0])
        return {
            "score": round(speeds.score(fps), 3),
            "fastest": round(100 * fps * float(speeds.fastest.mean()), 3),
            "still": round(float((speeds.mean < _STILL).mean()), 3),
            "dynamic": speeds.is_dynamic(),
            "warp_error": round(float(np.mean(self._errors)), 5),
        }
