"""What a clip of the shapes domain shows, read off its pixels without any learned model.

The background is the colour of the frame's border, the object what differs from it. Its colour is
that of its inner pixels; its shape the best match among rotated templates of the renderer; its
motion is read from the tracks of its centre, its area and its angle. Made for one object.

Legend: T frames, H, W pixels, A templates, G side of the normalised grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..shapes.render import coverage
from ..shapes.scene import BACKGROUNDS, COLOURS, RGB, SHAPES

NONE = "none"  # what cannot be recognised is never right

_DIFFERS = 45.0  # distance from the background, in levels, of a pixel that may be the object's
_MIN_AREA = 0.004  # share of the frame below which there is no object
_MATCH = 0.35  # largest template error, relative to the object's area, that counts as a shape
_MOVES = 0.12  # range of the centre, in frame sides, above which an object travels
_GRID, _REACH = 32, 1.7  # the normalised grid spans +-_REACH radii of the circle of equal area
_SYMMETRY = {"circle": 1, "square": 90, "triangle": 120, "cross": 90}  # degrees
_STEP = 5  # degrees between templates


@dataclass(frozen=True)
class Reading:
    """What was recognised; `motion` is "still" for an object at rest, all else may be "none"."""

    colour: str
    shape: str
    motion: str
    background: str


@dataclass(frozen=True)
class Tracks:
    """The object over the frames in which it is visible, in frame sides (area in frames)."""

    centre: np.ndarray  # (K, 2)
    area: np.ndarray  # (K,)
    angle: np.ndarray  # (K,) radians, continuous


def recognise(clip: np.ndarray) -> Reading:
    """Reads a clip, uint8 (T, H, W, 3)."""
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8:
        raise ValueError(f"a clip is uint8 (T, H, W, 3), not {clip.dtype} {clip.shape}")
    pixels = clip.astype(np.float32)
    ground = _border_colour(pixels)
    background = _nearest(ground, BACKGROUNDS)
    inner = _object_colour(pixels, ground)
    if inner is None:
        return Reading(NONE, NONE, NONE, background)
    cover = _coverage(pixels, ground, inner)
    area = cover.mean((1, 2))
    visible = area > _MIN_AREA
    if visible.sum() < max(1, 0.75 * len(clip)):
        return Reading(_nearest(inner, COLOURS), NONE, NONE, background)
    cover, area = cover[visible], area[visible]
    centre = _centres(cover)
    shape, angle = _match(_normalised(cover, centre, area))
    motion = motion_of(Tracks(centre, area, angle)) if len(clip) > 1 else "still"
    return Reading(_nearest(inner, COLOURS), shape, motion, background)


def colour_of(clip: np.ndarray) -> str:
    """The name of the object's colour in a clip or frames, uint8 (T, H, W, 3), or "none"."""
    inner = object_colour(clip)
    return NONE if inner is None else _nearest(inner, COLOURS)


def centres(clip: np.ndarray) -> np.ndarray:
    """Where the object's centre is, (T, 2) of x and y in frame sides, in a clip (T, H, W, 3) in
    levels; NaN in frames without an object."""
    pixels = clip.astype(np.float32)
    ground = _border_colour(pixels)
    inner = _object_colour(pixels, ground)
    found = np.full((len(clip), 2), np.nan, np.float32)
    if inner is not None:
        cover = _coverage(pixels, ground, inner)
        visible = cover.mean((1, 2)) > _MIN_AREA
        found[visible] = _centres(cover[visible])
    return found


def object_colour(clip: np.ndarray) -> np.ndarray | None:
    """The object's colour in levels, (3,), in a clip (T, H, W, 3); None without an object."""
    pixels = clip.astype(np.float32)
    return _object_colour(pixels, _border_colour(pixels))


def motion_of(tracks: Tracks) -> str:
    """The motion that the tracks show, "still", or "none" for what the domain has no name of."""
    low, high = tracks.centre.min(0), tracks.centre.max(0)
    span = high - low
    if span.max() < _MOVES:
        return _motion_in_place(tracks)
    if span.min() > max(0.4 * span.max(), _MOVES):
        middle = tracks.centre - (low + high) / 2
        around = np.unwrap(np.arctan2(middle[:, 1], middle[:, 0]))
        return "orbit" if abs(around[-1] - around[0]) > 0.7 * 2 * np.pi else NONE
    axis = int(np.argmax(span))
    path = tracks.centre[:, axis]
    net = path[-2:].mean() - path[:2].mean()
    steps = np.diff(path)
    if abs(net) > 0.7 * span[axis] and (steps * np.sign(net) > 0).mean() >= 0.8:
        return (("left", "right"), ("up", "down"))[axis][int(net > 0)]
    turned = steps[np.abs(steps) > 0.1 * np.abs(steps).max()]
    if axis == 1 and (np.diff(np.sign(turned)) != 0).sum() >= 2:
        return "bounce"
    return NONE


def _motion_in_place(tracks: Tracks) -> str:
    growth = tracks.area[-3:].mean() / tracks.area[:3].mean()
    if growth > 1.8:
        return "grow"
    if growth < 0.55:
        return NONE  # shrinks
    return "spin" if abs(tracks.angle[-1] - tracks.angle[0]) > np.pi / 2 else "still"


def _border_colour(pixels: np.ndarray) -> np.ndarray:
    """The median of the two outermost pixels on every side of all frames."""
    edges = (pixels[:, :2], pixels[:, -2:], pixels[:, :, :2], pixels[:, :, -2:])
    return np.median(np.concatenate([e.reshape(-1, 3) for e in edges]), axis=0)


def _object_colour(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray | None:
    """The object's colour: the median of what is clearly its inside; None without an object."""
    distance = np.linalg.norm(pixels - ground, axis=-1)
    candidate = distance > _DIFFERS
    if candidate.mean() < _MIN_AREA:
        return None
    inside = distance > 0.8 * np.percentile(distance[candidate], 80)
    return np.median(pixels[inside], axis=0)


def _coverage(pixels: np.ndarray, ground: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background towards the object's colour, 0 to 1 (T, H, W)."""
    towards = inner - ground
    along = (pixels - ground) @ (towards / (towards @ towards))
    along[along < 0.2] = 0.0  # gradients and noise of the background
    return np.clip(along, 0.0, 1.0)


def _centres(cover: np.ndarray) -> np.ndarray:
    size = np.array([cover.shape[2], cover.shape[1]], dtype=np.float32)
    x, y = ((np.arange(n) + 0.5) / n for n in (cover.shape[2], cover.shape[1]))
    mass = cover.sum((1, 2))
    centre = np.stack([cover.sum(1) @ x, cover.sum(2) @ y], axis=-1) / mass[:, None]
    return np.clip(centre, 0, 1 - 0.5 / size)


def _nearest(colour: np.ndarray, names: Mapping[str, RGB]) -> str:
    return min(names, key=lambda n: float(np.linalg.norm(colour - np.array(names[n], np.float32))))


def _normalised(cover: np.ndarray, centre: np.ndarray, area: np.ndarray) -> np.ndarray:
    """The object of every frame on a grid around its centre, scaled by its area: (T, G, G)."""
    frames, height, width = cover.shape
    radius = np.sqrt(area / np.pi)[:, None]  # frames are square: sides of one length
    offset = (np.arange(_GRID) + 0.5) / _GRID * 2 * _REACH - _REACH
    x = (centre[:, :1] + radius * offset) * width - 0.5
    y = (centre[:, 1:] + radius * offset) * height - 0.5
    padded = np.pad(cover, ((0, 0), (1, 1), (1, 1)))
    x, y = (np.clip(v + 1, 0, n + 1 - 1e-3) for v, n in ((x, width), (y, height)))
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = (x - x0)[:, None, :], (y - y0)[:, :, None]
    t = np.arange(frames)[:, None, None]
    rows, columns = y0[:, :, None], x0[:, None, :]
    above = padded[t, rows, columns] * (1 - fx) + padded[t, rows, columns + 1] * fx
    below = padded[t, rows + 1, columns] * (1 - fx) + padded[t, rows + 1, columns + 1] * fx
    return above * (1 - fy) + below * fy


@cache
def _templates() -> tuple[list[tuple[str, float]], np.ndarray]:
    """Every shape at every angle it can be told apart at, on the normalised grid: names and
    angles (A), and pictures (A, G * G)."""
    names, pictures = [], []
    for shape in SHAPES:
        angles = np.radians(np.arange(0, _SYMMETRY[shape], _STEP))
        centre = np.full((len(angles), 2), 0.5)
        trial = coverage(shape, centre[:1], np.array([0.2]), angles[:1], 4 * _GRID).mean()
        per_radius = np.sqrt(trial / np.pi) / 0.2  # radius of the circle of equal area
        radius = np.full(len(angles), 1 / (2 * _REACH * per_radius))
        fine = coverage(shape, centre, radius, angles, 4 * _GRID)
        pictures.append(fine.reshape(len(angles), _GRID, 4, _GRID, 4).mean((2, 4)))
        names += [(shape, float(a)) for a in angles]
    return names, np.concatenate(pictures).reshape(len(names), -1)


def _match(objects: np.ndarray) -> tuple[str, np.ndarray]:
    """The shape that fits all frames best, and its angle in every frame, made continuous."""
    names, pictures = _templates()
    flat = objects.reshape(len(objects), -1)
    error = (flat**2).sum(1)[:, None] - 2 * flat @ pictures.T + (pictures**2).sum(1)
    error /= np.pi / (2 * _REACH / _GRID) ** 2  # the object's area in grid cells
    kinds = np.array([n for n, _ in names])
    angles = np.array([a for _, a in names])
    best = {s: error[:, kinds == s].min(1).mean() for s in SHAPES}
    shape = min(best, key=best.__getitem__)
    period = np.radians(_SYMMETRY[shape])
    at = angles[kinds == shape][error[:, kinds == shape].argmin(1)]
    angle = np.unwrap(at, period=period) if shape != "circle" else np.zeros(len(at))
    return (shape if best[shape] < _MATCH else NONE), angle
