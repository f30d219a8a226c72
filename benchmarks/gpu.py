"""On a CUDA device: how near forward passes and training steps of XL come to its matrix products.

What is compared runs in turn, so that a clock that moves moves all of them. MFU is of the FLOPs of
the closed forms (`training.estimate`) over the matrix product measured here, which a card reaches,
and not over its data sheet.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from stiv import MODELS, STIVTransformer
from stiv.flow import flow_loss
from training.estimate import flops
from training.memory import set_checkpointing
from training.networks import Networks
from training.optimizer import build_optimizer

SHAPES = {"20x256^2": (20, 32, 32), "20x512^2": (20, 64, 64)}
TEXT_TOKENS = 77
_XL = replace(MODELS["xl"], mask_decoder_blocks=0)


def seconds(runs: Mapping[str, Callable[[], object]], repeats: int = 10) -> dict[str, float]:
    """Median seconds of every run, taken in turn; each has run three times before."""
    for run in runs.values():
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            taken[name].append(begin.elapsed_time(end) / 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def roofline() -> tuple[float, float]:
    """FLOP/s of a bfloat16 matrix product, and bytes per second of a copy (read and written)."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    taken = seconds({"product": lambda: a @ b, "copy": lambda: target.copy_(source)})
    return 2 * 8192**3 / taken["product"], 2 * source.nbytes / taken["copy"]


def run_forward() -> Iterator[dict]:
    """Forward passes, eager and compiled, one sample and two."""
    yield from _between_rooflines(_forwards)


def run_training() -> Iterator[dict]:
    """Training steps, whole and masked."""
    yield from _between_rooflines(_steps)


def _between_rooflines(rows: Callable[[float], Iterator[dict]]) -> Iterator[dict]:
    """The roofline first and last, so that a disturbed run shows; a reason without a GPU."""
    if not torch.cuda.is_available():
        yield {"what": "left out: torch sees no CUDA device"}
        return
    peak, copied = roofline()
    yield {
        "what": "roofline",
        "device": torch.cuda.get_device_name(),
        "tflop_per_s": round(peak / 1e12, 1),
        "copy_tb_per_s": round(copied / 1e12, 2),
    }
    yield from rows(peak)
    yield {"what": "roofline, again", "tflop_per_s": round(roofline()[0] / 1e12, 1)}


# --- forward --------------------------------------------------------------------------------------


@torch.no_grad()
def _forwards(peak: float) -> Iterator[dict]:
    plain = _model()
    compiled = _model()
    compiled.load_state_dict(plain.state_dict())
    set_checkpointing(compiled, "none", compiled=True)
    for name, shape in SHAPES.items():
        one, two = _inputs(shape, 1), _inputs(shape, 2)
        error = _error(compiled(**two), plain(**two))
        runs = {
            "eager": lambda one=one: plain(**one),
            "compiled blocks": lambda one=one: compiled(**one),
            "compiled blocks, CUDA graph": _graph(lambda one=one: compiled(**one)),
            "eager, batch of 2": lambda two=two: plain(**two),
            "compiled blocks, batch of 2": lambda two=two: compiled(**two),
            "compiled blocks, batch of 2, CUDA graph": _graph(lambda two=two: compiled(**two)),
        }
        for case, taken in seconds(runs).items():
            count = 2 if "batch of 2" in case else 1
            work = count * flops(_XL, shape, TEXT_TOKENS, train=False)
            yield {
                "what": f"forward, xl, {name}, bf16: {case}",
                "ms": round(1000 * taken, 2),
                "ms_per_sample": round(1000 * taken / count, 2),
                "mfu": round(work / taken / peak, 3),
            }
        yield {"what": f"compiled against eager, {name}", "relative_error": round(error, 5)}


def _model() -> STIVTransformer:
    model = STIVTransformer(_XL, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    model.init_weights()
    torch.nn.init.normal_(model.final.linear.weight, std=0.02)  # zeros would hide every error
    return model


def _inputs(shape: tuple[int, int, int], batch: int) -> dict[str, Tensor]:
    def noise(*sizes: int) -> Tensor:
        return torch.randn(batch, *sizes, device="cuda", dtype=torch.bfloat16)

    return {
        "x_BCTHW": noise(_XL.latent_channels, *shape),
        "t_B": torch.rand(batch, device="cuda"),
        "text_BLD": noise(TEXT_TOKENS, _XL.text_width),
        "pooled": noise(_XL.pooled_width),
    }


def _graph(call: Callable[[], object]) -> Callable[[], None]:
    """The call as a CUDA graph: its kernels are launched at once."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _error(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).float().norm() / reference.float().norm())


# --- training -------------------------------------------------------------------------------------


STEPS = (("20x256^2", 8, 0.5), ("20x256^2", 8, 1.0), ("20x512^2", 2, 1.0))
"""(shape, batch, share of the tokens that masking keeps) of the training steps."""


def _steps(peak: float) -> Iterator[dict]:
    torch.compiler.reset()  # the shapes of other cases count towards torch's limit
    with torch.device("cuda"):
        networks = Networks(MODELS["xl"], dtype=torch.bfloat16)
    networks["diffusion_model"].init_weights()
    set_checkpointing(networks["diffusion_model"], "selective", compiled=True)
    optimizer = build_optimizer(networks.named_parameters(), momentum="bf16")
    for name, batch, kept in STEPS:
        torch.cuda.reset_peak_memory_stats()
        step = _step(networks, optimizer, SHAPES[name], batch, kept)
        taken = seconds({"step": step}, repeats=6)["step"]
        work = batch * flops(MODELS["xl"], SHAPES[name], TEXT_TOKENS, kept=kept)
        yield {
            "what": f"training step, xl, {name}, batch {batch}, bf16, compiled, selective",
            "kept_tokens": kept,
            "ms": round(1000 * taken, 1),
            "mfu": round(work / taken / peak, 3),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        }


def _step(networks, optimizer, shape, batch: int, kept: float) -> Callable[[], None]:
    config = MODELS["xl"]
    given = _inputs(shape, batch)
    x, target = given["x_BCTHW"].float(), torch.randn_like(given["x_BCTHW"]).float()
    mask = torch.zeros(batch, shape[0], dtype=torch.bool, device="cuda")
    prompt = {
        "states": given["text_BLD"],
        "mask": torch.ones(batch, TEXT_TOKENS, dtype=torch.bool, device="cuda"),
        "pooled": given["pooled"],
    }
    tokens = shape[1] * shape[2] // config.patch**2
    keep = None
    if kept < 1:
        chosen = torch.rand(batch, tokens, device="cuda").argsort(1)
        keep = chosen[:, : int(kept * tokens)].sort(1).values

    def step() -> None:
        velocity = networks(x, given["t_B"], prompt, keep=keep)
        flow_loss(velocity, target, mask).mean().backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
