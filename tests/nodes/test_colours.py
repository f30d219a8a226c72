"""Colour match against the statistics it promises."""

from __future__ import annotations

import kornia.color
import pytest
import torch
from ComfyUI_STIV.nodes.host.colours import match_colours


def picture(seed: int, middle: float = 0.5, contrast: float = 0.3) -> torch.Tensor:
    """A picture (24, 32, 3) that is far from black and white, so that nothing is cut off."""
    generator = torch.Generator().manual_seed(seed)
    return middle + contrast * (torch.rand(24, 32, 3, generator=generator) - 0.5)


def moments(frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    lab = kornia.color.rgb_to_lab(frame.movedim(-1, 0)[None])[0]
    return lab.mean((1, 2)), lab.std((1, 2), correction=0)


def test_means_and_spreads_move_from_key_to_key() -> None:
    first, last = picture(1, 0.4, 0.2), picture(2, 0.6, 0.3)
    frames = torch.stack([picture(seed, 0.5, 0.25) for seed in range(3, 6)])
    matched = match_colours(frames, first, last)
    assert matched.shape == frames.shape and matched.min() >= 0 and matched.max() <= 1
    for index, frame in enumerate(matched):
        goal = zip(moments(first), moments(last), strict=True)
        for found, (a, b) in zip(moments(frame), goal, strict=True):
            torch.testing.assert_close(found, torch.lerp(a, b, (index + 1) / 4), rtol=0, atol=0.02)


def test_a_frame_with_the_right_colours_stays() -> None:
    first, last = picture(1), picture(2, 0.3)
    frames = torch.stack([first, last])
    matched = match_colours(frames, first, last, places=[0.0, 1.0])
    torch.testing.assert_close(matched, frames, rtol=0, atol=2e-4)


def test_a_tint_is_taken_out() -> None:
    key = picture(1)
    tinted = (key * torch.tensor([1.15, 1.0, 0.85]) + 0.03)[None]
    matched = match_colours(tinted, key, key)
    assert (matched - key).abs().mean() < (tinted - key).abs().mean() / 4


def test_flat_and_foreign_frames_stay_finite_and_are_not_blown_up() -> None:
    key = picture(1, 0.5, 0.8)
    flat = torch.full((1, 24, 32, 3), 0.2)
    matched = match_colours(flat, key, key)
    torch.testing.assert_close(
        moments(matched[0])[0], moments(key)[0], rtol=0, atol=0.05
    )  # the mean follows
    assert torch.isfinite(matched).all() and matched.std((1, 2)).max() < 1e-3
    faint = 0.2 + 0.01 * picture(2)[None]
    spread = moments(match_colours(faint, key, key)[0])[1] / moments(faint[0])[1]
    assert spread.max() < 2.05


def test_type_and_places() -> None:
    frames = torch.stack([picture(3)] * 2).half()
    matched = match_colours(frames, picture(1), picture(2), places=(0.25, 0.5))
    assert matched.dtype == torch.float16
    assert match_colours(frames[:0], picture(1), picture(2)).shape == (0, 24, 32, 3)
    for places in ([0.5], [0.5, 1.5], [0.5, float("nan")]):
        with pytest.raises(ValueError, match=r"colour match: . places for 2 frames"):
            match_colours(frames, picture(1), picture(2), places)


def test_wrong_shapes_are_refused() -> None:
    frames, key = torch.rand(2, 8, 8, 3), torch.rand(8, 8, 3)
    with pytest.raises(ValueError, match=r"frames have shape \(8, 8, 3\)"):
        match_colours(key, key, key)
    with pytest.raises(ValueError, match=r"the last key frame has shape \(2, 8, 8, 3\)"):
        match_colours(frames, key, frames)
