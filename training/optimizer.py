"""AdaFactor with momentum, as the paper trains (section 4: beta1 0.9, beta2 0.999, no decay).

The second moment of a matrix is kept as its row and column means, so the state is little more
than the momentum. Order of one update: factored root mean square, clip of the update's own RMS,
learning rate, momentum without debiasing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

_TINY = 1e-30


class AdaFactor(Optimizer):
    """AdaFactor (Shazeer and Stern, 2018) with first moment.

    lr: step size in units of a unit-RMS update. betas: decay of momentum and second moment.
    debias: cap the second moment's decay at 1 - step^-0.8, so that the first steps do not
    divide by a moment that is still near its zero start. clip: largest RMS of one update.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        debias: bool = True,
        clip: float = 1.0,
    ):
        for name, value, low, high in (
            ("lr", lr, 0.0, 1.0),
            ("beta1", betas[0], 0.0, 1.0),
            ("beta2", betas[1], 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"AdaFactor {name} is {value!r}: expected {low} to {high}")
        super().__init__(params, {"lr": lr, "betas": betas, "debias": debias, "clip": clip})

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, self.state[parameter], group)

    def _update(self, parameter: Tensor, state: dict[str, Tensor], group: dict) -> None:
        # A convolution is a matrix of its outputs; vectors keep their whole second moment.
        gradient = parameter.grad.flatten(1) if parameter.ndim > 2 else parameter.grad
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["momentum"] = torch.zeros_like(gradient)
            for name, shape in _moment_shapes(gradient).items():
                state[name] = gradient.new_zeros(shape)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        if group["debias"]:
            beta2 = min(beta2, 1 - int(state["step"]) ** -0.8)
        update = gradient * _inverse_root(state, gradient, beta2)
        rms = torch.linalg.vector_norm(update) / update.numel() ** 0.5
        update *= group["lr"] / (rms / group["clip"]).clamp(min=1.0)
        state["momentum"].lerp_(update, 1 - beta1)
        parameter.sub_(state["momentum"].view_as(parameter))


def _moment_shapes(gradient: Tensor) -> dict[str, tuple[int, ...]]:
    if gradient.ndim < 2:
        return {"second": tuple(gradient.shape)}
    return {"rows": (gradient.shape[0], 1), "columns": (1, gradient.shape[1])}


def _inverse_root(state: dict[str, Tensor], gradient: Tensor, beta2: float) -> Tensor:
    """1 / sqrt of the second moment, broadcastable to the gradient; updates the moment."""
    square = gradient.square() + _TINY
    if "second" in state:
        return state["second"].lerp_(square, 1 - beta2).rsqrt()
    rows = state["rows"].lerp_(square.mean(1, keepdim=True), 1 - beta2)
    columns = state["columns"].lerp_(square.mean(0, keepdim=True), 1 - beta2)
    return (rows / rows.mean()).rsqrt() * columns.rsqrt()
