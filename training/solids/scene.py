"""Objects of the solids domain: one coloured solid or two, as plain data.

An object fits into the ball of radius 1 around the origin (z up, see `stiv.views`). Each solid has
up to eight faces, numbered counter-clockwise around its sides, then top and bottom. Faces take
turns in two colours, number `start` and `start + step` of a wheel of eight: neighbours around its
sides differ, so views do, yet a picture of two of them tells the colours of all faces that it does
not show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import cos, pi, sin

import numpy as np

from ..shapes.scene import COLOURS, RGB, SPLITS, Split

Combination = tuple[str, int, int]  # solid, start, step

SOLIDS = ("cube", "sphere", "cone", "cylinder", "torus", "pyramid", "octahedron")
WHEEL: dict[str, RGB] = {
    **{name: COLOURS[name] for name in ("red", "orange", "yellow", "green", "cyan", "blue")},
    "purple": COLOURS["purple"],
    "black": (40, 40, 48),
}
STEPS = (1, 3, 5, 7)
"""From one colour of the wheel to the other: every two colours meet that lie an odd way apart."""

#: Bottom, top and reach to the side of each solid, of radius 1.
EXTENT: dict[str, tuple[float, float, float]] = {
    "cube": (-0.577, 0.577, 0.577),
    "sphere": (-0.8, 0.8, 0.8),
    "cone": (-0.6, 1.0, 0.8),
    "cylinder": (-0.8, 0.8, 0.6),
    "torus": (-0.3, 0.3, 0.98),
    "pyramid": (-0.5, 1.0, 0.6),
    "octahedron": (-1.0, 1.0, 1.0),
}
INPUT_ELEVATIONS = (-10.0, 45.0)
"""Degrees, lowest and highest of the input view's camera."""

_TWO_SHARE = 0.25
_BASES = ("cube", "cylinder", "torus", "sphere")  # what something can stand on


@dataclass(frozen=True)
class Solid:
    """One solid: `radius` of the ball around it, `centre` of that ball, turned by `yaw` degrees."""

    kind: str
    start: int
    step: int
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float = 1.0
    yaw: float = 0.0

    def colours(self) -> np.ndarray:
        """(8, 3) of its faces, 0 to 255."""
        wheel = list(WHEEL.values())
        two = (wheel[self.start], wheel[(self.start + self.step) % len(wheel)])
        return np.array([two[face % 2] for face in range(8)])


@dataclass(frozen=True)
class ViewScene:
    """An object, and where its input view is seen from, in degrees."""

    solids: tuple[Solid, ...]
    elevation: float
    azimuth: float

    def is_held_out(self) -> bool:
        """True when any solid's combination is kept out of training."""
        return any(is_held_out(s.kind, s.start, s.step) for s in self.solids)


def is_held_out(kind: str, start: int, step: int) -> bool:
    """The fixed split: a sixth of the combinations of solid and colours is never trained on.

    As in `training.shapes`, every pair of two attributes is seen in training.
    """
    return (SOLIDS.index(kind) + start + 5 * STEPS.index(step)) % 6 == 0


@cache
def combinations(split: Split) -> tuple[Combination, ...]:
    """All (solid, start, step) of a split, in a fixed order."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: give one of {', '.join(SPLITS)}")
    return tuple(
        (kind, start, step)
        for kind in SOLIDS
        for start in range(len(WHEEL))
        for step in STEPS
        if split == "any" or is_held_out(kind, start, step) == (split == "held_out")
    )


def scene_from_seed(seed: int, split: Split = "train") -> ViewScene:
    """The scene that belongs to a seed; the splits' scenes are unrelated. Of two solids, one
    stands on the other or beside it, and both are of the split."""
    rng = np.random.default_rng([seed, SPLITS.index(split), 3])
    if rng.random() >= _TWO_SHARE:
        solids = (_draw(rng, split, SOLIDS, _between(rng, 0.85, 1.0)),)
    elif rng.random() < 0.6:
        solids = _stacked(rng, split)
    else:
        solids = _side_by_side(rng, split)
    return ViewScene(solids, _between(rng, *INPUT_ELEVATIONS), _between(rng, 0.0, 360.0))


def _draw(rng: np.random.Generator, split: Split, kinds: tuple[str, ...], radius: float) -> Solid:
    kind = kinds[rng.integers(len(kinds))]
    options = [c for c in combinations(split) if c[0] == kind]
    return Solid(*options[rng.integers(len(options))], radius=radius, yaw=_between(rng, 0.0, 360.0))


def _stacked(rng: np.random.Generator, split: Split) -> tuple[Solid, Solid]:
    lower = _draw(rng, split, _BASES, _between(rng, 0.6, 0.75))
    upper = _draw(rng, split, SOLIDS, _between(rng, 0.4, 0.55))
    top, bottom = EXTENT[lower.kind][1] * lower.radius, EXTENT[upper.kind][0] * upper.radius
    return _fitted(lower, replace(upper, centre=(0.0, 0.0, top - bottom)))


def _side_by_side(rng: np.random.Generator, split: Split) -> tuple[Solid, Solid]:
    one = _draw(rng, split, SOLIDS, _between(rng, 0.45, 0.6))
    other = _draw(rng, split, SOLIDS, _between(rng, 0.45, 0.6))
    apart = EXTENT[one.kind][2] * one.radius + EXTENT[other.kind][2] * other.radius
    around = _between(rng, 0.0, 2 * pi)
    # On one floor.
    height = EXTENT[one.kind][0] * one.radius - EXTENT[other.kind][0] * other.radius
    centre = (apart * cos(around), apart * sin(around), height)
    return _fitted(one, replace(other, centre=centre))


def _fitted(one: Solid, other: Solid) -> tuple[Solid, Solid]:
    """Moved and scaled so that the ball around the balls of both is that of radius 1."""
    place = np.array(one.centre)
    apart = np.array(other.centre) - place
    distance = float(np.linalg.norm(apart))
    low = min(-one.radius, distance - other.radius)
    high = max(one.radius, distance + other.radius)
    middle, scale = place + apart / distance * (low + high) / 2, 2 / (high - low)
    one, other = (
        replace(
            solid,
            centre=tuple(float(x) for x in (np.array(solid.centre) - middle) * scale),
            radius=solid.radius * scale,
        )
        for solid in (one, other)
    )
    return one, other


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))
