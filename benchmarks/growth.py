"""How time and memory grow with frames, resolution, depth and batch: exponents of a power law.

An exponent is the slope of a straight line through the logarithms; the same fit to the computed
FLOPs says what to expect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from training.estimate import flops

from . import timing
from .forward_video import config_of, inputs, ours
from .peers import Size

SIZE = Size(depth=1, frames=4)
REPETITIONS = 3
GROWN = {
    "frames": [replace(SIZE, frames=n) for n in (4, 8, 16)],
    "side": [replace(SIZE, side=n) for n in (8, 12, 16, 24)],
    "depth": [replace(SIZE, depth=n) for n in (1, 2, 4)],
    "batch": [1, 2, 4],
}
"""Side: tokens along a side of a frame, so pixels over 16."""


def run() -> Iterator[dict]:
    """One row per measured size, then one per fit."""
    yield from timing.between_rooflines("fp32", _rows())


@torch.inference_mode()
def _rows() -> Iterator[dict]:
    for what, steps in GROWN.items():
        values, calls, gflop = [], {}, []
        for at in steps:
            size, batch = (SIZE, at) if what == "batch" else (at, 1)
            value = batch if what == "batch" else getattr(size, what)
            config = config_of(size)
            model = ours(config, torch.float32)
            given = inputs(config, size, torch.float32, batch)
            calls[value] = lambda model=model, given=given: model(**given)
            shape = tuple(given["x_BCTHW"].shape[2:])
            work = batch * flops(config, shape, size.text_tokens, train=False)
            values.append(value)
            gflop.append(work / 1e9)
        peaks = [timing.peak_bytes(call) / 2**20 for call in calls.values()]
        taken = timing.in_turn(calls, REPETITIONS)
        best = [taken[value].best for value in values]
        for i, value in enumerate(values):
            yield {
                "what": what,
                "value": value,
                "repetitions": REPETITIONS,
                "median_s": round(taken[value].median, 4),
                "best_s": round(best[i], 4),
                "gflop": round(gflop[i], 2),
                "gflop_per_s": round(gflop[i] / best[i], 1),
                "peak_mib": round(peaks[i], 1),
            }
        yield {
            "what": f"exponent, {what}",
            "time": exponent(values, best),
            "flops": exponent(values, gflop),
            "memory": exponent(values, peaks),
        }


def exponent(values: Sequence[float], measured: Sequence[float]) -> float:
    """b of measured = a * value^b, by least squares on the logarithms."""
    return round(float(np.polyfit(np.log(values), np.log(measured), 1)[0]), 2)
