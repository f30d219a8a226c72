"""Positions, placements and masks."""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from stiv.frames import (
    TASKS,
    GivenFrames,
    canvas_size,
    frame_mask,
    parse_positions,
    replace_frames,
    task_positions,
    to_canvas,
)


@pytest.mark.parametrize(
    ("text", "total", "count", "expected"),
    [
        ("0", 16, None, [0]),
        ("0-3", 16, 4, [0, 1, 2, 3]),
        ("first,last", 16, 2, [0, 15]),
        ("-1", 16, 1, [15]),
        ("every 2", 7, None, [0, 2, 4, 6]),
        ("every 2", 7, 3, [0, 2, 4]),
        ("every 3 from 1", 8, None, [1, 4, 7]),
        (" First , 5 , 8-9 ", 16, None, [0, 5, 8, 9]),
        ("8", 16, 3, [8, 9, 10]),
        ("last, first", 4, 2, [3, 0]),
    ],
)
def test_positions(text: str, total: int, count: int | None, expected: list[int]) -> None:
    assert parse_positions(text, total, count) == expected


@pytest.mark.parametrize(
    ("text", "total", "count", "words"),
    [
        ("7-3", 16, None, "runs backwards: write 3-7"),
        ("16", 16, None, "outside the video of 16 frames: use 0 to 15"),
        ("-17", 16, None, "outside"),
        ("0-99", 16, None, "outside"),
        ("15", 16, 2, "outside"),
        ("", 16, None, "not understood"),
        ("0,,1", 16, None, "not understood"),
        ("every 0", 16, None, "does not advance"),
        ("every 2 from 16", 16, None, "outside"),
        ("0,0", 16, None, "twice"),
        ("0-3,2", 16, None, "twice"),
        (",".join(["0-999999"] * 1000), 10**6, None, "twice"),
        (",".join(["0-999999"] * 1000), 10**6, 3, "twice"),
        ("0,1", 16, 3, "name 2 of 16 frames, but 3 are given"),
        ("every 8", 8, 2, "name 1 of 8 frames, but 2 are given"),
        ("Every 8", 8, 2, "name 1 of 8 frames, but 2 are given"),
        ("0-999999999", 16, None, "outside"),
        ("1e3", 16, None, "not understood"),
        ("٣", 16, None, "not understood"),
    ],
)
def test_bad_positions_say_what_and_what_to_do(text, total, count, words) -> None:
    with pytest.raises(ValueError, match=words):
        parse_positions(text, total, count)


@given(
    text=st.text(alphabet="0123456789-, firstlaevymo", max_size=30),
    total=st.integers(1, 40),
    count=st.none() | st.integers(1, 9),
)
def test_positions_are_in_range_and_distinct_or_refused(text, total, count) -> None:
    try:
        found = parse_positions(text, total, count)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert len(set(found)) == len(found)
    assert all(0 <= position < total for position in found)
    assert count is None or len(found) == count


@given(st.text(max_size=200))
def test_any_text_is_positions_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_positions(text, 16)


@given(st.lists(st.integers(0, 30), min_size=1, unique=True))
def test_numbers_round_trip(positions: list[int]) -> None:
    assert parse_positions(",".join(map(str, positions)), 31, len(positions)) == positions


def test_placements_resolve_in_order() -> None:
    image, latents = torch.rand(1, 8, 8, 3), torch.randn(4, 2, 1, 1)
    frames = GivenFrames().place(image, "last").place(latents, "2,0", "latent")
    found = frames.resolve(6)
    assert [(f.position, f.kind) for f in found] == [(0, "latent"), (2, "latent"), (5, "image")]
    assert torch.equal(found[0].frame, latents[:, 1])
    assert torch.equal(found[2].frame, image[0])
    assert GivenFrames().resolve(3) == []


def test_bad_placements_are_refused() -> None:
    image = torch.rand(1, 8, 8, 3)
    with pytest.raises(ValueError, match="two frames are given at position 0"):
        GivenFrames().place(image, "0").place(image, "first").resolve(4)
    with pytest.raises(ValueError, match="'pixels'"):
        GivenFrames().place(image, "0", "pixels")
    with pytest.raises(ValueError, match=r"\(8, 8, 3\)"):
        GivenFrames().place(image[0], "0")


def test_tasks_are_the_papers() -> None:
    assert task_positions("t2v", 16) == task_positions("t2i", 1) == []
    assert task_positions("ti2v", 16) == task_positions("multi_view", 7) == [0]
    assert task_positions("v2v", 16) == [0, 1, 2, 3]
    assert task_positions("first_last", 16) == [0, 15]
    assert task_positions("tup", 7) == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="'inpaint'"):
        task_positions("inpaint", 16)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("total", [1, 2, 3, 16])
def test_tasks_fit_any_length(task: str, total: int) -> None:
    assert all(0 <= p < total for p in task_positions(task, total))


def test_replacement_is_exact_and_elsewhere_nothing() -> None:
    x, clean = torch.randn(2, 2, 4, 5, 3, 3)
    mask = torch.stack([frame_mask([0], 5), frame_mask([1, 4], 5)])
    replaced = replace_frames(x, clean, mask)
    for sample in range(2):
        for frame in range(5):
            source = clean if mask[sample, frame] else x
            assert torch.equal(replaced[sample, :, frame], source[sample, :, frame])


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_the_canvas_is_the_smallest_that_holds_the_video(width: int, height: int) -> None:
    for side, canvas in zip((width, height), canvas_size(width, height), strict=True):
        assert canvas % 16 == 0 and canvas - 16 < side <= canvas
    assert canvas_size(height, width) == canvas_size(width, height)[::-1]


@given(st.integers(1, 40), st.integers(1, 40))
def test_pictures_go_on_to_the_canvas_by_their_edges(width: int, height: int) -> None:
    pictures = torch.rand(2, height, width, 3)
    continued = to_canvas(pictures)
    assert continued.shape[1:3] == canvas_size(width, height)[::-1]
    assert torch.equal(continued[:, :height, :width], pictures)
    assert (continued[:, height:, :width] == pictures[:, -1:]).all()
    assert (continued[:, :, width:] == continued[:, :, width - 1 : width]).all()
