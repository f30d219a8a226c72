"""AdaFactor's step against transformers': seconds, temporaries, state, distance from float64.

Both have momentum, both cap beta2 at 1 - step^-0.8, as only that mode exists in transformers.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from training.optimizer import AdaFactor

from .timing import peak_bytes

WIDTH, REPEATS = 1152, 9
SAME = (0.9, 1 - 1e-9)  # no cap of our own below theirs


def run() -> Iterator[dict]:
    """One row: the matrices of a block of XL with their biases, on one thread or all of them."""
    torch.manual_seed(0)
    shapes = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
    shapes += [(shape[0],) for shape in shapes]
    ours = nn.ParameterList([torch.randn(shape) for shape in shapes])
    theirs = copy.deepcopy(ours)
    for mine, other in zip(ours, theirs, strict=True):
        mine.grad = torch.randn_like(mine)
        other.grad = mine.grad.clone()
    mine, other = AdaFactor(ours, lr=1e-4, betas=SAME), _transformers(theirs)
    bf16 = AdaFactor(copy.deepcopy(ours), lr=1e-4, momentum="bf16")
    error = _error(ours)
    for optimizer in (mine, other):
        optimizer.step()
    bf16.param_groups[0]["params"][0].grad = ours[0].grad
    bf16.step()
    numbers = sum(p.numel() for p in ours)
    temporary = peak_bytes(mine.step)  # a tile, whatever the number of parameters
    seconds = [(_seconds(mine.step), _seconds(other.step)) for _ in range(REPEATS)]
    yield {
        "what": "step of one XL block, ours against transformers.Adafactor",
        "parameters": numbers,
        "median_ms": round(1e3 * statistics.median(a for a, _ in seconds), 2),
        "transformers_median_ms": round(1e3 * statistics.median(b for _, b in seconds), 2),
        "time_ratio": round(statistics.median(a / b for a, b in seconds), 3),
        "temporary_bytes_per_parameter": round(temporary / numbers, 3),
        "temporary_mib": round(temporary / 2**20, 2),
        "transformers_temporary_bytes_per_parameter": round(peak_bytes(other.step) / numbers, 3),
        "state_bytes_per_parameter": round(_state_bytes(mine) / numbers, 3),
        "state_bytes_per_parameter_bf16": round(_state_bytes(bf16) / ours[0].numel(), 3),
        "error_against_float64": error,
    }


def _transformers(parameters: nn.ParameterList) -> Optimizer:
    from transformers.optimization import Adafactor

    options = {"scale_parameter": False, "relative_step": False}
    return Adafactor(parameters, lr=1e-4, beta1=0.9, **options)


def _error(parameters: nn.ParameterList) -> float:
    """Largest difference of three float32 updates from float64 ones, over the largest of those."""
    moved = []
    for dtype in (torch.float32, torch.float64):
        values = [nn.Parameter(torch.zeros_like(p, dtype=dtype)) for p in parameters]
        optimizer = AdaFactor(values, lr=1e-4)
        for _ in range(3):
            for value, parameter in zip(values, parameters, strict=True):
                value.grad = parameter.grad.to(dtype)
            optimizer.step()
        moved.append(torch.cat([value.detach().double().flatten() for value in values]))
    return float((moved[0] - moved[1]).abs().max() / moved[1].abs().max())


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _state_bytes(optimizer: Optimizer) -> int:
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
    )
