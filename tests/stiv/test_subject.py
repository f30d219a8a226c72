"""Framing on a subject: what it is found by, where it comes to lie, and on what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stiv.subject import cut_out, frame_subject

RED = torch.tensor([0.9, 0.1, 0.1])


def disc(height: int, width: int, y: float, x: float, radius: float) -> torch.Tensor:
    """(H, W) 1 inside."""
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return (((rows - y) ** 2 + (columns - x) ** 2) < radius**2).float()


def painted(alpha: torch.Tensor, background: tuple[float, float, float]) -> torch.Tensor:
    alpha = alpha[..., None]
    return RED * alpha + torch.tensor(background) * (1 - alpha)


def busy(height: int, width: int) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(20, 90),
    st.integers(20, 90),
    st.floats(0.2, 0.8),
    st.floats(0.2, 0.8),
    st.integers(3, 12),
    st.sampled_from([16, 64, 96]),
    st.floats(0, 0.3),
)
def test_the_subject_is_centred_with_its_margin(height, width, y, x, radius, size, margin) -> None:
    alpha = disc(height, width, y * height, x * width, radius)
    out = frame_subject(painted(alpha, (0.2, 0.5, 0.9)), alpha, size, margin)
    assert out.shape == (size, size, 3) and torch.equal(out, out.clamp(0, 1))
    seen = (out[..., 1] < 0.5).nonzero()
    low, high = seen.min(0).values, seen.max(0).values + 1
    pixel = size / (2 * radius) + 1  # of the picture it was cut from, in pixels of this one
    box = alpha.nonzero()
    if box.min() > 0 and (box.max(0).values + 1 < torch.tensor(alpha.shape)).all():
        assert ((low + high) / 2 - size / 2).abs().max() <= pixel
        assert abs(float((high - low).max()) - size * (1 - 2 * margin)) <= 2 * pixel


def test_nothing_of_the_old_background_is_left() -> None:
    alpha = disc(80, 120, 30, 70, 20)
    out = frame_subject(painted(alpha, (0.0, 1.0, 0.0)), alpha, 64, background=(0.5, 0.5, 0.5))
    assert torch.allclose(out[0, 0], torch.full((3,), 0.5))
    assert torch.allclose(out[32, 32], RED, atol=1e-5)
    # Every pixel lies between the subject's colour and the new background's.
    share = (out[..., 0] - 0.5) / 0.4
    assert torch.allclose(out, share[..., None] * (RED - 0.5) + 0.5, atol=1e-5)


def test_a_soft_edge_stays_soft() -> None:
    alpha = torch.full((10, 10), 0.5)
    out = frame_subject(torch.zeros(10, 10, 3), alpha, 16, margin=0.0)
    assert torch.allclose(out[4:-4, 4:-4], torch.full((8, 8, 3), 0.5), atol=1e-5)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is computed meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("margin", [0.1, 0.45])
def test_a_wide_margin_takes_no_memory(margin: float) -> None:
    alpha = disc(600, 500, 300, 250, 240)
    with Largest() as largest:
        out = frame_subject(busy(600, 500), alpha, 32, margin)
    assert out.shape == (32, 32, 3)
    assert largest.numbers <= 2 * 4 * alpha.numel()  # colours and opacity of the picture


def test_alpha_is_followed() -> None:
    alpha = disc(60, 60, 20, 20, 9)
    image = torch.cat([busy(60, 60), alpha[..., None]], -1)
    found = cut_out(image)
    assert found.by == "the image's alpha" and torch.equal(found.alpha, alpha)


@pytest.mark.parametrize("shows", ["auto", "subject", "background"])
def test_masks_of_both_kinds(shows: str) -> None:
    """Load Image gives masks that are white on the background, others on the subject."""
    alpha, image = disc(60, 60, 30, 30, 9), busy(60, 60)
    for mask, meaning in ((alpha, "subject"), (1 - alpha, "background")):
        found = cut_out(image, mask, shows)
        told = meaning if shows == "auto" else shows
        assert found.by == f"the mask (white is the {told})"
        assert torch.equal(found.alpha, alpha if told == meaning else 1 - alpha)


def test_a_mask_of_another_size_is_scaled() -> None:
    found = cut_out(busy(60, 80), disc(30, 40, 15, 20, 8))
    assert found.alpha.shape == (60, 80)
    assert float((found.alpha - disc(60, 80, 30, 40, 16)).abs().mean()) < 0.02


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masks_that_say_nothing_are_passed_over(value: float) -> None:
    """Load Image gives a black mask of 64 × 64 for a picture without alpha."""
    empty, alpha = torch.full((64, 64), value), disc(50, 50, 25, 25, 9)
    opaque = torch.full((50, 50, 1), value)
    image = torch.cat([painted(alpha, (0.1, 0.9, 0.1)), opaque], -1)
    assert cut_out(image, empty).by == "the even colour of the border"
    assert cut_out(busy(50, 50), empty) is None


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.1, 0.6, 0.2)])
def test_an_even_border(background: tuple) -> None:
    alpha = disc(70, 90, 40, 30, 15)
    noise = torch.randn(70, 90, 3, generator=torch.Generator().manual_seed(1)) * 0.012
    found = cut_out((painted(alpha, background) + noise).clamp(0, 1))
    assert found.by == "the even colour of the border"
    assert float((found.alpha != alpha).float().mean()) < 0.005


def test_holes_in_the_subject_stay_but_winding_background_goes() -> None:
    ring = disc(60, 60, 30, 30, 20) - disc(60, 60, 30, 30, 12)
    assert torch.equal(cut_out(painted(ring, (1, 1, 1))).alpha, disc(60, 60, 30, 30, 20))
    walls = torch.zeros(40, 40)
    for x in range(4, 36, 4):  # a way that goes up and down between walls
        walls[2:-5, x] = 1
        walls[2 if x % 8 else -5, x : x + 5] = 1
    assert torch.equal(cut_out(painted(walls, (1, 1, 1))).alpha, walls)


def test_large_pictures() -> None:
    ring = disc(700, 1100, 350, 500, 300) - disc(700, 1100, 350, 500, 250)
    found = cut_out(painted(ring, (1, 1, 1)))
    assert float((found.alpha != disc(700, 1100, 350, 500, 300)).float().mean()) < 1e-4


def test_pictures_without_a_background_are_left_alone() -> None:
    assert cut_out(busy(40, 40)) is None
    assert cut_out(torch.ones(40, 40, 3)) is None  # nothing in it
    half = torch.ones(40, 40, 3)
    half[:20] = 0
    assert cut_out(half) is None


def test_what_cannot_be_framed() -> None:
    with pytest.raises(ValueError, match="nowhere to be seen: check its mask or alpha"):
        frame_subject(busy(8, 8), torch.zeros(8, 8), 16)
    with pytest.raises(ValueError, match=r"margin is 0.5: use 0 to 0.45"):
        frame_subject(busy(8, 8), torch.ones(8, 8), 16, margin=0.5)
