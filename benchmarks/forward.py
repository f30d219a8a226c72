"""Seconds of a forward pass on this CPU, and how near to its matrix multiplication they are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from stiv import MODELS, STIVTransformer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CASES = {
    # name: config, latent shape; XL is measured as one block (its share of the parts around the
    # blocks is taken off) because all of its blocks are the same
    "nano 16x64^2": (MODELS["nano"], (16, 8, 8)),
    "xl, one block, 20x256^2": (replace(MODELS["xl"], mask_decoder_blocks=0), (20, 32, 32)),
}


def median_seconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and best of some runs after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), min(seconds)


def roofline(dtype: torch.dtype) -> float:
    """GFLOP/s of a large matrix product of this dtype."""
    a, b = torch.randn(4096, 1152).to(dtype), torch.randn(1152, 1152).to(dtype)
    return 2 * 4096 * 1152 * 1152 / median_seconds(lambda: a @ b, 9)[1] / 1e9


@torch.inference_mode()
def run() -> Iterator[dict]:
    """One row per case and dtype, with the roofline measured beside it."""
    for case, (config, shape) in CASES.items():
        one_block = "one block" in case
        for dtype_name, dtype in DTYPES.items():
            peak = roofline(dtype)
            with_block = _measure(replace(config, depth=1) if one_block else config, shape, dtype)
            seconds, best, gflop = with_block
            if one_block:
                two = _measure(replace(config, depth=2), shape, dtype)
                seconds, best, gflop = (b - a for a, b in zip(with_block, two, strict=True))
            yield {
                "what": case,
                "dtype": dtype_name,
                "median_s": round(seconds, 4),
                "best_s": round(best, 4),
                "gflop": round(gflop, 2),
                "gflop_per_s": round(gflop / best, 1),
                "roofline_gflop_per_s": round(peak, 1),
                "of_roofline": round(gflop / best / peak, 3),
            }


def _measure(config, shape, dtype) -> tuple[float, float, float]:
    """Median seconds, best seconds and GFLOP of a forward pass."""
    model = STIVTransformer(config, dtype=dtype).requires_grad_(False)
    model.init_weights()
    given = {
        "x_BCTHW": torch.randn(1, config.latent_channels, *shape).to(dtype),
        "t_B": torch.rand(1),
        "text_BLD": torch.randn(1, 77, config.text_width).to(dtype),
        "pooled": torch.randn(1, config.pooled_width).to(dtype),
    }
    with FlopCounterMode(display=False) as counter:
        model(**given)
    median, best = median_seconds(lambda: model(**given), 7)
    return median, best, counter.get_total_flops() / 1e9
