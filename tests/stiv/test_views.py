"""Rigs of cameras: where they stand, how they are written, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stiv.views import MOST_CAMERAS, ZERO123PLUS, Camera, Rig, look_at, parse_cameras, turntable


def degrees(low: float, high: float):
    return st.floats(low, high).map(lambda value: round(value, 6))


cameras = st.builds(
    Camera,
    degrees(-90, 90),
    degrees(-360, 360),
    st.one_of(st.just(4.0), degrees(1.01, 1000)),
    st.one_of(st.just(30.0), degrees(1, 170)),
)


def test_the_papers_six_views() -> None:
    assert [c.elevation for c in ZERO123PLUS.cameras] == [30, -20, 30, -20, 30, -20]
    assert [c.azimuth for c in ZERO123PLUS.cameras] == [30, 90, 150, 210, 270, 330]


@given(st.integers(1, MOST_CAMERAS), degrees(-90, 90))
def test_a_turntable_ends_where_the_input_is_seen_from(views: int, elevation: float) -> None:
    rig = turntable(views, elevation)
    assert len(rig.cameras) == views
    assert rig.cameras[-1].azimuth == 0
    assert {c.elevation for c in rig.cameras} == {elevation}
    steps = [(b.azimuth - a.azimuth) % 360 for a, b in pairwise(rig.cameras)]
    assert steps == pytest.approx([360 / views] * (views - 1))


@given(st.lists(cameras, min_size=1, max_size=12))
def test_a_rig_is_read_as_it_is_written(some: list[Camera]) -> None:
    assert parse_cameras(str(Rig("any", tuple(some)))) == tuple(some)


def test_cameras_in_words_that_people_write() -> None:
    expected = (Camera(30, 90), Camera(-20, 120.5), Camera(0, 0, 2.5), Camera(10, -5, 3, 45))
    assert parse_cameras("30,90; -20 , 120.5\n0°,0°,2.5;\n+10,-5,3,45\n") == expected


@given(st.text(alphabet="0123456789.,;- \n°eanif", max_size=60))
def test_any_text_gives_cameras_or_one_line(text: str) -> None:
    try:
        found = parse_cameras(text)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
    else:
        assert found and all(math.isfinite(c.azimuth) for c in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 cameras are named: name 1 to 256, as in 30,90; -20,120"),
        ("30", r"camera 1 \('30'\) has 1 numbers: write elevation,azimuth"),
        ("30,90; 1,2,3,4,5", r"camera 2 \('1,2,3,4,5'\) has 5 numbers"),
        ("30,up", "'up' is not a number: write elevation,azimuth in degrees"),
        ("nan,0", "'nan' is not a number"),
        ("1e9,0", "'1e9' is not a number"),
        ("95,0", r"camera 1 \('95,0'\): elevation is 95: use -90 to 90"),
        ("0,0,1", "distance is 1: use 1.01 to 1000"),
        ("0,0,4,171", "field of view is 171: use 1 to 170"),
        ("0,0;" * 257, "257 cameras are named"),
        ("0" * 10_001, "10001 characters long: at most 10000"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_cameras(text)


@pytest.mark.parametrize("views", [0, -1, MOST_CAMERAS + 1])
def test_turntables_of_no_size(views: int) -> None:
    with pytest.raises(ValueError, match=f"a turntable of {views} views: use 1 to 256"):
        turntable(views)


@given(cameras, degrees(-360, 360))
def test_cameras_look_at_the_object_with_their_up_side_up(camera: Camera, turn: float) -> None:
    (matrix,) = Rig("one", (camera,)).matrices(turn)
    rotation, shift = matrix[:3, :3], matrix[:3, 3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5)
    assert torch.linalg.det(rotation) > 0.99  # no mirror image
    assert torch.allclose(shift, torch.tensor([0.0, 0.0, camera.distance]))

    up, around = math.radians(camera.elevation), math.radians(camera.azimuth + turn)
    flat = math.cos(up)
    eye = [flat * math.cos(around), flat * math.sin(around), math.sin(up)]
    eye = camera.distance * torch.tensor(eye)
    assert torch.allclose(rotation @ eye + shift, torch.zeros(3), atol=1e-4 * camera.distance)
    assert (rotation @ torch.tensor([0.0, 0.0, 1.0]))[1] <= 1e-6  # up in the world: not downwards


def test_matrices_in_closed_form() -> None:
    front, left, top = look_at(
        torch.tensor([0.0, 0.0, 90.0]), torch.tensor([0.0, 90.0, 0.0]), torch.full((3,), 2.0)
    )
    # From +x: the world's y is to the right, z up, and x comes towards the camera.
    expected = [[0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 2], [0, 0, 0, 1]]
    assert torch.allclose(front, torch.tensor(expected).float(), atol=1e-6)
    expected = [[-1, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 2], [0, 0, 0, 1]]
    assert torch.allclose(left, torch.tensor(expected).float(), atol=1e-6)
    expected = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]]
    assert torch.allclose(top, torch.tensor(expected).float(), atol=1e-6)


def test_focal_lengths() -> None:
    rig = Rig("two", (Camera(0, 0, 4, 90), Camera(0, 0, 4, 30)))
    expected = [0.5, 0.5 / math.tan(math.radians(15))]
    assert rig.focal_lengths().tolist() == pytest.approx(expected)
