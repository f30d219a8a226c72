"""What the report measures of a row, and how it is called: one table.

Rows come from strangers: what is no finite number of a sensible size is no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...names import readable
from ..rows import Row, seconds, sections, source_of, value
from .histogram import LARGEST

LONGEST_CAPTION = 300  # characters that the report shows
LONGEST_NAME = 200


@dataclass(frozen=True)
class Measure:
    """A number of each row."""

    path: str
    """Its key in stats.json, and where it stands in a row unless `read` finds it."""
    label: str
    unit: str = ""
    step: str = ""
    """What adds it, as an argument of `python -m training data`."""
    better: Literal["high", "low", ""] = ""
    """Which end is the best one; "" = neither."""
    is_log: bool = False
    """Spread over decades, so drawn on a logarithmic axis."""
    has_sheet: bool = True
    """Whether clips are shown for it."""
    read: Callable[[Row], Any] | None = None

    def of(self, row: Row) -> float:
        """The number, NaN where the row has none."""
        try:
            found = self.read(row) if self.read else value(row, self.path)
        except (KeyError, TypeError, AttributeError, ArithmeticError):
            return float("nan")
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            return float("nan")
        return float(found) if abs(found) <= LARGEST else float("nan")


@dataclass(frozen=True)
class Cut:
    """A threshold of the filter: rows whose number is below, or above, it are dropped."""

    rule: str
    path: str
    side: Literal["below", "above"]
    at: float

    def inside(self, values: np.ndarray) -> np.ndarray:
        """How far the values are on the side that stays; negative where the row is dropped, NaN
        where it has no value. float64 (n,)"""
        return values - self.at if self.side == "below" else self.at - values


def aspect(row: Row) -> float:
    """Width by height."""
    source = source_of(row)
    return source["width"] / source["height"]


def shorter_side(row: Row) -> int:
    """Pixels."""
    source = source_of(row)
    return min(source["width"], source["height"])


def caption_words(row: Row) -> int | None:
    """Words of the caption that the report shows."""
    text = caption(row)
    return len(text.split()) if text else None


_BY_CLIP = "features --clip FOLDER --aesthetic FILE"
MEASURES: tuple[Measure, ...] = (
    Measure("segment.seconds", "Duration", "s", "segment", is_log=True, read=seconds),
    Measure("motion.score", "Motion", "% of the shorter side per second", "features", is_log=True),
    Measure("motion.still", "Still", "share of the steps", "features", "low"),
    Measure("clip.aesthetic", "Aesthetic score", "1 to 10", _BY_CLIP, "high"),
    Measure(
        "clarity.score", "Clarity", "variance of the Laplacian", "features", "high", is_log=True
    ),
    Measure("text.area", "Text area", "share of the frame", "features", "low"),
    Measure("clip.consistency", "Temporal consistency", "cosine", _BY_CLIP, "high"),
    Measure(
        "motion.warp_error", "Warp error", "difference along the flow, 0 to 1", "features", "low"
    ),
    Measure("picture.brightness", "Brightness", "0 black, 1 white", "features"),
    Measure("picture.contrast", "Contrast", "0 to 1", "features", "high", has_sheet=False),
    Measure("picture.bars", "Black bars", "share of the frame", "features", "low"),
    Measure("picture.logo", "Static logo", "share of the picture", "features", "low"),
    Measure("source.side", "Shorter side", "pixels", "scan", has_sheet=False, read=shorter_side),
    Measure("aspect", "Aspect ratio", "width : height", "scan", has_sheet=False, read=aspect),
    Measure(
        "source.fps",
        "Frame rate",
        "frames per second",
        "scan",
        has_sheet=False,
        read=lambda row: source_of(row).get("fps"),
    ),
    Measure(
        "caption_words", "Caption length", "words", "caption", has_sheet=False, read=caption_words
    ),
    Measure("dsg_dense.i", "DSG-Video_i", "share of the objects", "dsg", "low"),
    Measure("dsg_dense.s", "DSG-Video_s", "share of the sentences", "dsg", "low", has_sheet=False),
)


def with_ruled(paths: Iterable[str]) -> list[Measure]:
    """The table, and after it numbers that only the filter's rules know."""
    known = {measure.path for measure in MEASURES}
    return [*MEASURES, *(Measure(p, p) for p in dict.fromkeys(paths) if p not in known)]


def caption(row: Row) -> str:
    """The longest of the row's captions, else of those that its file had; "" where it has none."""
    texts = [
        section.get("text")
        for name, section in sections(row).items()
        if name.startswith("caption") and isinstance(section, dict)
    ]
    texts = _strings(texts) or _strings(row["source"].get("captions"))
    return max(texts, key=len, default="")


def _strings(texts: Any) -> list[str]:
    texts = texts if isinstance(texts, list) else [texts]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def shortened(text: Any, most: int = LONGEST_NAME) -> str:
    """Text of a stranger for the report: UTF-8, of one line, not longer than `most`."""
    start = readable(str(text)[: 4 * most])
    if not start.isprintable():
        start = "".join(c if c.isprintable() or c in _JOINERS else " " for c in start)
    line = " ".join(start.split())
    return line if len(line) <= most else line[: most - 1] + "…"


_JOINERS = "\u200c\u200d\u200e\u200f"  # scripts and emoji need them
