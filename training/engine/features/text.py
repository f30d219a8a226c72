"""How much of a segment is text: letters that are detected *and* can be read (RapidOCR).

Detection alone takes textures for text in many frames without any; what recognition cannot read is
not counted. `area` is the share of the frame that the boxes of the text cover, the mean over the
frames, `largest` the most of one frame, `words` what was read in that frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..reader import Frame, Uniform
from ..rows import Row, Section
from ..step import FrameStep
from .sampling import FRAMES, SIDES

_LONGEST = 200  # characters of `words`


@dataclass(frozen=True)
class Text(FrameStep):
    """frames: looked at, spread evenly. side: pixels of the shorter side. confidence: from 0 to 1,
    that recognition has to have. letters: that a text has to have, at least."""

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 1
    packages: ClassVar[dict[str, str]] = {
        "rapidocr": "rapidocr",
        "onnxruntime": "onnxruntime",
        "cv2": "opencv-python-headless",
    }
    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "frames": FRAMES,
        "side": SIDES,
        "confidence": (0, 1),
        "letters": (1, _LONGEST),
    }

    frames: int = 3
    side: int = 480
    confidence: float = 0.6
    letters: int = 2

    @cached_property
    def engine(self):
        """The models, which come with the package; one thread, since processes work side by side.

        The detector looks at frames as they are given, at most twice as wide as high.
        """
        from rapidocr import RapidOCR

        return RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # whether text stands on its head
                "Global.text_score": self.confidence,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.limit_type": "max",
                "Det.limit_side_len": 2 * self.side,
            }
        )

    def start(self, row: Row) -> _Text:
        return _Text(self, Uniform(self.frames, row))


class _Text:
    def __init__(self, step: Text, picker: Uniform):
        self._step = step
        self.wants = picker.wants
        self._areas: list[float] = []
        self._words: list[str] = []

    def add(self, frame: Frame) -> None:
        import cv2

        rgb = frame.rgb(self._step.side)
        read = self._step.engine(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        covered = np.zeros(rgb.shape[:2], np.uint8)
        words = []
        if read.boxes is not None:
            for box, text in zip(read.boxes, read.txts, strict=True):
                if len(text.strip()) >= self._step.letters:
                    cv2.fillPoly(covered, [np.asarray(box).round().astype(np.int32)], 1)
                    words.append(text.strip())
        self._areas.append(float(covered.mean()))
        self._words.append(" ".join(words)[:_LONGEST])

    def result(self) -> Section:
        if not self._areas:
            raise ValueError("none of the frames to look at could be decoded")
        most = int(np.argmax(self._areas))
        return {
            "area": round(float(np.mean(self._areas)), 5),
            "largest": round(self._areas[most], 5),
            "words": self._words[most],
        }
