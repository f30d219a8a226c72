"""Scenes of the shapes domain: what is in a clip, as plain data.

Positions, radii and travels are fractions of the frame's side, x to the right and y down, so a
scene can be rendered at any size and with any number of frames. Time u runs from 0 (first frame)
to 1 (last frame).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from math import pi
from typing import Literal, NamedTuple

import numpy as np

RGB = tuple[int, int, int]
Combination = tuple[str, str, str]  # colour, shape, motion
Split = Literal["train", "held_out", "any"]

SPLITS: tuple[Split, ...] = ("train", "held_out", "any")

SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("left", "right", "up", "down", "bounce", "orbit", "grow", "spin")
DIRECTIONS = ("left", "right", "up", "down")
COLOURS: dict[str, RGB] = {
    "red": (225, 35, 40),
    "green": (45, 195, 60),
    "blue": (45, 85, 235),
    "yellow": (250, 225, 45),
    "purple": (170, 50, 215),
    "orange": (250, 135, 25),
    "cyan": (55, 220, 230),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, RGB] = {
    "black": (14, 14, 16),
    "gray": (122, 122, 124),
    "navy": (18, 24, 88),
    "maroon": (98, 14, 32),
    "dark green": (14, 76, 36),
    "beige": (208, 184, 144),
}

COLOUR_JITTER = 8  # levels (of 255) a rendered colour may differ from its name, per channel
GROW_FROM, GROW_TO = 0.55, 1.35  # radius of a growing object, relative to `SceneObject.radius`
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
_HEADING = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_TWO_OBJECT_SHARE = 0.25
_FRAME = (0.0, 0.0, 1.0, 1.0)


class Pose(NamedTuple):
    """Where an object is at the times asked for: centre (T, 2), radius (T,), angle (T,) radians."""

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True)
class SceneObject:
    """One object. `x, y` is where a straight path starts, where a bouncing object lands, the
    centre of an orbit, and otherwise where the object stays.

    `travel` is the length of a straight path, the height of a hop or the radius of an orbit;
    `turns` the (signed) turns of an orbit or a spin, or the whole number of hops of a bounce;
    `phase` where in its cycle a hop or an orbit starts, in hops or turns.
    """

    shape: str
    colour: str
    motion: str
    rgb: RGB
    x: float
    y: float
    radius: float
    angle: float = 0.0
    travel: float = 0.0
    turns: float = 0.0
    phase: float = 0.0

    def pose(self, u: np.ndarray) -> Pose:
        """The object's pose at times `u` (T,) in [0, 1]."""
        x, y = np.full_like(u, self.x), np.full_like(u, self.y)
        radius, angle = np.full_like(u, self.radius), np.full_like(u, self.angle)
        if self.motion in _HEADING:
            dx, dy = _HEADING[self.motion]
            x, y = x + dx * self.travel * u, y + dy * self.travel * u
        elif self.motion == "bounce":
            y = y - self.travel * np.abs(np.sin(pi * (self.turns * u + self.phase)))
        elif self.motion == "orbit":
            around = 2 * pi * (self.turns * u + self.phase)
            x, y = x + self.travel * np.cos(around), y + self.travel * np.sin(around)
        elif self.motion == "grow":
            radius = radius * (GROW_FROM + (GROW_TO - GROW_FROM) * u)
        elif self.motion == "spin":
            angle = angle + 2 * pi * self.turns * u
        return Pose(np.stack([x, y], axis=-1), radius, angle)

    def reverse(self) -> SceneObject | None:
        """The object whose clip is this one's played backwards; None where no motion says it."""
        if self.motion in _HEADING:
            dx, dy = _HEADING[self.motion]
            x, y = self.x + dx * self.travel, self.y + dy * self.travel
            return replace(self, motion=OPPOSITE[self.motion], x=x, y=y)
        if self.motion == "bounce":  # |sin| is even and the hops are whole
            return replace(self, phase=-self.phase)
        if self.motion == "orbit":
            return replace(self, phase=self.phase + self.turns, turns=-self.turns)
        if self.motion == "spin":
            angle = self.angle + 2 * pi * self.turns
            return replace(self, angle=angle, turns=-self.turns)
        return None


@dataclass(frozen=True)
class Scene:
    """A clip: a named background with its colours at the top and bottom edge, and its objects."""

    background: str
    top: RGB
    bottom: RGB
    objects: tuple[SceneObject, ...]

    def reverse(self) -> Scene | None:
        """The scene played backwards, or None where the domain has no name for it."""
        objects = tuple(o.reverse() for o in self.objects)
        return None if None in objects else replace(self, objects=objects)

    def is_held_out(self) -> bool:
        """True when any object's combination is kept out of training."""
        return any(is_held_out(o.colour, o.shape, o.motion) for o in self.objects)


def is_allowed(shape: str, motion: str) -> bool:
    """A spinning circle looks like a resting one, so the domain has none."""
    return not (shape == "circle" and motion == "spin")


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """The fixed split: one sixth of the combinations never occurs in training.

    Over any two of the three attributes the third takes consecutive residues, so every pair of
    attributes is seen in training and the held-out set is balanced.
    """
    c, s, m = list(COLOURS).index(colour), SHAPES.index(shape), MOTIONS.index(motion)
    return (c + s + 5 * m) % 6 == 0


@cache
def combinations(split: Split) -> tuple[Combination, ...]:
    """All (colour, shape, motion) of a split, in a fixed order."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: give one of {', '.join(SPLITS)}")
    return tuple(
        (c, s, m)
        for m in MOTIONS
        for s in SHAPES
        for c in COLOURS
        if is_allowed(s, m) and (split == "any" or is_held_out(c, s, m) == (split == "held_out"))
    )


def sample_scene(
    rng: np.random.Generator,
    split: Split = "train",
    *,
    objects: int | None = None,
    combination: Combination | None = None,
) -> Scene:
    """A random scene whose every combination belongs to `split`; one object, or two in a quarter
    of the scenes unless `objects` says how many (1 or 2). With a `combination` (colour, shape,
    motion) the scene shows exactly that, as its only object."""
    if combination is not None:
        objects = 1
    elif objects is None:
        objects = 2 if rng.random() < _TWO_OBJECT_SHARE else 1
    if objects not in (1, 2):
        raise ValueError(f"objects is {objects}: a scene has 1 or 2")
    background = str(rng.choice(list(BACKGROUNDS)))
    base = _jitter(rng, BACKGROUNDS[background])
    slope = rng.integers(-5, 6)  # a soft vertical gradient
    top, bottom = (_clip(c + k for c in base) for k in (-slope, slope))
    placed = _one(rng, combination or _pick(rng, split)) if objects == 1 else _two(rng, split)
    return Scene(background, top, bottom, placed)


def scene_from_seed(seed: int, split: Split = "train") -> Scene:
    """The scene that belongs to a seed; the splits' scenes are unrelated."""
    return sample_scene(np.random.default_rng([seed, SPLITS.index(split)]), split)


def _clip(values: Iterable[float]) -> RGB:
    return tuple(int(min(max(v, 0), 255)) for v in values)


def _jitter(rng: np.random.Generator, rgb: RGB) -> RGB:
    return _clip(np.add(rgb, rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, 3)))


def _pick(
    rng: np.random.Generator,
    split: Split,
    motions: tuple[str, ...] = MOTIONS,
    taken: frozenset[str] = frozenset(),
) -> Combination:
    """A combination of the split with an evenly drawn motion and no colour that is `taken`."""
    motion = motions[rng.integers(len(motions))]
    options = [c for c in combinations(split) if c[2] == motion and c[0] not in taken]
    return options[rng.integers(len(options))]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _one(rng: np.random.Generator, combination: Combination) -> tuple[SceneObject]:
    return (_place(rng, combination, _between(rng, 0.14, 0.2), _FRAME),)


def _two(rng: np.random.Generator, split: Split) -> tuple[SceneObject, SceneObject]:
    """Two objects of different colours, each in its own half, moving within it."""
    side_by_side = rng.random() < 0.5
    motions = ("up", "down", "bounce") if side_by_side else ("left", "right")
    motions += ("grow", "spin")
    boxes = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    if not side_by_side:
        boxes = [(0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)]
    objects: list[SceneObject] = []
    for box in boxes:
        picked = _pick(rng, split, motions, frozenset(o.colour for o in objects))
        objects.append(_place(rng, picked, _between(rng, 0.135, 0.165), box))
    return tuple(objects)


def _place(
    rng: np.random.Generator,
    combination: Combination,
    radius: float,
    box: tuple[float, float, float, float],
) -> SceneObject:
    """An object that moves within `box` (left, top, right, bottom)."""
    colour, shape, motion = combination
    left, top, right, bottom = box
    if motion == "grow":  # the largest radius has to fit as well
        radius = min(radius, (0.225 if box == _FRAME else 0.2) / GROW_TO)
    if motion == "orbit":
        radius = min(radius, 0.17)
    reach = radius * (GROW_TO if motion == "grow" else 1.0) * 1.1  # corners may leave the box
    low = np.array([left, top]) + reach
    high = np.maximum(np.array([right, bottom]) - reach, low)
    middle = (low + high) / 2
    x, y = (float(v) for v in rng.uniform(low, high))
    angle = _between(rng, -0.12, 0.12)
    travel = turns = phase = 0.0
    if motion in _HEADING:
        heading = np.array(_HEADING[motion])
        axis = int(np.argmax(np.abs(heading)))
        span = high[axis] - low[axis]
        travel = float(span * rng.uniform(0.75, 1.0))
        start = rng.uniform(0.0, span - travel)
        begin = low[axis] + start if heading[axis] > 0 else high[axis] - start
        x, y = (float(begin), y) if axis == 0 else (x, float(begin))
    elif motion == "bounce":
        travel = float((high[1] - low[1]) * rng.uniform(0.6, 0.9))
        y = float(rng.uniform(low[1] + travel, high[1]))
        turns, phase = float(rng.integers(2, 4)), _between(rng, 0.0, 1.0)
    elif motion == "orbit":
        x, y = (float(v) for v in middle + rng.uniform(-0.03, 0.03, 2))
        travel = _between(rng, 0.22, 0.28)
        turns, phase = float(rng.choice([-1.0, 1.0])), _between(rng, 0.0, 1.0)
    elif motion == "spin":
        turns = float(rng.choice([-1.0, 1.0])) * _between(rng, 0.5, 0.75)
        angle = _between(rng, 0.0, 2 * pi)
    elif motion == "grow":
        x, y = (float(v) for v in middle + (np.array([x, y]) - middle) * 0.8)
    rgb = _jitter(rng, COLOURS[colour])
    return SceneObject(shape, colour, motion, rgb, x, y, radius, angle, travel, turns, phase)
