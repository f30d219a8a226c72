"""The solids domain: pictures against closed forms, who hides whom, the split."""

from __future__ import annotations

from collections import Counter
from itertools import combinations as pairs_of
from math import asin, atan, hypot, pi, radians, tan

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stiv.views import ZERO123PLUS, Camera, Rig, look_at
from training.solids.render import BODIES, MARGIN, render, trace, view_set
from training.solids.scene import (
    EXTENT,
    INPUT_ELEVATIONS,
    SOLIDS,
    STEPS,
    WHEEL,
    Solid,
    combinations,
    is_held_out,
    scene_from_seed,
)

FOCAL = 0.5 / tan(pi / 12)  # of the usual field of view of 30 degrees, in sides of the picture
SIDE = 64  # pixels: a sphere that fills the scene is 1.2 of them from the edge
patient = settings(deadline=None, max_examples=15)  # renders; the machine may be busy
angles = st.floats(0, 360)


def from_(elevation: float, azimuth: float = 0.0) -> Rig:
    return Rig("one", (Camera(elevation, azimuth),))


def area(solid: Solid, elevation: float) -> float:
    """Share of the picture that the solid covers."""
    return float(trace([solid], from_(elevation), 1024).is_hit.float().mean())


def tangent(reach: float, distance: float, radius: float, sign: int) -> float:
    """Where the outer (1) or inner (-1) edge of a tube appears, in focal lengths."""
    return tan(atan(reach / distance) + sign * asin(radius / hypot(reach, distance)))


@pytest.mark.parametrize(
    ("kind", "elevation", "expected"),
    [
        ("sphere", 0, pi * tan(asin(0.8 / 4)) ** 2),
        ("sphere", 57, pi * tan(asin(0.8 / 4)) ** 2),
        ("cube", 0, (2 * 3**-0.5 / (4 - 3**-0.5)) ** 2),
        ("cube", 90, (2 * 3**-0.5 / (4 - 3**-0.5)) ** 2),
        ("cylinder", 90, pi * (0.6 / 3.2) ** 2),
        ("cylinder", -90, pi * (0.6 / 3.2) ** 2),
        ("cone", 90, pi * (0.8 / 4.6) ** 2),
        ("cone", -90, pi * (0.8 / 3.4) ** 2),
        ("pyramid", 90, (1.2 / 4.5) ** 2),
        ("pyramid", -90, (1.2 / 3.5) ** 2),
        ("octahedron", 90, 2 * (1 / 4) ** 2),
        ("torus", 90, pi * (tangent(0.68, 4, 0.3, 1) ** 2 - tangent(0.68, 4, 0.3, -1) ** 2)),
    ],
)
def test_areas_under_perspective(kind: str, elevation: float, expected: float) -> None:
    assert area(Solid(kind, 0, 1), elevation) == pytest.approx(FOCAL**2 * expected, rel=5e-3)


def test_a_sphere_anywhere_is_seen_where_it_is() -> None:
    solid = Solid("sphere", 0, 1, centre=(0.2, 0.3, -0.4), radius=0.5)
    hit = trace([solid], from_(0), 256).is_hit[0].nonzero().float() + 0.5
    middle = (hit.mean(0) / 256 - 0.5) / FOCAL  # from +x: y is to the right, z up
    assert middle.tolist() == pytest.approx([0.4 / 3.8, 0.3 / 3.8], abs=2e-3)


def surface_distance(kind: str, point: torch.Tensor) -> torch.Tensor:
    """How far points are from where the solid's surface may be, by its plain definition."""
    x, y, z = point.unbind(-1)
    around = torch.hypot(x, y)
    slices = {
        "sphere": [point.norm(dim=-1) - 0.8],
        "cube": [v.abs() - 3**-0.5 for v in (x, y, z)],
        "octahedron": [x.abs() + y.abs() + z.abs() - 1],
        "cylinder": [around - 0.6, z.abs() - 0.8],
        "cone": [around - (1 - z) / 2, -0.6 - z],
        "pyramid": [torch.maximum(x.abs(), y.abs()) - 0.4 * (1 - z), -0.5 - z],
        "torus": [torch.hypot(around - 0.68, z) - 0.3],
    }
    return torch.stack(slices[kind]).amax(0)


@patient
@given(st.sampled_from(SOLIDS), st.floats(-90, 90), angles, angles)
def test_every_hit_lies_on_the_surface(kind, elevation, azimuth, yaw) -> None:
    solid = Solid(kind, 0, 1, centre=(0.1, -0.2, 0.15), radius=0.7, yaw=yaw)
    depth = trace([solid], from_(elevation, azimuth), 48).depth[0]
    offset = ((torch.arange(48) + 0.5) / 48 - 0.5) / FOCAL
    y, x = torch.meshgrid(offset, offset, indexing="ij")
    camera = torch.stack([x, y, torch.ones_like(x)], -1) * depth[..., None]
    one = torch.tensor([elevation]), torch.tensor([azimuth]), torch.tensor([4.0])
    matrix = look_at(*one)[0]
    world = (camera[torch.isfinite(depth)] - matrix[:3, 3]) @ matrix[:3, :3]
    turn = look_at(torch.tensor([0.0]), torch.tensor([yaw]), torch.tensor([1.0]))[0, :3, :3]
    local = (world - torch.tensor(solid.centre)) / solid.radius
    # The camera at the yaw looks along the solid's own x axis.
    local = torch.stack([-(local @ turn[2]), local @ turn[0], -(local @ turn[1])], -1)
    assert len(local) > 50
    assert float(surface_distance(kind, local).abs().max()) < 5e-3


class EightColours(Solid):
    """A solid whose faces can all be told apart."""

    def colours(self) -> np.ndarray:
        return np.array(list(WHEEL.values()))


@patient
@given(st.floats(-85, 85), angles)
def test_the_faces_of_a_cube_that_look_at_the_camera_are_seen(elevation, azimuth) -> None:
    cube, rig = EightColours("cube", 0, 1), from_(elevation, azimuth)
    hits = trace([cube], rig, 96)
    eye = -rig.matrices()[0, :3, :3].T @ rig.matrices()[0, :3, 3]
    outward = BODIES["cube"].planes[:, :3] @ eye - BODIES["cube"].planes[:, 3]
    pixels = hits.colour[hits.is_hit]
    wheel = torch.from_numpy(cube.colours()).float() / 255
    shade = (pixels[:, None] @ wheel.mT / (wheel * wheel).sum(-1))[:, 0]
    error = (pixels[:, None] - shade[..., None] * wheel).abs().amax(-1)
    seen = Counter(error.argmin(-1).tolist())
    assert float(error.amin(-1).max()) < 1e-4  # every pixel is a face's colour, in some shade
    for face, height in enumerate(outward.tolist()):
        if height < 0:
            assert face not in seen
        elif height > 0.2:
            assert seen[face] > 5


def test_the_nearer_solid_hides_the_other() -> None:
    near = Solid("sphere", 0, 1, centre=(0.5, 0.0, 0.0), radius=0.5)
    far = Solid("sphere", 4, 1, centre=(-0.5, 0.0, 0.0), radius=0.5)
    for solids in ((near, far), (far, near)):
        front, back = trace(solids, Rig("two", (Camera(0, 0), Camera(0, 180))), 65).depth
        assert front[32, 32] == pytest.approx(4 - 0.9, abs=1e-3)
        assert back[32, 32] == pytest.approx(4 - 0.9, abs=1e-3)
    both = trace((near, far), from_(0), 65)
    alone = trace((near,), from_(0), 65)
    assert torch.equal(both.colour[alone.is_hit], alone.colour[alone.is_hit])
    swapped = trace((far, near), from_(0), 65)
    assert torch.equal(both.colour, swapped.colour)


def test_solids_that_run_into_each_other_are_cut_at_the_surface() -> None:
    cube, ball = Solid("cube", 0, 1, radius=0.8), Solid("sphere", 3, 1, radius=0.7)
    hits = trace((cube, ball), from_(20, 30), 64)
    one, other = (trace((solid,), from_(20, 30), 64).depth for solid in (cube, ball))
    assert torch.equal(hits.depth, torch.minimum(one, other))
    assert (one < other).any() and (other < one).any()


@patient
@given(st.sampled_from(SOLIDS), st.floats(-60, 60), angles, angles)
def test_turning_the_solid_is_turning_the_camera(kind, elevation, azimuth, turn) -> None:
    still = trace([Solid(kind, 0, 1, yaw=10)], from_(elevation, azimuth % 180), 48)
    moved = trace([Solid(kind, 0, 1, yaw=10 + turn)], from_(elevation, azimuth % 180), 48, turn)
    differs = still.is_hit != moved.is_hit
    assert float(differs.float().mean()) < 5e-3  # rounding, along edges
    both = still.is_hit & moved.is_hit
    near = (still.depth[both] - moved.depth[both]).abs() < 2e-3
    assert float(near.float().mean()) > 0.99


@pytest.mark.parametrize("kind", SOLIDS)
def test_pictures_mirror_as_the_solid_does(kind: str) -> None:
    hit = trace([Solid(kind, 0, 1)], from_(25), 65).is_hit[0]
    assert float((hit != hit.flip(1)).float().mean()) < 5e-3
    if EXTENT[kind][0] == -EXTENT[kind][1]:
        below = trace([Solid(kind, 0, 1)], from_(-25), 65).is_hit[0]
        assert float((hit != below.flip(0)).float().mean()) < 5e-3


def test_the_lamp_stays_where_it_is_in_the_world() -> None:
    ball = [Solid("sphere", 0, 1)]
    front, back = trace(ball, Rig("two", (Camera(0, 30), Camera(0, 210))), 33).colour[:, 16, 16]
    red = torch.tensor(WHEEL["red"]) / 255  # the faces on both sides
    assert float((front / red).mean()) > 0.85 > 0.71 > float((back / red).mean())
    turned = trace(ball, from_(0, 0), 33, azimuth=30).colour[0, 16, 16]
    assert torch.allclose(turned, front, atol=1e-5)


@pytest.mark.parametrize("kind", SOLIDS)
def test_extents_are_the_bodies(kind: str) -> None:
    """Seen from the side and far away, where perspective is nothing."""
    rig = Rig("far", (Camera(0, 0, 60, 2.5), Camera(0, 45, 60, 2.5)))
    hits = trace([Solid(kind, 0, 1)], rig, 401)
    scale = 60 * 2 * tan(radians(1.25)) / 401
    rows, columns = (hits.is_hit.any(dim).nonzero()[:, 1].float() for dim in (2, 1))
    assert (200 - rows.min()) * scale == pytest.approx(EXTENT[kind][1], abs=0.06)
    assert (200 - rows.max()) * scale == pytest.approx(EXTENT[kind][0], abs=0.06)
    assert (columns.max() - 200) * scale <= 1.06


def test_faces_take_turns_in_two_colours_of_the_wheel() -> None:
    wheel = [list(colour) for colour in WHEEL.values()]
    for start in range(8):
        for step in STEPS:
            faces = Solid("cube", start, step).colours().tolist()
            assert faces[::2] == [wheel[start]] * 4
            assert faces[1::2] == [wheel[(start + step) % 8]] * 4
    for one, other in pairs_of(WHEEL.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 60


# --- sets of views -------------------------------------------------------------------------------


@patient
@given(st.integers(0, 2**40), st.sampled_from(["train", "held_out"]))
def test_objects_fit_and_belong_to_their_split(seed: int, split: str) -> None:
    scene = scene_from_seed(seed, split)
    assert scene == scene_from_seed(seed, split)
    assert 1 <= len(scene.solids) <= 2
    for solid in scene.solids:
        assert np.linalg.norm(solid.centre) + solid.radius <= 1 + 1e-6
        assert is_held_out(solid.kind, solid.start, solid.step) == (split == "held_out")
    assert scene.is_held_out() == (split == "held_out")
    assert INPUT_ELEVATIONS[0] <= scene.elevation <= INPUT_ELEVATIONS[1]


@patient
@given(st.integers(0, 2**40))
@example(2107)
def test_view_sets_are_the_rigs_views_after_the_framed_input(seed: int) -> None:
    scene = scene_from_seed(seed)
    views = view_set(scene, SIDE)
    assert views.shape == (7, SIDE, SIDE, 3) and views.dtype == np.uint8
    assert np.array_equal(views, view_set(scene_from_seed(seed), SIDE))
    assert np.array_equal(views[1:], render(scene.solids, ZERO123PLUS, SIDE, scene.azimuth))
    for view in views:  # white all around, the object in the middle
        edges = (view[0], view[-1], view[:, 0], view[:, -1])
        assert min(int(edge.min()) for edge in edges) == 255
        assert view.min() < 250
    there = (views[0] < 250).any(-1).nonzero()
    longest = max(np.ptp(place) + 1 for place in there)
    assert abs(longest - SIDE * (1 - 2 * MARGIN)) <= 3  # soft edges count


def test_azimuths_count_from_the_input_view() -> None:
    scene = scene_from_seed(5)
    (third,) = render(scene.solids, from_(30, 150 + scene.azimuth), 32)
    assert np.abs(third.astype(int) - view_set(scene, 32)[3]).max() <= 1


def test_edges_are_soft() -> None:
    (picture,) = render([Solid("cube", 7, 1)], from_(0), 63)
    grey = picture[..., 0].astype(int)
    assert ((grey > grey.min() + 20) & (grey < 235)).any()
    fine = trace([Solid("cube", 7, 1)], from_(0), 63 * 8).is_hit.float().mean()
    share = (255 - grey).sum() / (255 - grey.min()) / grey.size
    assert share == pytest.approx(float(fine), rel=0.02)


def test_the_split_is_balanced_and_disjoint() -> None:
    train, held_out = combinations("train"), combinations("held_out")
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(combinations("any"))
    assert 0.15 <= len(held_out) / len(combinations("any")) <= 0.18
    for attribute, values in enumerate((SOLIDS, range(8), STEPS)):
        assert {c[attribute] for c in held_out} == set(values)
    for a, b in pairs_of(range(3), 2):  # every pair is seen in training
        assert {(c[a], c[b]) for c in train} == {(c[a], c[b]) for c in combinations("any")}
    with pytest.raises(ValueError, match="split is 'test'"):
        combinations("test")


def test_every_kind_occurs() -> None:
    scenes = [scene_from_seed(seed, "held_out") for seed in range(1500)]
    assert 0.2 < np.mean([len(scene.solids) == 2 for scene in scenes]) < 0.3
    shown = {(s.kind, s.start, s.step) for scene in scenes for s in scene.solids}
    assert shown == set(combinations("held_out"))
