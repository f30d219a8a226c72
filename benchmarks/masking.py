"""A masked training step against a whole one: its time over its share of the FLOPs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from training.estimate import flops
from training.masking import draw_kept_tokens

from . import timing
from .forward_video import SIZE, config_of, inputs, ours
from .train_step import step

KEPT = 0.5
DECODER_BLOCKS = 1
REPETITIONS = 4


def run() -> Iterator[dict]:
    """float32; half of the spatial tokens masked, as the paper trains."""
    yield from timing.between_rooflines("fp32", _rows())


def _rows() -> Iterator[dict]:
    torch.manual_seed(0)
    size = replace(SIZE, depth=2)
    config = config_of(size, mask_decoder_blocks=DECODER_BLOCKS)
    model = ours(config, torch.float32)
    given = inputs(config, size, torch.float32)
    keep = draw_kept_tokens([np.random.default_rng(0)], size.side**2, 1 - KEPT)
    steps = {
        "whole": step(model, lambda: model(**given)),
        "masked": step(model, lambda: model(**given, keep=keep)),
    }
    shape = tuple(given["x_BCTHW"].shape[2:])
    gflop = {
        name: flops(config, shape, size.text_tokens, kept=kept) / 1e9
        for name, kept in (("whole", 1.0), ("masked", KEPT))
    }
    taken = timing.in_turn(steps, REPETITIONS)
    yield from timing.compared(taken, "whole", gflop)
    time_ratio = statistics.median(taken["masked"].over(taken["whole"]))
    work_ratio = gflop["masked"] / gflop["whole"]
    yield {
        "what": "masked over whole",
        "depth": size.depth,
        "decoder_blocks": DECODER_BLOCKS,
        "time_ratio": round(time_ratio, 3),
        "flop_ratio": round(work_ratio, 3),
        "time_over_flops": round(time_ratio / work_ratio, 3),
    }
