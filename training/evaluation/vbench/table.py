"""How VBench makes one score of its dimensions (github.com/Vchitect/VBench, scripts/constant.py).

A dimension's score is stretched from what the worst and the best videos are found to reach to 0-1;
a group is the weighted mean of its dimensions, the total the weighted mean of the groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType


@dataclass(frozen=True)
class Dimension:
    """One dimension: the scores that count as 0 and as 1, and its weight in its group."""

    group: str
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0

    def normalised(self, score: float) -> float:
        """Not cut: below `low` it is negative, above `high` more than 1, as in the official sum."""
        return (score - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's dimensions by the names that its results use, and what its groups weigh."""

    title: str
    dimensions: Mapping[str, Dimension]
    groups: Mapping[str, float]
    paper: Mapping[str, float]
    """The paper's best figures of this table, in percent."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of all dimensions, in the official order."""
        return tuple(self.dimensions)

    def group_score(self, group: str, scores: Mapping[str, float]) -> float | None:
        """Of one group, 0-1; None where one of its dimensions is missing.

        The official script counts a missing dimension as 0; here no number comes of it.
        """
        inside = {n: d for n, d in self.dimensions.items() if d.group == group}
        if not set(inside) <= set(scores):
            return None
        total = sum(d.weight * d.normalised(scores[name]) for name, d in inside.items())
        return total / sum(d.weight for d in inside.values())

    def totals(self, scores: Mapping[str, float]) -> dict[str, float | None]:
        """Every group's score and the total, 0-1."""
        found = {group: self.group_score(group, scores) for group in self.groups}
        total = None
        if None not in found.values():
            total = sum(weight * found[group] for group, weight in self.groups.items())
            total /= sum(self.groups.values())
        return {**found, "total": total}


_SUBJECT, _BACKGROUND, _SMOOTH = (0.1462, 1.0), (0.2615, 1.0), (0.706, 0.9975)

T2V = Benchmark(
    "VBench",
    MappingProxyType(
        {
            "subject_consistency": Dimension("quality", *_SUBJECT),
            "background_consistency": Dimension("quality", *_BACKGROUND),
            "temporal_flickering": Dimension("quality", 0.6293, 1.0),
            "motion_smoothness": Dimension("quality", *_SMOOTH),
            "dynamic_degree": Dimension("quality", weight=0.5),
            "aesthetic_quality": Dimension("quality"),
            "imaging_quality": Dimension("quality"),
            "object_class": Dimension("semantic"),
            "multiple_objects": Dimension("semantic"),
            "human_action": Dimension("semantic"),
            "color": Dimension("semantic"),
            "spatial_relationship": Dimension("semantic"),
            "scene": Dimension("semantic", 0.0, 0.8222),
            "appearance_style": Dimension("semantic", 0.0009, 0.2855),
            "temporal_style": Dimension("semantic", 0.0, 0.364),
            "overall_consistency": Dimension("semantic", 0.0, 0.364),
        }
    ),
    MappingProxyType({"quality": 4.0, "semantic": 1.0}),
    MappingProxyType({"quality": 84.4, "semantic": 79.5, "total": 83.1}),
)
"""Text to video. Paper: T2V-M-512, the best of its variants for each figure."""

I2V = Benchmark(
    "VBench-I2V",
    MappingProxyType(
        {
            "camera_motion": Dimension("i2v", weight=0.1),
            "i2v_subject": Dimension("i2v", *_SUBJECT),
            "i2v_background": Dimension("i2v", *_BACKGROUND),
            "subject_consistency": Dimension("quality", *_SUBJECT),
            "background_consistency": Dimension("quality", *_BACKGROUND),
            "motion_smoothness": Dimension("quality", *_SMOOTH),
            "dynamic_degree": Dimension("quality", weight=0.5),
            "aesthetic_quality": Dimension("quality"),
            "imaging_quality": Dimension("quality"),
        }
    ),
    MappingProxyType({"quality": 1.0, "i2v": 1.0}),
    MappingProxyType({"quality": 82.1, "i2v": 98.0, "total": 90.1}),
)
"""Image to video. Paper: STIV-M-512."""
