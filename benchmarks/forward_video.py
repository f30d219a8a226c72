"""A video's forward pass against what a user would pick instead: same tokens, depth and width.

`ratio` is a run's time over that of ours as it is, `ratio_to_packed` over ours with packed linears,
round by round in one process.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from stiv import STIVConfig, STIVTransformer
from stiv.packed import can_pack, pack
from training.memory import set_checkpointing

from . import open_sora, timing
from .peers import CHANNELS, PATCH, Size, host_wan, install_host, latte, randomise

SIZE = Size(depth=2)
REPETITIONS = 9
OURS, PARTS = "ours", "diffusers parts, same weights"
PACKED, COMPILED = "ours, packed", "ours, blocks compiled"
Runs = dict[str, Callable[[], Tensor]]


def config_of(size: Size, **changes: object) -> STIVConfig:
    """The paper's final model without blocks for masked training, at a benchmark's size."""
    return STIVConfig(
        **{
            "latent_channels": CHANNELS, "width": size.width, "depth": size.depth,
            "heads": size.heads, "patch": PATCH, "text_width": size.text_width,
            "pooled_width": size.text_width, "mask_decoder_blocks": 0, **changes,
        }
    )  # fmt: skip


def ours(config: STIVConfig, dtype: torch.dtype) -> STIVTransformer:
    """Random weights everywhere, so that an error anywhere shows in the output."""
    model = STIVTransformer(config, dtype=dtype).requires_grad_(False)
    randomise(model)
    return model


def inputs(config: STIVConfig, size: Size, dtype: torch.dtype, batch: int = 1) -> dict[str, Tensor]:
    """What ours is given for the tokens of a size."""
    side = PATCH * size.side
    shape = (batch, CHANNELS, config.temporal_patch * size.frames, side, side)
    return {
        "x_BCTHW": torch.randn(shape).to(dtype),
        "t_B": torch.full((batch,), 0.5),
        "text_BLD": size.text(dtype).expand(batch, -1, -1),
        "pooled": torch.randn(batch, config.pooled_width).to(dtype),
    }


def run() -> Iterator[dict]:
    """float32 and bfloat16."""
    return of_dtypes(SIZE, _rows)


def of_dtypes(size: Size, rows: Callable[[Size, str], Iterator[dict]]) -> Iterator[dict]:
    """The rows of each dtype that this CPU multiplies."""
    install_host()
    for dtype in timing.DTYPES:
        if timing.has_products(timing.DTYPES[dtype]):
            yield {"what": "setting", "dtype": dtype, **vars(size)}
            yield from timing.between_rooflines(dtype, rows(size, dtype))
        else:
            yield {"what": "all", "dtype": dtype, "skipped": timing.NO_PRODUCTS}


@torch.inference_mode()
def _rows(size: Size, dtype_name: str) -> Iterator[dict]:
    from .parts import from_parts

    torch.manual_seed(0)
    dtype = timing.DTYPES[dtype_name]
    config = config_of(size)
    model = ours(config, dtype)
    given = inputs(config, size, dtype)
    parts = from_parts(model, (size.frames, size.side, size.side))
    runs: Runs = {OURS: lambda: model(**given), PARTS: lambda: parts(**given)}
    add_others(runs, model, given)
    runs["diffusers Latte"] = latte(size, dtype).call
    folder = open_sora.find()
    if folder:
        runs["Open-Sora STDiT3"] = open_sora.stdit3(folder, size, dtype).call
    else:
        yield {"what": "Open-Sora STDiT3", "skipped": f"{open_sora.VARIABLE} names no checkout"}
    runs["ComfyUI Wan, as on a CPU"] = host_wan(size, dtype, sdpa=False).call
    runs["ComfyUI Wan, SDPA"] = host_wan(size, dtype, sdpa=True).call
    yield from measured(runs, REPETITIONS, same=(PACKED, COMPILED, PARTS))


def add_others(runs: Runs, model: STIVTransformer, given: Mapping[str, Tensor]) -> None:
    """Copies of the model with packed linears, where this CPU can pack, and compiled blocks."""
    if can_pack(model.dtype):
        packed = copy.deepcopy(model)
        pack(packed)
        runs[PACKED] = lambda: packed(**given)
    compiled = copy.deepcopy(model)
    set_checkpointing(compiled, "none", compiled=True)
    runs[COMPILED] = lambda: compiled(**given)


def measured(runs: Runs, repetitions: int, same: tuple[str, ...]) -> Iterator[dict]:
    """A row per run with its time, memory and, for those in `same`, its distance from ours; then
    where the time of ours goes."""
    reference = runs[OURS]().float()
    hidden = (PACKED, COMPILED)  # from the counter: their products are no ordinary operations
    gflop = {name: timing.count_gflop(call) for name, call in runs.items() if name not in hidden}
    gflop.update(dict.fromkeys(hidden, gflop[OURS]))
    errors = {
        name: timing.relative_error(runs[name]().float(), reference)
        for name in same
        if name in runs
    }
    peaks = {name: timing.peak_bytes(call) / 2**20 for name, call in runs.items()}
    taken = timing.in_turn(runs, repetitions)
    for row in timing.compared(taken, OURS, gflop):
        name = row["what"]
        row["peak_mib"] = round(peaks[name], 1)
        if PACKED in taken:
            ratios = taken[name].over(taken[PACKED])
            row["ratio_to_packed"] = round(statistics.median(ratios), 3)
        if name in errors:
            row["error"] = float(f"{errors[name]:.2g}")
        yield row
    for name in (OURS, PACKED):
        if name in runs:
            yield {"what": f"shares of the time, {name}", "shares": timing.shares(runs[name])}
