"""How much moves in a clip: dense optical flow between neighbouring frames, by DIS (OpenCV).

The data engine's motion score and the evaluation's dynamic degree are read off the same flow.
Speeds are in shorter sides of the frame, so they do not depend on the resolution; every frame is
scaled to `SIDE` first. Frames come one by one, so a long clip of 4K needs no more memory than two
frames.

Legend: T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..optional import need

SIDE = 256
"""Pixels of the shorter side at which flow is taken."""
FASTEST = 0.05
"""Share of the pixels, the fastest ones, that decide whether a clip is dynamic (VBench)."""
DYNAMIC = 6 / 256
"""Shorter sides from one frame to the next above which a step counts as movement (VBench)."""
DYNAMIC_FPS = 8.0
"""Frames per second at which VBench takes the dynamic degree."""


@dataclass(frozen=True)
class Speeds:
    """From every frame to the next, (T - 1,) each, in shorter sides per step."""

    mean: np.ndarray
    """Of all pixels."""
    fastest: np.ndarray
    """Mean of the fastest `FASTEST` of the pixels."""

    def score(self, fps: float) -> float:
        """Motion score: mean speed of all pixels, in percent of the shorter side per second.

        fps: of the frames that the flow was taken of. 0 for a clip of one frame.
        """
        return 100 * fps * float(self.mean.mean()) if len(self.mean) else 0.0

    def is_dynamic(self) -> bool:
        """Whether the clip counts as dynamic: the fastest pixels pass `DYNAMIC` in a quarter of
        the steps, as in VBench, which takes it from RAFT's flow; here it is DIS's, so shares of
        dynamic clips are to be compared with each other, not with VBench's.

        Meant for frames at `DYNAMIC_FPS`.
        """
        wanted = max(1, round(4 * (len(self.fastest) + 1) / 16))
        return int((self.fastest > DYNAMIC).sum()) >= wanted


class FlowMeter:
    """Takes the flow of a clip whose frames come one by one.

    Raises ModuleNotFoundError where OpenCV is missing.
    """

    def __init__(self) -> None:
        self._cv2 = need("cv2")
        self._flow = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: np.ndarray | None = None
        self.last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        """The last two frames as grey levels, (h, w) each, and the flow between them (h, w, 2)."""
        self._shape: tuple[int, ...] | None = None
        self._mean: list[float] = []
        self._fastest: list[float] = []

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 (H, W, 3), as large as those before. ValueError for others."""
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame is {frame.dtype} {frame.shape}: expected uint8 (H, W, 3)")
        if self._shape not in (None, frame.shape):
            raise ValueError(f"a frame is {frame.shape}, those before it are {self._shape}")
        now, self._shape = _grey(self._cv2, frame), frame.shape
        if self._before is not None:
            flow = self._flow.calc(self._before, now, None)
            self.last = self._before, now, flow
            speed = np.linalg.norm(flow, axis=-1).ravel()
            count = max(1, int(FASTEST * speed.size))
            side = min(now.shape)
            self._mean.append(float(speed.mean()) / side)
            self._fastest.append(float(np.partition(speed, -count)[-count:].mean()) / side)
        self._before = now

    def speeds(self) -> Speeds:
        """Of the frames so far."""
        return Speeds(np.array(self._mean), np.array(self._fastest))


def warp_error(before: np.ndarray, now: np.ndarray, flow: np.ndarray) -> float:
    """Mean difference, in levels of 0 to 1, between a frame and the next one moved back along the
    flow; of the pixels whose way ends inside the frame. before, now: uint8 (h, w), flow: (h, w, 2)
    in pixels. 0 where none does.
    """
    cv2 = need("cv2")
    height, width = before.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    moved_back = cv2.remap(now, x, y, cv2.INTER_LINEAR)
    return float(cv2.absdiff(before, moved_back)[inside].mean()) / 255 if inside.any() else 0.0


def flow_speeds(frames: Iterable[np.ndarray]) -> Speeds:
    """Speeds of a clip's frames, uint8 (H, W, 3) each; see `FlowMeter`."""
    meter = FlowMeter()
    for frame in frames:
        meter.add(frame)
    return meter.speeds()


def at_rate(count: int, fps: float, wanted: float = DYNAMIC_FPS) -> list[int]:
    """Which of `count` frames to take so that they are nearest to `wanted` per second: every n-th,
    as VBench does. A slower clip is taken whole."""
    return list(range(0, count, max(1, round(fps / wanted))))


def _grey(cv2, frame: np.ndarray) -> np.ndarray:
    """uint8, the shorter side `SIDE` pixels."""
    height, width = frame.shape[:2]
    scale = SIDE / min(height, width)
    size = (max(SIDE, round(width * scale)), max(SIDE, round(height * scale)))
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
