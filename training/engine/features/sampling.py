"""Which of the passing frames a measure looks at."""

from __future__ import annotations

from ..reader import Frame

RATES = 0.1, 240.0
"""Frames per second that may be asked for."""
FRAMES = 1, 1000
"""Frames of a segment that may be asked for."""
SIDES = 16, 4320
"""Pixels of the shorter side to which frames may be scaled."""


class Ticks:
    """At most `rate` frames per second, evenly: the first one shown at or after each tick."""

    def __init__(self, rate: float):
        if not rate > 0:
            raise ValueError(f"rate is {rate}: expected frames per second, more than 0")
        self.rate = rate
        self._next = 0

    def wants(self, frame: Frame) -> bool:
        tick = int(frame.seconds * self.rate + 1e-6)
        if tick < self._next:
            return False
        self._next = tick + 1
        return True
