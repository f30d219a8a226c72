"""What ComfyUI will do with each model on cards of several sizes: load whole, offload, batch.

The host's own functions decide, on tensors without numbers (meta device) and with its question for
free memory answered by the simulated card; nothing is allocated and no GPU is needed.

    python -m benchmarks.memory > docs/memory.md
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch

from stiv import MODELS

from . import timing
from .peers import install_host

GIB = 2**30
CARDS = (8, 12, 16, 24, 80)
"""GiB of a card."""
TAKEN = GIB // 2
"""Of a card before the host loads anything: CUDA's own share and a desktop's."""
NETWORKS = ("xl", "xxl", "m")
WEIGHTS = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
VIDEOS = {"20 × 256²": (20, 32, 32), "20 × 512²": (20, 64, 64), "80 × 512²": (80, 64, 64)}
"""Frames and pixels; latent frames, height, width."""
META = torch.device("meta")


@dataclass(frozen=True)
class Outcome:
    """What the host does with one model, dtype and video on one card; sizes in bytes."""

    weights: int
    one: float
    """The host's estimate of a pass with one video."""
    loaded: int
    batch: int
    """Conditions (prompt and negative prompt) that run at once: 1 or 2."""

    @property
    def whole(self) -> bool:
        """Whether all weights stay on the card."""
        return self.loaded >= self.weights


def run() -> Iterator[dict]:
    """The estimate against a measured peak, then a row per model, dtype, video and card."""
    install_host()
    yield _estimate_against_peak()
    for name in NETWORKS:
        for weights in WEIGHTS:
            for video in VIDEOS:
                for card in CARDS:
                    found = outcome(name, weights, video, card)
                    yield {
                        "what": f"{name}, {weights}, {video}",
                        "card_gib": card,
                        "weights_gib": round(found.weights / GIB, 2),
                        "pass_gib": round(found.one / GIB, 2),
                        "offloaded_gib": round((found.weights - found.loaded) / GIB, 2),
                        "conditions_at_once": found.batch,
                    }


def outcome(name: str, weights: str, video: str, card: int) -> Outcome:
    """Let the host load a model on a card and run one guided step."""
    from comfy import model_management, sampler_helpers, samplers

    shape = (1, MODELS[name].latent_channels, *VIDEOS[video])
    free = card * GIB - TAKEN
    patcher = _patcher(name, weights)
    with _card(patcher, free) as batches:
        two, one = sampler_helpers.estimate_memory(patcher, shape, {})
        model_management.load_models_gpu(
            [patcher], memory_required=two, minimum_memory_required=one
        )
        loaded = patcher.loaded_size()
        condition = [{"model_conds": {}, "uuid": 0}]
        x = torch.empty(shape, device=META)
        samplers.calc_cond_batch(patcher.model, [condition, condition], x, torch.ones(1), {})
        model_management.current_loaded_models.clear()
    return Outcome(patcher.model_size(), one, loaded, max(batches))


def _patcher(name: str, weights: str) -> Any:
    """Of a new network each time: the host writes to it what it has loaded."""
    from comfy.model_patcher import ModelPatcher
    from ComfyUI_STIV.nodes.host.model import STIVModelConfig
    from ComfyUI_STIV.stiv.checkpoint import Card
    from ComfyUI_STIV.stiv.config import MODELS as HOST_MODELS
    from ComfyUI_STIV.stiv.public import LATENT_SPACES

    config = replace(HOST_MODELS[name], mask_decoder_blocks=0)
    card = Card(
        config=config,
        latents=LATENT_SPACES["sd"],
        text={
            "encoder": "clip_g", "width": config.text_width,
            "pooled_width": config.pooled_width, "max_tokens": 77,
        },
        tasks=[],
        sampling={"shift": 1.0},
        modelspec={},
    )  # fmt: skip
    model_config = STIVModelConfig(card)
    dtype = WEIGHTS[weights]
    model_config.set_inference_dtype(dtype, None if dtype == torch.bfloat16 else torch.bfloat16)
    model = model_config.get_model({}, device=META)
    patcher = ModelPatcher(model, load_device=META, offload_device=torch.device("cpu"))
    model.current_patcher = patcher
    return patcher


@contextmanager
def _card(patcher: Any, free: int) -> Iterator[list[int]]:
    """Within it the host sees a card with this much free; the list fills with batch sizes."""
    import comfy.ops
    from comfy import model_management as management

    batches: list[int] = []

    def apply(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        batches.append(x.shape[0])
        return x

    def left(_: Any = None, torch_free_too: bool = False) -> Any:
        found = free - patcher.model.model_loaded_weight_memory
        return (found, found) if torch_free_too else found

    changed = [
        (management, "get_free_memory", left),
        (management, "vram_state", management.VRAMState.NORMAL_VRAM),
        (management, "pytorch_attention_flash_attention", lambda: True),  # as on NVIDIA's
        (comfy.ops.disable_weight_init, "_zero_init_parameter", lambda *_: None),  # no numbers
        (patcher.model, "apply_model", apply),
    ]
    with ExitStack() as stack:
        for owner, name, value in changed:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield batches


@torch.inference_mode()
def _estimate_against_peak() -> dict:
    """One block of XL at 20 x 256^2: what torch's allocator gave out over the host's estimate."""
    from .forward_video import inputs, ours
    from .peers import Size

    config = replace(MODELS["xl"], depth=1, mask_decoder_blocks=0)
    T, H, W = VIDEOS["20 × 256²"]
    size = Size(1, config.width, config.heads, T // config.temporal_patch, H // config.patch)
    model = ours(config, torch.float32)
    given = inputs(config, size, torch.float32)
    peak = timing.peak_bytes(lambda: model(**given))
    from ComfyUI_STIV.nodes.host.model import memory_usage_factor

    factor = memory_usage_factor(config)
    estimate = T * H * W * 4 * 0.01 * factor * 2**20
    return {
        "what": "estimate of a pass over its measured peak, xl, fp32, 20 × 256²",
        "peak_mib": round(peak / 2**20, 1),
        "estimate_mib": round(estimate / 2**20, 1),
        "ratio": round(estimate / peak, 3),
    }


# --- the page -------------------------------------------------------------------------------------


def page() -> str:
    """The table as Markdown, with what it means."""
    install_host()
    logging.getLogger().setLevel(logging.ERROR)
    rows = [
        "# Memory on cards of several sizes",
        "",
        "What ComfyUI does with each model, decided by its own functions for a simulated card: how "
        "much of the weights it keeps there, and whether prompt and negative prompt run as one "
        "batch. Nothing here was run on such a card. Printed by `python -m benchmarks.memory`.",
        "",
        f"Taken for granted: {TAKEN / GIB:g} GiB of the card is used by others; text encoder and "
        "VAE have been unloaded; NVIDIA, torch's attention, and ComfyUI's ordinary loading "
        "(`--disable-dynamic-vram`). Dynamic loading, its default where it is supported, moves "
        "weights by need instead of deciding beforehand; whether it batches follows the same rule.",
        "",
        "Weights and one pass in GiB. **whole**: all weights stay on the card. **−2.1**: 2.1 GiB "
        "wait in the computer's memory and are fetched at every step, which is slower. **×2**: "
        "both prompts at once; **×1**: one after the other. The estimate of a pass is ComfyUI's "
        "with this pack's factor, about a third above the peak that torch's allocator shows on a "
        "CPU (`python -m benchmarks memory`).",
        "",
        "| model, weights, video | weights | a pass | "
        + " | ".join(f"{c} GB" for c in CARDS)
        + " |",
        "|---|---|---|" + "---|" * len(CARDS),
    ]
    for name in NETWORKS:
        for weights in WEIGHTS:
            for video in VIDEOS:
                found = [outcome(name, weights, video, card) for card in CARDS]
                cells = [
                    f"{name.upper()}, {weights}, {video}",
                    f"{found[0].weights / GIB:.1f}",
                    f"{found[0].one / GIB:.2f}",
                    *map(_cell, found),
                ]
                rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(found: Outcome) -> str:
    place = "whole" if found.whole else f"−{(found.weights - found.loaded) / GIB:.1f}"
    return f"{place} ×{found.batch}"


if __name__ == "__main__":
    print(page())
