"""AdaFactor against its published formula in float64, and against a quadratic's minimum."""

from __future__ import annotations

import pytest
import torch

from training.optimizer import AdaFactor


def reference(parameter, gradients, lr, beta1, beta2, clip=1.0):
    """The update of one matrix, written out."""
    rows = columns = momentum = 0.0
    for step, gradient in enumerate(gradients, start=1):
        decay = min(beta2, 1 - step**-0.8)
        square = gradient**2 + 1e-30
        rows = decay * rows + (1 - decay) * square.mean(1)
        columns = decay * columns + (1 - decay) * square.mean(0)
        second = rows[:, None] * columns[None] / rows.mean()
        update = gradient / second.sqrt()
        update = update / max(1.0, update.square().mean().sqrt().item() / clip)
        momentum = beta1 * momentum + (1 - beta1) * lr * update
        parameter = parameter - momentum
    return parameter


def test_matrix_update_is_the_formula() -> None:
    torch.manual_seed(0)
    start, *gradients = torch.randn(9, 5, 7, dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = AdaFactor([parameter], lr=1e-2)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = reference(start, gradients, 1e-2, 0.9, 0.999)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)


def test_state_is_little_more_than_momentum() -> None:
    parameter = torch.nn.Parameter(torch.randn(40, 60))
    parameter.grad = torch.randn(40, 60)
    optimizer = AdaFactor([parameter])
    optimizer.step()
    numbers = sum(value.numel() for value in optimizer.state[parameter].values())
    assert numbers == 40 * 60 + 40 + 60 + 1


@pytest.mark.parametrize("shape", [(6,), (6, 5), (4, 3, 2, 2), ()], ids=str)
def test_reaches_a_minimum(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    target = torch.randn(shape)
    parameter = torch.nn.Parameter(torch.zeros(shape))
    optimizer = AdaFactor([parameter], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        parameter.grad = parameter.detach() - target
        optimizer.step()
    assert (parameter - target).abs().max() < 0.02


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"betas": (1.5, 0.9)}, {"betas": (0.9, -0.1)}])
def test_bad_settings_are_quoted(bad: dict) -> None:
    with pytest.raises(ValueError, match="AdaFactor"):
        AdaFactor([torch.zeros(2)], **bad)
