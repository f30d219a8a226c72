"""Peak memory of a LoRA's steps, one setting of training/recipes/low_memory.yaml after the other.

On a CUDA device: the most that torch's allocator gave out, at the recipe's own sizes. Without one,
bytes of live tensors are counted on the CPU for a small cut of the network: these compare the
settings with each other and are no device's peak.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from stiv import MODELS, STIVConfig
from training.lora import add_lora
from training.low_precision import bytes_held, freeze_in
from training.memory import set_checkpointing
from training.networks import Networks
from training.optimizer import build_optimizer
from training.swap import swap_blocks

from .live import standing_in

SETTINGS = {
    "none": (),
    "full checkpointing": ("full",),
    "full checkpointing, fp8": ("full", "fp8"),
    "full checkpointing, fp8, swap": ("full", "fp8", "swap"),
    "full checkpointing, fp8, swap, offload": ("full", "fp8", "swap", "offload"),
}
RANK, STEPS = 8, 5
TEXT_TOKENS, TEXT_WIDTH = 77, 1280  # of clip_g


def run() -> Iterator[dict]:
    """A row per setting: bfloat16 products, float32 adapter, AdaFactor with bfloat16 momentum."""
    config, latents = MODELS["xl"], (1, 4, 20, 32, 32)
    if torch.cuda.is_available():
        for name, setting in SETTINGS.items():
            yield {"what": name, **_peak_on_cuda(config, latents, setting)}
        return
    config, latents = replace(config, depth=6, mask_decoder_blocks=0), (1, 4, 4, 32, 32)
    yield {
        "what": "peak memory of a device",
        "skipped": "needs CUDA; what follows are bytes of live tensors on the CPU, of "
        f"{config.depth} blocks of XL with latents of {latents}",
    }
    for name, setting in SETTINGS.items():
        yield {"what": name, **_counted_on_cpu(config, latents, setting)}


def _peak_on_cuda(config: STIVConfig, latents: tuple[int, ...], setting: tuple[str, ...]) -> dict:
    """Of whole steps, the first of which makes the optimizer's state and is not timed."""
    gc.collect()
    torch.cuda.empty_cache()
    networks, step = _prepared(config, latents, setting, torch.device("cuda"))
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(STEPS + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {
        "device": torch.cuda.get_device_name(),
        "weights_mib": _mib(bytes_held(networks)),
        "peak_mib": _mib(torch.cuda.max_memory_allocated()),
        "peak_reserved_mib": _mib(torch.cuda.max_memory_reserved()),
        "median_step_ms": round(1e3 * statistics.median(seconds[1:]), 1),
    }


def _counted_on_cpu(config: STIVConfig, latents: tuple[int, ...], setting: tuple[str, ...]) -> dict:
    """Of one step after the first; without what kernels use inside."""
    networks, step = _prepared(config, latents, setting, torch.device("cpu"))
    step()
    weights = bytes_held(networks)
    with standing_in() as live:
        step()
    return {"weights_mib": _mib(weights), "live_peak_mib": _mib(weights + live.peak)}


def _prepared(
    config: STIVConfig, latents: tuple[int, ...], setting: tuple[str, ...], device: torch.device
) -> tuple[Networks, Callable[[], None]]:
    """The networks, and a step with one sample as a run takes it."""
    networks = Networks(config, dtype=torch.bfloat16)
    model = networks["diffusion_model"]
    model.init_weights(torch.Generator().manual_seed(0))
    add_lora(model, RANK, float(RANK))
    if "fp8" in setting:
        freeze_in(model, torch.float8_e4m3fn)
    if "swap" in setting:
        swap_blocks(model, config.depth + config.mask_decoder_blocks)
    mode = "full" if "full" in setting else "none"
    set_checkpointing(model, mode, offload="offload" in setting)
    networks.to(device)
    trained = [(name, p) for name, p in networks.named_parameters() if p.requires_grad]
    optimizer = build_optimizer(trained, "adafactor", 1e-4, momentum="bf16")
    x, t = torch.randn(latents, device=device), torch.full((latents[0],), 0.5, device=device)
    prompt = {
        "states": torch.randn(latents[0], TEXT_TOKENS, TEXT_WIDTH, device=device),
        "mask": torch.ones(latents[0], TEXT_TOKENS, device=device),
        "pooled": torch.randn(latents[0], TEXT_WIDTH, device=device),
    }

    def step() -> None:
        networks(x, t, prompt).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return networks, step


def _mib(size: int) -> float:
    return round(size / 2**20, 1)
