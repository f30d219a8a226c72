"""Where one shot becomes another: cuts and fades by PySceneDetect, dissolves by a model of them.

PySceneDetect's adaptive detector finds cuts and its threshold detector fades through black; neither
sees a dissolve, in which no frame differs much from the one before. In a dissolve from shot A to
shot B every frame is (1 - a) A + a B with a rising from 0 to 1. So it is looked for as it is made:
a stretch whose frames lie on the straight line between its first and its last, which show different
things. A camera that pans or a thing that moves leaves that line at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

SIDE = 144  # pixels of the shorter side at which the detectors look
_GRID = (18, 32)  # cells of the picture that the model of dissolves sees
_LEAST_CHANGE = 12.0  # levels between the ends of a dissolve, root mean square
_BACK = 0.1  # share of the way by which a dissolve may seem to go back from one frame to the next
_BLACK = 12  # mean level below which PySceneDetect takes a frame for black


@dataclass(frozen=True)
class Found:
    """The transitions of a file, in frames; `end` of a stretch is after its last frame."""

    cuts: list[int]  # first frames of new shots
    fades: list[int]  # frames in the middle of black stretches
    dissolves: list[tuple[int, int]]
    levels: np.ndarray  # float32 (n,), mean level of each frame, 0 to 255
    changes: np.ndarray  # float32 (n,), mean difference to the frame before, in levels; [0] is 0


@dataclass
class Dissolves:
    """Finds dissolves in frames that come one by one. fps: of the frames.

    windows: seconds that are looked at at once; a dissolve has to fit into one of them.
    off_line: how far a frame may be from the line between the window's ends, as a share of the
    line's length. alike: correlation of the ends above which they show the same thing. dip: two
    pictures mixed in equal parts keep half of their detail (the square of a half, twice); at most
    this share may be left, and a picture that only changes keeps all.
    """

    fps: float
    windows: tuple[float, ...] = (0.5, 0.8, 1.2, 1.6, 2.4)
    off_line: float = 0.4
    alike: float = 0.6
    dip: float = 0.7
    found: list[tuple[int, int]] = field(default_factory=list)  # frames, the end after the last

    def __post_init__(self) -> None:
        self._lengths = sorted({max(5, round(window * self.fps)) for window in self.windows})
        self._cells: deque[np.ndarray] = deque(maxlen=self._lengths[-1])
        self._detail: deque[float] = deque(maxlen=self._lengths[-1])
        self._count = 0

    def add(self, rgb: np.ndarray) -> None:
        """The next frame, uint8 (h, w, 3)."""
        self._cells.append(_cells(rgb))
        self._detail.append(_detail(rgb))
        self._count += 1
        for length in self._lengths:
            if len(self._cells) >= length and (mixed := self._mixed(length)):
                start = self._count - length + mixed.start
                end = self._count - length + mixed.stop
                if self.found and start < self.found[-1][1]:
                    before = self.found.pop()
                    start, end = min(start, before[0]), max(end, before[1])
                self.found.append((start, end))
                return

    def _mixed(self, length: int) -> range | None:
        """Which of the last `length` frames are a mixture, where they are a dissolve."""
        first, last = self._cells[-length], self._cells[-1]
        line = last - first
        reach = float(line @ line)
        if reach < line.size * _LEAST_CHANGE**2 or _correlation(first, last) > self.alike:
            return None
        frames = np.stack(list(self._cells)[-length:])
        levels = frames.mean(1)
        if levels.min() < _BLACK or levels.max() > 255 - _BLACK:
            return None  # a fade
        window = frames - first
        along = window @ line / reach
        mixed = np.flatnonzero((along > 0.1) & (along < 0.9))
        inside = range(mixed[0], mixed[-1] + 1) if len(mixed) else range(0)
        if len(mixed) < 3 or len(mixed) != len(inside):
            return None
        if inside.start < 1 or inside.stop > length - 1:
            return None
        if np.diff(along[inside.start - 1 : inside.stop + 1]).min() < -_BACK:
            return None
        off = np.sqrt(np.maximum((window**2).sum(1) / reach - along**2, 0))
        if off.max() > self.off_line:
            return None
        detail = np.array(list(self._detail)[-length:])
        return inside if self._keeps(detail, along, inside) < self.dip else None

    def _keeps(self, detail: np.ndarray, along: np.ndarray, inside: range) -> float:
        """The share of the ends' detail that the frames in the middle of the mixture have."""
        before, after = detail[: inside.start].mean(), detail[inside.stop :].mean()
        middle = [i for i in inside if 0.25 < along[i] < 0.75]
        expected = (1 - along[middle]) * before + along[middle] * after
        return float((detail[middle] / np.maximum(expected, 1e-6)).mean()) if middle else 1.0


def _cells(rgb: np.ndarray) -> np.ndarray:
    """float32, the mean colour of each cell of the grid, flat."""
    import cv2

    small = cv2.resize(rgb, _GRID[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).ravel()


def _detail(rgb: np.ndarray) -> float:
    """Mean square of the differences between neighbouring pixels' grey levels."""
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first - first.mean(), second - second.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-6))


class Transitions:
    """Finds all transitions in frames that come one by one.

    fps: of the frames. adaptive: how often the change at a cut has to be that of the frames around
    it. content: the least change of a cut (PySceneDetect's content value). dissolves: look for
    them.
    """

    def __init__(
        self, fps: float, *, adaptive: float = 3.0, content: float = 15.0, dissolves: bool = True
    ):
        from scenedetect import AdaptiveDetector, ThresholdDetector

        self.fps = fps
        least = max(2, round(0.2 * fps))  # frames: a flash is two changes
        self._adaptive = AdaptiveDetector(
            adaptive_threshold=adaptive, min_content_val=content, min_scene_len=least
        )
        self._fades = ThresholdDetector(threshold=_BLACK, min_scene_len=least)
        self._dissolves = Dissolves(fps) if dissolves else None
        self._cuts: list[int] = []
        self._black: list[int] = []
        self._levels: list[float] = []
        self._changes: list[float] = []
        self._before: np.ndarray | None = None

    def add(self, rgb: np.ndarray) -> None:
        """The next frame, uint8 (h, w, 3), about `SIDE` pixels in its shorter side."""
        import cv2
        from scenedetect import FrameTimecode

        now = FrameTimecode(len(self._levels), fps=self.fps)
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        self._cuts += [time.frame_num for time in self._adaptive.process_frame(now, bgr)]
        self._black += [time.frame_num for time in self._fades.process_frame(now, bgr)]
        if self._dissolves is not None:
            self._dissolves.add(rgb)
        self._levels.append(float(rgb.mean()))
        change = 0.0 if self._before is None else float(cv2.absdiff(rgb, self._before).mean())
        self._changes.append(change)
        self._before = rgb

    def found(self) -> Found:
        """What there was in the frames so far."""
        dissolves = self._dissolves.found if self._dissolves else []
        levels, changes = np.float32(self._levels), np.float32(self._changes)
        return Found(self._cuts, self._black, list(dissolves), levels, changes)
