"""Anti-aliased rendering of scenes: signed distances on the pixel grid, one pixel of soft edge.

Legend: N objects drawn at once (an object at one time), T frames, H = W = size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scene import Scene

_SIN60 = np.float32(np.sqrt(3) / 2)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 1.0


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.9


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Equilateral, pointing up, centred on its centroid."""
    return np.maximum(y, _SIN60 * np.abs(x) - 0.5 * y) - 0.68


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1.2, np.minimum(x, y) - 0.4)


#: Signed distance to each shape of unit radius (about the same area for all but the cross).
DISTANCE = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross}


def coverage(
    shape: str, centre: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int
) -> np.ndarray:
    """How much of each pixel the shape covers: float32 (N, size, size) in [0, 1].

    centre (N, 2) and radius (N,) are in frame sides, angle (N,) in radians (clockwise on screen).
    """
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    inverse = (1.0 / radius).astype(np.float32)[:, None]
    cos, sin = (f(angle).astype(np.float32)[:, None] for f in (np.cos, np.sin))
    x = (grid - centre[:, :1].astype(np.float32)) * inverse  # (N, W)
    y = (grid - centre[:, 1:].astype(np.float32)) * inverse  # (N, H)
    across = (cos * x)[:, None, :] + (sin * y)[:, :, None]
    down = (cos * y)[:, :, None] - (sin * x)[:, None, :]
    distance = DISTANCE[shape](across, down)
    pixels = (radius * size).astype(np.float32)[:, None, None]
    return np.clip(0.5 - distance * pixels, 0.0, 1.0)


def _render(scene: Scene, u: np.ndarray, size: int) -> np.ndarray:
    """The scene at times u (T,): float32 (T, size, size, 3) in [0, 255]."""
    fall = ((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None, None]
    top, bottom = (np.array(c, dtype=np.float32) for c in (scene.top, scene.bottom))
    image = np.broadcast_to(top + (bottom - top) * fall, (len(u), size, size, 3)).copy()
    for item in scene.objects:
        cover = coverage(item.shape, *item.pose(u), size)[..., None]
        image += cover * (np.array(item.rgb, dtype=np.float32) - image)
    return image


def frame_times(frames: int) -> np.ndarray:
    """Times in [0, 1] of a clip's frames."""
    return np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)


def render_clip(scene: Scene, frames: int = 16, size: int = 64) -> np.ndarray:
    """The clip of a scene: uint8 (frames, size, size, 3). The same scene gives the same bytes."""
    return render_times(scene, frame_times(frames), size)


def render_times(scene: Scene, u: np.ndarray, size: int = 64) -> np.ndarray:
    """The scene at times u (T,) in [0, 1]: uint8 (T, size, size, 3)."""
    return np.round(_render(scene, u, size)).astype(np.uint8)


def render_frame(scene: Scene, u: float, size: int = 64) -> np.ndarray:
    """One frame of a scene at time u in [0, 1]: uint8 (size, size, 3)."""
    return render_times(scene, np.array([u]), size)[0]


def render_clips(scenes: Sequence[Scene], frames: int = 16, size: int = 64) -> np.ndarray:
    """Several clips: uint8 (n, frames, size, size, 3)."""
    return np.stack([render_clip(s, frames, size) for s in scenes])
