"""What activation checkpointing costs in time and saves in memory, mode by mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch

from training.memory import MODES, set_checkpointing

from . import timing
from .forward_video import SIZE, config_of, inputs, ours
from .train_step import step

DEPTHS = (1, 2)  # their difference is what blocks keep; the parts around them fall out
REPETITIONS = 4


def run() -> Iterator[dict]:
    """float32: time of a step over that without checkpointing, and tokens x d kept per block."""
    yield from timing.between_rooflines("fp32", _rows())


def _rows() -> Iterator[dict]:
    steps, kept, peaks, gradients = {}, {}, {}, {}
    for mode in MODES:
        held = []
        for depth in DEPTHS:
            torch.manual_seed(0)
            size = replace(SIZE, depth=depth)
            config = config_of(size)
            model = ours(config, torch.float32)
            given = inputs(config, size, torch.float32)
            set_checkpointing(model, mode)
            call = step(model, lambda model=model, given=given: model(**given))
            held.append(timing.kept_bytes(lambda model=model, given=given: model(**given)))
        number = SIZE.frames * SIZE.side**2 * SIZE.width * 4  # bytes of one tokens x d
        kept[mode] = (held[1] - held[0]) / (DEPTHS[1] - DEPTHS[0]) / number
        peaks[mode], steps[mode] = timing.peak_bytes(call) / 2**20, call
        model(**given).square().mean().backward()
        gradients[mode] = copy.deepcopy([p.grad for p in model.parameters()])
        model.zero_grad(set_to_none=True)
    for row in timing.compared(timing.in_turn(steps, REPETITIONS), "none", {}):
        mode = row["what"]
        row["kept_tokens_d_per_block"] = round(kept[mode], 2)
        row["peak_mib"] = round(peaks[mode], 1)
        row["gradients_as_without"] = all(
            torch.equal(a, b) for a, b in zip(gradients[mode], gradients["none"], strict=True)
        )
        yield row
