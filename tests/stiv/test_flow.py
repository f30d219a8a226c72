"""Flow matching against finite differences and closed forms."""

from __future__ import annotations

import pytest
import torch

from stiv.flow import (
    euler_sample,
    flow_loss,
    interpolate,
    sample_timesteps,
    shift_time,
    velocity_target,
)

SHAPE = (3, 4, 5, 2, 2)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)


def test_path_ends_and_slope(pair) -> None:
    data, noise = pair
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    assert torch.equal(interpolate(data, noise, torch.zeros(3)), noise)
    torch.testing.assert_close(interpolate(data, noise, torch.ones(3)), data)
    slope = (interpolate(data, noise, t + 1e-6) - interpolate(data, noise, t - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, velocity_target(data, noise), rtol=1e-6, atol=1e-6)


def test_loss_ignores_given_frames(pair) -> None:
    velocity, target = pair
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 0] = mask[1, 1::2] = mask[2] = True
    loss = flow_loss(velocity, target, mask)
    torch.testing.assert_close(
        loss[0].double(), (velocity - target)[0, :, 1:].square().mean(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        loss[1].double(), (velocity - target)[1, :, 0::2].square().mean(), rtol=1e-6, atol=0
    )
    assert loss[2] == 0
    changed = velocity.clone()
    changed[0, :, 0] += 10
    assert torch.equal(flow_loss(changed, target, mask), loss)
    torch.testing.assert_close(
        flow_loss(velocity, target).double(), (velocity - target).square().mean((1, 2, 3, 4))
    )


def test_timesteps_have_their_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = sample_timesteps(20000, generator=generator)
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.003
    normal = sample_timesteps(20000, distribution="logit_normal", generator=generator)
    logits = normal.logit()
    assert abs(logits.mean()) < 0.03 and abs(logits.std() - 1) < 0.03
    assert sample_timesteps(20000, shift=3.0, generator=generator).mean() < 0.4
    with pytest.raises(ValueError, match="'cosine'"):
        sample_timesteps(2, distribution="cosine")


def test_shift_moves_sigma_as_samplers_do() -> None:
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    sigma = 1 - t
    torch.testing.assert_close(1 - shift_time(t, 3.0), 3 * sigma / (1 + 2 * sigma))
    torch.testing.assert_close(shift_time(t, 1.0), t)


@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_euler_follows_a_straight_flow_exactly(pair, shift: float) -> None:
    data, noise = pair
    found = euler_sample(lambda x, t: data - noise, noise, 7, shift=shift)
    torch.testing.assert_close(found, data, rtol=1e-5, atol=1e-5)


def test_euler_converges_at_first_order() -> None:
    """Data N(0, s^2): v = (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) x, and x_1 = s * noise."""
    s2, noise = 4.0, torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t.double()
        return (t * s2 - (1 - t)) / (t**2 * s2 + (1 - t) ** 2) * x

    errors = [abs(euler_sample(velocity, noise, n).item() - 2.0) for n in (50, 100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_given_frames_come_back_exactly(pair) -> None:
    clean, noise = pair
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[:, [0, 3]] = True
    found = euler_sample(lambda x, t: torch.sin(x), noise, 5, clean=clean, frame_mask=mask)
    assert torch.equal(found[:, :, [0, 3]], clean[:, :, [0, 3]])
    assert not torch.isclose(found[:, :, 1], clean[:, :, 1]).any()
