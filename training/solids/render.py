"""Solids by ray casting: every hit in closed form (the torus by sphere tracing), flat faces in the
light of a lamp that is fixed to the world, on white, with soft edges.

Legend: N cameras, S side of the picture, R rays, P planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stiv.subject import frame_subject
from stiv.views import ZERO123PLUS, Camera, Rig

from .scene import Solid, ViewScene

MARGIN = 0.1
"""Of the input view; the default of STIV Multi-View, which frames pictures in the same way."""

_SAMPLES = 3  # rays per pixel and side
_AMBIENT = 0.7  # brightness of what the lamp does not reach
_LAMP = F.normalize(torch.tensor([0.5, 0.3, 0.8]), dim=0)
_FAR = float("inf")
_TINY = 1e-9  # what is divided by is never smaller
_TUBE, _RING = 0.3, 0.68  # radii of the torus
_TORUS_STEPS, _TORUS_NEAR = 32, 1e-3


@dataclass(frozen=True)
class Hits:
    """What the rays of all pixels' centres meet.

    colour: (N, S, S, 3) in [0, 1], white where they meet nothing. depth: (N, S, S) along the
    camera's axis, infinite there.
    """

    colour: Tensor
    depth: Tensor

    @property
    def is_hit(self) -> Tensor:
        """(N, S, S) bool."""
        return torch.isfinite(self.depth)


def view_set(scene: ViewScene, size: int = 64, rig: Rig = ZERO123PLUS) -> np.ndarray:
    """uint8 (1 + N, size, size, 3): the input view, framed on the object, and the rig's views."""
    camera = Rig("input", (Camera(scene.elevation, 0.0),))
    seen = trace(scene.solids, camera, size * _SAMPLES, scene.azimuth)
    framed = frame_subject(seen.colour[0], seen.is_hit[0].float(), size, MARGIN)
    return np.concatenate([_bytes(framed[None]), render(scene.solids, rig, size, scene.azimuth)])


def render(solids: Sequence[Solid], rig: Rig, size: int = 64, azimuth: float = 0.0) -> np.ndarray:
    """uint8 (N, size, size, 3) from a rig's cameras, for an input view at `azimuth` degrees."""
    fine = trace(solids, rig, size * _SAMPLES, azimuth).colour
    return _bytes(F.avg_pool2d(fine.movedim(-1, 1), _SAMPLES).movedim(1, -1))


def _bytes(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().to(torch.uint8).numpy()


def trace(solids: Sequence[Solid], rig: Rig, size: int, azimuth: float = 0.0) -> Hits:
    """One ray through the centre of every pixel of every camera's picture."""
    matrices = rig.matrices(azimuth)
    axes_N33, shift_N3 = matrices[:, :3, :3], matrices[:, :3, 3]
    spread_NS = ((torch.arange(size) + 0.5) / size - 0.5) / rig.focal_lengths()[:, None]
    x = spread_NS[:, None, :].expand(-1, size, -1)
    y = spread_NS[:, :, None].expand(-1, -1, size)
    # Forward is 1, so that t along a ray is its depth.
    rays = torch.stack([x, y, torch.ones_like(x)], -1).flatten(1, 2) @ axes_N33
    eyes = (-shift_N3[:, None] @ axes_N33).expand_as(rays)
    rays, eyes = rays.flatten(0, 1), eyes.flatten(0, 1)
    depth, colour = torch.full((len(rays),), _FAR), torch.ones(len(rays), 3)
    for solid in solids:
        _paint(solid, eyes, rays, depth, colour)
    shape = (len(matrices), size, size)
    return Hits(colour.view(*shape, 3), depth.view(shape))


def _paint(
    solid: Solid, eyes_R3: Tensor, rays_R3: Tensor, depth_R: Tensor, colour_R3: Tensor
) -> None:
    """Writes the solid's depth and colour where it is the nearest so far."""
    yaw = radians(solid.yaw)
    turn = torch.tensor([[cos(yaw), sin(yaw), 0], [-sin(yaw), cos(yaw), 0], [0, 0, 1.0]])
    # In the solid's own axes, where the ball around it has radius 1.
    origin = (eyes_R3 - torch.tensor(solid.centre)) @ (turn.T / solid.radius)
    ray = rays_R3 @ (turn.T / solid.radius)
    along, length = (origin * ray).sum(-1), (ray * ray).sum(-1)
    passes = (along**2 > length * ((origin * origin).sum(-1) - 1.001)) & (along < 0)
    index = passes.nonzero()[:, 0]
    origin, ray = origin[index], ray[index]
    t, normal, face = (_torus if solid.kind == "torus" else BODIES[solid.kind].meet)(origin, ray)
    is_nearest = t < depth_R[index]
    index, t, face = index[is_nearest], t[is_nearest], face[is_nearest]
    light = (F.normalize(normal[is_nearest], dim=-1) @ (turn @ _LAMP)).clamp(min=0)
    shade = _AMBIENT + (1 - _AMBIENT) * light
    colours = torch.from_numpy(solid.colours()).float() / 255
    depth_R[index], colour_R3[index] = t, colours[face] * shade[:, None]


@dataclass(frozen=True)
class Convex:
    """A convex body: what lies behind all its planes and inside a quadric around the z axis.

    planes: (P, 4) normal and offset, points with normal @ p <= offset are behind it; their faces
    are 0 … P - 1 unless `plane_faces` says otherwise. quadric: (q, l, m) of
    x² + y² + q z² + l z + m <= 0; its faces are four sectors, and four more below z = 0 where
    `has_halves`.
    """

    planes: Tensor
    plane_faces: tuple[int, ...] = ()
    quadric: tuple[float, float, float] | None = None
    has_halves: bool = False

    def meet(self, origin_R3: Tensor, ray_R3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where rays enter: t (R,), infinite where they miss; normal (R, 3) and face (R,)."""
        start, end, plane = self._between_planes(origin_R3, ray_R3)
        normal = self.planes[plane, :3]
        faces = self.plane_faces or tuple(range(len(self.planes)))
        face = torch.tensor(faces)[plane]
        if self.quadric is not None:
            enters, leaves = self._inside_quadric(origin_R3, ray_R3)
            point = origin_R3 + enters.nan_to_num(0, 0, 0)[:, None] * ray_R3
            is_later = enters > start
            normal = torch.where(is_later[:, None], self._gradient(point), normal)
            face = torch.where(is_later, self._sector(point), face)
            start, end = torch.maximum(start, enters), torch.minimum(end, leaves)
        return torch.where((start < end) & (start > 0), start, _FAR), normal, face

    def _between_planes(self, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        speed = _not_zero(ray @ self.planes[:, :3].T)
        t = (self.planes[:, 3] - origin @ self.planes[:, :3].T) / speed
        start, plane = torch.where(speed < 0, t, -_FAR).max(-1)
        return start, torch.where(speed > 0, t, _FAR).amin(-1), plane

    def _inside_quadric(self, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        q, linear, constant = self.quadric
        (ox, oy, oz), (dx, dy, dz) = origin.unbind(-1), ray.unbind(-1)
        a = _not_zero(dx * dx + dy * dy + q * dz * dz)
        b = ox * dx + oy * dy + q * oz * dz + linear * dz / 2
        c = ox * ox + oy * oy + q * oz * oz + linear * oz + constant
        root = (b * b - a * c).clamp(min=0).sqrt()
        low, high = torch.minimum((-b - root) / a, (-b + root) / a), (-b + root.copysign(a)) / a
        misses = b * b < a * c
        # Steeper than a cone's side: inside before the one root in one half, after the other in
        # the other half; of these the cone is the lower one.
        is_steep, is_down = a < 0, dz < 0
        start = torch.where(is_steep, torch.where(is_down, high, -_FAR), low)
        end = torch.where(is_steep & is_down, _FAR, torch.where(is_steep, low, high))
        return torch.where(misses & ~is_steep, _FAR, start), end

    def _gradient(self, point_R3: Tensor) -> Tensor:
        q, linear, _ = self.quadric
        x, y, z = point_R3.unbind(-1)
        return torch.stack([x, y, q * z + linear / 2], -1)

    def _sector(self, point_R3: Tensor) -> Tensor:
        sector = _sectors(point_R3, 4)
        return sector + 4 * (point_R3[:, 2] < 0) if self.has_halves else sector


def _torus(origin_R3: Tensor, ray_R3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `Convex.meet`, for a ring in the xy plane; its faces are eight sectors."""
    t, _, _ = _WASHER.meet(origin_R3, ray_R3)
    normal, pace = torch.zeros_like(ray_R3), ray_R3.norm(dim=-1)
    still = torch.isfinite(t).nonzero()[:, 0]  # rays that have met nothing yet
    for _ in range(_TORUS_STEPS):
        ray = ray_R3[still]
        point = origin_R3[still] + t[still, None] * ray
        away, normal[still] = _from_torus(point)
        is_past = ((point * ray).sum(-1) > 0) & (point.norm(dim=-1) > 1)
        t[still[is_past]] = _FAR
        goes_on = (away > _TORUS_NEAR) & ~is_past
        still = still[goes_on]
        t[still] += away[goes_on] / pace[still]
    t[still] = _FAR
    point = origin_R3 + t.nan_to_num(0, 0, 0)[:, None] * ray_R3
    return t, normal, _sectors(point, 8)


def _from_torus(point_R3: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance (R,) from the torus, and the direction (R, 3) in which it grows."""
    around = point_R3[:, :2].norm(dim=-1, keepdim=True).clamp(min=_TINY)
    middle = F.pad(point_R3[:, :2] / around * _RING, (0, 1))
    outward = point_R3 - middle
    return outward.norm(dim=-1) - _TUBE, outward


def _sectors(point_R3: Tensor, count: int) -> Tensor:
    """(R,) which of `count` equal sectors around the z axis, counter-clockwise from x."""
    turns = torch.atan2(point_R3[:, 1], point_R3[:, 0]) / (2 * torch.pi)
    return (turns * count).floor().long() % count


def _not_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < _TINY, _TINY, x)


def _planes(*planes: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(planes)


_HALF = 3**-0.5
_UP, _DOWN = (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)
_ROUND = ((1, 0), (0, 1), (-1, 0), (0, -1))
_DIAGONAL = ((1, 1), (-1, 1), (-1, -1), (1, -1))
_EVERYTHING = _planes((*_UP, 2.0), (*_DOWN, 2.0))

BODIES = {
    "cube": Convex(
        _planes(*((x, y, 0.0, _HALF) for x, y in _ROUND), (*_UP, _HALF), (*_DOWN, _HALF))
    ),
    "sphere": Convex(_EVERYTHING, quadric=(1.0, 0.0, -0.64), has_halves=True),
    "cylinder": Convex(
        _planes((*_UP, 0.8), (*_DOWN, 0.8)), plane_faces=(4, 5), quadric=(0.0, 0.0, -0.36)
    ),
    # x² + y² = (1 - z)² / 4, from its tip at z = 1 down to a base of radius 0.8 at z = -0.6.
    "cone": Convex(
        _planes((*_DOWN, 0.6), (*_UP, 1.0)), plane_faces=(4, 4), quadric=(-0.25, 0.5, -0.25)
    ),
    "pyramid": Convex(_planes(*((1.5 * x, 1.5 * y, 0.6, 0.6) for x, y in _ROUND), (*_DOWN, 0.5))),
    "octahedron": Convex(
        _planes(*((x, y, z, 1.0) for z in (1, -1) for x, y in _DIAGONAL)),
    ),
}
"""Bodies of radius 1; their extents are `training.solids.scene.EXTENT`."""

_WASHER = Convex(
    _planes((*_UP, _TUBE), (*_DOWN, _TUBE)), quadric=(0.0, 0.0, -((_RING + _TUBE) ** 2))
)
