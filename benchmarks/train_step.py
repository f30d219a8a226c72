"""Forward and backward pass against the same function from diffusers' parts, and Latte."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from training.memory import set_checkpointing

from . import timing
from .forward_video import COMPILED, OURS, PARTS, SIZE, config_of, inputs, ours
from .peers import latte

REPETITIONS = 5


def run() -> Iterator[dict]:
    """float32, and bfloat16 where this CPU multiplies it."""
    for name, dtype in timing.DTYPES.items():
        if not timing.has_products(dtype):
            yield {"what": "all", "dtype": name, "skipped": timing.NO_PRODUCTS}
            continue
        yield from timing.between_rooflines(name, _rows(dtype))


def _rows(dtype: torch.dtype) -> Iterator[dict]:
    from .parts import from_parts

    torch.manual_seed(0)
    size = replace(SIZE, depth=1)
    config = config_of(size)
    model = ours(config, dtype)
    given = inputs(config, size, dtype)
    models: dict[str, nn.Module] = {
        OURS: model,
        PARTS: from_parts(model, (size.frames, size.side, size.side)),
        COMPILED: copy.deepcopy(model),
    }
    set_checkpointing(models[COMPILED], "none", compiled=True)
    peer = latte(size, dtype)
    steps = {name: step(one, lambda one=one: one(**given)) for name, one in models.items()}
    steps["diffusers Latte"] = step(peer.model, peer.call)
    gflop = {name: timing.count_gflop(call) for name, call in steps.items() if name != COMPILED}
    gflop[COMPILED] = gflop[OURS]
    errors = {name: _gradient_error(models[name], models[OURS], given) for name in models}
    peaks = {name: timing.peak_bytes(call) / 2**20 for name, call in steps.items()}
    for row in timing.compared(timing.in_turn(steps, REPETITIONS), OURS, gflop):
        row["peak_mib"] = round(peaks[row["what"]], 1)
        if row["what"] in errors:
            row["error"] = float(f"{errors[row['what']]:.2g}")
        yield row
    yield {"what": "shares of the time, ours", "shares": timing.shares(steps[OURS])}


def step(model: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    """A forward and a backward pass; gradients are not kept, as after an optimizer's step."""
    model.requires_grad_(True).train()

    def call() -> None:
        forward().float().square().mean().backward()
        model.zero_grad(set_to_none=True)

    return call


def _gradient_error(model: nn.Module, reference: nn.Module, given: dict[str, Tensor]) -> float:
    """Of the first layer's gradient, which all others have gone through."""
    found = []
    for one in (model, reference):
        one(**given).float().square().mean().backward()
        found.append(one.patch_embed.weight.grad.float().clone())
        one.zero_grad(set_to_none=True)
    return timing.relative_error(*found)
