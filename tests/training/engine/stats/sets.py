"""Rows of segments with given values, and the thresholds that filtered them."""

from __future__ import annotations

from typing import Any

from training.engine.rows import SCHEMA, check_row, value
from training.engine.stats.measures import Cut

CUTS = (
    Cut("motion", "motion.score", "below", 2.0),
    Cut("motion", "motion.score", "above", 50.0),
    Cut("clarity", "clarity.score", "below", 100.0),
)
RULES = ("motion", "clarity")
STAMP = {"version": 1}

# motion, clarity, brightness, seconds
VALUES = (
    (1.0, 50.0, 0.1, 2.0),  # too slow, blurred
    (1.9, 400.0, 0.2, 4.0),  # too slow
    (2.0, 100.0, 0.3, 8.0),  # at both thresholds: stays
    (4.0, 99.0, 0.4, 2.0),  # blurred
    (8.0, 200.0, 0.5, 4.0),
    (16.0, 800.0, 0.6, 8.0),
    (32.0, 1600.0, 0.7, 2.0),
    (64.0, 3200.0, 0.8, 4.0),  # too fast
)


def row(number: int, *, file: str = "", seconds: float = 4.0, **sections: Any) -> dict[str, Any]:
    """A row of a segment; sections as `motion={"score": 1.0}`."""
    made = {name: {**section, "made_by": STAMP} for name, section in sections.items()}
    start = 3 * number
    source = {
        "path": file or f"clip-{number}.mp4",
        "size": 1000,
        "hash": f"{number:064x}",
        "height": 480,
        "width": 640,
        "fps": 24.0,
        "seconds": 60.0,
        "frames": 1440,
        "base": [1, 24],
        "first": 0,
        "codec": "h264",
        "orientation": "landscape",
    }
    segment = {
        "start": 24 * start,
        "end": round(24 * (start + seconds)),
        "start_s": float(start),
        "end_s": start + seconds,
        "seconds": seconds,
        "frames": round(24 * seconds),
    }
    id = f"{number:024x}-{segment['start']}-{segment['end']}"
    found = {"schema": SCHEMA, "id": id, "source": source, "segment": segment, **made}
    return check_row(found)


def filtered(found: dict[str, Any]) -> dict[str, Any]:
    """The row with the section of a filter with the rules of `CUTS`."""
    reasons = []
    for cut in CUTS:
        number = value(found, cut.path)
        out = number is not None and (number < cut.at if cut.side == "below" else number > cut.at)
        reasons += [cut.rule] if out and cut.rule not in reasons else []
    section = {"keep": not reasons, "reasons": reasons, "made_by": STAMP}
    return {**found, "filter": section}


def small_set() -> list[dict[str, Any]]:
    """Eight rows, of `VALUES`."""
    return [
        filtered(
            row(
                number,
                seconds=seconds,
                motion={"score": motion},
                clarity={"score": clarity},
                picture={"brightness": brightness},
                categorize={"category": "people" if number < 5 else "nature"},
                captions_dense={"text": f"caption {number} of this clip"},
            )
        )
        for number, (motion, clarity, brightness, seconds) in enumerate(VALUES)
    ]
