"""Cameras of the multi-view task: rigs as data, and where their cameras stand.

The model is told no angles: the rig's cameras are the frames after the input view, in order, and a
model makes the views of the rig that it was trained with (paper, multi-view).

World: right-handed, z up, the object's centre at the origin. Elevation counts from the horizon,
azimuth from the x axis towards y: counter-clockwise seen from above. A camera looks at the origin
with its up side up; in its own axes x is right, y down, z forward.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CAMERAS = 256
"""Cameras of one rig, far more than any model makes views."""

_LONGEST = 10_000  # characters of a rig's text
_NUMBER = re.compile(r"[+-]?([0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9})")
_RANGES = {
    "elevation": (-90.0, 90.0),
    "azimuth": (-360.0, 360.0),
    "distance": (1.01, 1000.0),
    "field of view": (1.0, 170.0),
}


@dataclass(frozen=True)
class Camera:
    """Where one view is seen from. Raises ValueError for a value that is out of range."""

    elevation: float
    """Degrees above the horizon, -90 to 90; absolute, whatever the input view's is."""
    azimuth: float
    """Degrees around the object from the input view, -360 to 360, counter-clockwise from above."""
    distance: float = 4.0
    """From the object's centre, in radii of the ball around the object, 1.01 to 1000."""
    field_of_view: float = 30.0
    """Full angle across the picture in degrees, 1 to 170."""

    def __post_init__(self) -> None:
        values = (self.elevation, self.azimuth, self.distance, self.field_of_view)
        for value, (name, (low, high)) in zip(values, _RANGES.items(), strict=True):
            if not low <= value <= high:  # true for NaN too
                raise ValueError(f"{name} is {value:g}: use {low:g} to {high:g}")

    def __str__(self) -> str:
        """As `parse_cameras` reads it: "30,90", or "30,90,4,30" where it is not as usual."""
        values = [self.elevation, self.azimuth]
        if (self.distance, self.field_of_view) != (4.0, 30.0):
            values += [self.distance, self.field_of_view]
        return ",".join(map(_plain, values))


@dataclass(frozen=True)
class Rig:
    """Cameras in the order of the frames that they make. Raises ValueError without any."""

    name: str
    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.cameras) <= MOST_CAMERAS:
            raise ValueError(
                f"the rig {self.name!r} has {len(self.cameras)} cameras: use 1 to {MOST_CAMERAS}"
            )

    def __str__(self) -> str:
        """Its cameras, as `parse_cameras` reads them."""
        return "; ".join(map(str, self.cameras))

    def matrices(self, azimuth: float = 0.0) -> Tensor:
        """(N, 4, 4) world to camera, for an input view at `azimuth` degrees in the world."""
        poses = torch.tensor([(c.elevation, c.azimuth + azimuth, c.distance) for c in self.cameras])
        return look_at(*poses.unbind(-1))

    def focal_lengths(self) -> Tensor:
        """(N,) focal lengths, in sides of the square picture."""
        angles = torch.tensor([camera.field_of_view for camera in self.cameras])
        return 0.5 / torch.tan(torch.deg2rad(angles) / 2)


ZERO123PLUS = Rig(
    "zero123++",
    tuple(
        Camera(elevation, azimuth)
        for elevation, azimuth in zip((30, -20) * 3, range(30, 360, 60), strict=True)
    ),
)
"""The paper's six views. Its elevations and azimuths are the paper's; it is silent on distance and
field of view, which are ours: a ball around the object fills 96 % of the picture's side."""


def turntable(views: int, elevation: float = 20.0) -> Rig:
    """`views` cameras evenly around the object, the last one where the input view is seen from.

    Raises ValueError for no views or too many, and for an elevation that is out of range.
    """
    if not 1 <= views <= MOST_CAMERAS:
        raise ValueError(f"a turntable of {views} views: use 1 to {MOST_CAMERAS}")
    azimuths = (360 * (k + 1) / views % 360 for k in range(views))
    return Rig("turntable", tuple(Camera(elevation, a) for a in azimuths))


def parse_cameras(text: str) -> tuple[Camera, ...]:
    """Cameras from text, as in "30,90; -20,120; 10,0,4,30".

    Each has elevation and azimuth in degrees and, where wanted, distance and field of view;
    semicolons or line ends separate them. Raises ValueError quoting the piece and the remedy.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"cameras are {len(text)} characters long: at most {_LONGEST}")
    pieces = [piece.strip() for piece in re.split(r"[;\n]", text)]
    cameras = [_parse_camera(piece, number) for number, piece in enumerate(filter(None, pieces), 1)]
    if not 1 <= len(cameras) <= MOST_CAMERAS:
        raise ValueError(
            f"{len(cameras)} cameras are named: name 1 to {MOST_CAMERAS}, as in 30,90; -20,120"
        )
    return tuple(cameras)


def _parse_camera(piece: str, number: int) -> Camera:
    where = f"camera {number} ({piece[:40]!r})"
    values = [value.strip().removesuffix("°") for value in piece.split(",")]
    for value in values:
        if not _NUMBER.fullmatch(value):
            raise ValueError(
                f"{where}: {value[:20]!r} is not a number: write elevation,azimuth in degrees, as "
                "in 30,90"
            )
    if not 2 <= len(values) <= 4:
        raise ValueError(
            f"{where} has {len(values)} numbers: write elevation,azimuth and, where wanted, "
            "distance and field of view"
        )
    try:
        return Camera(*map(float, values))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def look_at(elevation_N: Tensor, azimuth_N: Tensor, distance_N: Tensor) -> Tensor:
    """(N, 4, 4) world to camera, for cameras that look at the origin; angles in degrees.

    A closed form, which at the poles keeps the direction of the azimuth.
    """
    up, around = (torch.deg2rad(angle.float()) for angle in (elevation_N, azimuth_N))
    zero = torch.zeros_like(up)
    right = torch.stack([-around.sin(), around.cos(), zero], -1)
    outward = torch.stack([up.cos() * around.cos(), up.cos() * around.sin(), up.sin()], -1)
    down = torch.stack([up.sin() * around.cos(), up.sin() * around.sin(), -up.cos()], -1)
    matrices = torch.eye(4).repeat(len(up), 1, 1)
    matrices[:, :3, :3] = torch.stack([right, down, -outward], 1)
    matrices[:, 2, 3] = distance_N.float()
    return matrices


def _plain(value: float) -> str:
    """Without needless zeros, and never with an exponent."""
    return f"{value:.9f}".rstrip("0").rstrip(".")
