"""A picture of a rig: the cameras around the object, for the artist."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..stiv.views import Camera, Rig, look_at

_SHARPEN = 3  # drawn larger by this, then scaled down: Pillow draws hard edges
_VIEWER = (26.0, -24.0)  # elevation and azimuth that the rig is drawn from
_PAPER, _INK, _FAINT = "#ffffff", "#2b2f36", "#c9ced6"
_INPUT, _ABOVE, _BELOW, _OBJECT = "#2e9e5b", "#2f6fdb", "#e07a1f", "#aab2bd"
_MOST_NUMBERS = 24  # more would cover each other: then some are left out


def draw_rig(rig: Rig, size: int = 512) -> Tensor:
    """(size, size, 3) in [0, 1]: the object, the input camera and the rig's cameras, numbered.

    Cameras above the horizon are blue, those below orange, the input view's is green. Where the
    input view's elevation is not known, it is drawn on the horizon.
    """
    side = size * _SHARPEN
    image = Image.new("RGB", (side, side), _PAPER)
    sheet = _Sheet(ImageDraw.Draw(image), side, max(c.distance for c in rig.cameras))
    sheet.ground()
    entries = [(Camera(0, 0, min(c.distance for c in rig.cameras)), "input", _INPUT)]
    every = -(-len(rig.cameras) // _MOST_NUMBERS)
    for number, camera in enumerate(rig.cameras, 1):
        label = str(number) if (number - 1) % every == 0 else ""
        entries.append((camera, label, _BELOW if camera.elevation < 0 else _ABOVE))
    entries.sort(key=lambda entry: -sheet.depth(_place(entry[0])))  # far ones first
    is_drawn = False
    for camera, label, colour in entries:
        if not is_drawn and sheet.depth(_place(camera)) < sheet.depth(np.zeros(3)):
            sheet.ball()
            is_drawn = True
        sheet.camera(camera, label, colour)
    if not is_drawn:
        sheet.ball()
    sheet.caption(f"{rig.name}: {len(rig.cameras)} view{'s' if len(rig.cameras) > 1 else ''}")
    image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)


def _matrix(elevation: float, azimuth: float, distance: float) -> np.ndarray:
    return look_at(*(torch.tensor([value]) for value in (elevation, azimuth, distance)))[0].numpy()


def _place(camera: Camera) -> np.ndarray:
    """(3,) where the camera stands in the world."""
    matrix = _matrix(camera.elevation, camera.azimuth, camera.distance)
    return -matrix[:3, :3].T @ matrix[:3, 3]


class _Sheet:
    """Draws in the world's coordinates, seen from the viewer without perspective."""

    def __init__(self, draw: ImageDraw.ImageDraw, side: int, reach: float):
        self.draw, self.side, self.reach = draw, side, reach
        self.viewer = _matrix(*_VIEWER, 1.0)[:3, :3]
        self.line = max(1, side // 340)
        self.font = ImageFont.load_default(size=side // 24)

    def depth(self, point: np.ndarray) -> float:
        """Away from the viewer."""
        return float(self.viewer[2] @ point)

    def at(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Places on the sheet of points (n, 3)."""
        flat = points @ self.viewer[:2].T * (0.4 * self.side / self.reach)
        centre = np.array([0.5, 0.48]) * self.side
        return [tuple(place) for place in (flat + centre).tolist()]

    def ground(self) -> None:
        """The horizon at the distance of the farthest camera, and the input view's direction."""
        turn = np.linspace(0, 2 * np.pi, 181)
        ring = self.reach * np.stack([np.cos(turn), np.sin(turn), 0 * turn], -1)
        self.draw.line(self.at(ring), fill=_FAINT, width=self.line, joint="curve")
        ahead = np.array([[0.0, 0.0, 0.0], [self.reach, 0.0, 0.0]])
        self.draw.line(self.at(ahead), fill=_FAINT, width=self.line)

    def ball(self) -> None:
        """The object."""
        (x, y), *_ = self.at(np.zeros((1, 3)))
        radius = max(0.4 * self.side / self.reach * 0.8, 0.012 * self.side)
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, fill=_OBJECT, outline=_INK, width=self.line)

    def camera(self, camera: Camera, label: str, colour: str) -> None:
        """A small pyramid that opens towards the object, on a thin post, with its label."""
        matrix = _matrix(camera.elevation, camera.azimuth, camera.distance)
        place, half, length = _place(camera), 0.11 * self.reach, 0.2 * self.reach
        corners = np.array([(x, y, length) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        corners[:, :2] *= half
        corners = (corners - matrix[:3, 3]) @ matrix[:3, :3]
        foot = place * [1, 1, 0]
        self.draw.line(self.at(np.stack([place, foot])), fill=_FAINT, width=self.line)
        self.draw.polygon(self.at(corners), fill=_lighter(colour), outline=colour, width=self.line)
        for corner in corners:
            self.draw.line(self.at(np.stack([place, corner])), fill=colour, width=self.line)
        if label:
            self._label(place, label, colour)

    def _label(self, place: np.ndarray, label: str, colour: str) -> None:
        (x, y), *_ = self.at(place[None] * 1.13)
        width = self.draw.textlength(label, self.font)
        limit = self.side - width / 2 - 2 * self.line
        place = (min(max(x, self.side - limit), limit), y)
        outline = {"stroke_width": 2 * self.line, "stroke_fill": _PAPER}
        self.draw.text(place, label, fill=colour, font=self.font, anchor="mm", **outline)

    def caption(self, text: str) -> None:
        """A line at the foot of the sheet."""
        place = (0.5 * self.side, 0.965 * self.side)
        self.draw.text(place, text, fill=_INK, font=self.font, anchor="mm")


def _lighter(colour: str) -> tuple[int, int, int]:
    """Halfway to the paper."""
    return tuple((int(colour[i : i + 2], 16) + 255) // 2 for i in (1, 3, 5))
