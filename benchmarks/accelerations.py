"""What an artist can switch on to sample faster, with nano: work saved against what it changes.

Work is counted: samples that went through the network's blocks, beside those of the whole sampling
(euler, 50 steps, cfg 4, every step guided). What is changed is the PSNR of the decoded videos to
that sampling's, and to the limit of many steps, which tells solvers apart. Prompts are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .peers import install_host
from .sample import NANO

PROMPTS = 8
CFG, STEPS, MANY = 4.0, 50, 200
FULL = {"sampler_name": "euler", "steps": STEPS}


def run() -> Iterator[dict]:
    """One row for each way, from the least to the most that it saves."""
    install_host()
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    with torch.inference_mode():
        yield from _rows()


def _rows() -> Iterator[dict]:
    import folder_paths

    from tests.nodes import scenes

    folder = Path(folder_paths.get_folder_paths("checkpoints")[-1])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nano.safetensors"
    if not path.exists():
        path.symlink_to(NANO)
    loaded = scenes.load(path)
    videos = list(_videos(loaded))
    plain = loaded.model
    full, all_passes = _sampled(loaded, videos, plain, FULL)
    limit, _ = _sampled(loaded, videos, plain, {**FULL, "steps": MANY})
    rows = []
    for name, (patch, settings) in ways().items():
        made, passes = _sampled(loaded, videos, patch(plain), {**FULL, **settings})
        to_full = _psnr(made, full)
        rows.append(
            {
                "what": name,
                "passes": round(passes / len(videos), 1),
                "times_fewer": round(all_passes / passes, 2),
                "psnr_to_full_db": None if name == "full" else round(float(to_full.mean()), 1),
                "worst_db": None if name == "full" else round(float(to_full.min()), 1),
                "psnr_to_limit_db": round(float(_psnr(made, limit).mean()), 1),
                "videos": len(videos),
            }
        )
    yield from sorted(rows, key=lambda row: row["times_fewer"])


def ways() -> dict[str, tuple[Callable[[Any], Any], dict[str, Any]]]:
    """Name, patch of the MODEL and settings of KSampler of everything that is compared."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    from tests.nodes import tiny

    def interval(start: float, end: float) -> Callable[[Any], Any]:
        return lambda model: tiny.run("STIVGuidanceInterval", model=model, start=start, end=end)

    def cache(threshold: float) -> Callable[[Any], Any]:
        settings = {"start_percent": 0.15, "end_percent": 0.95, "verbose": False}
        return lambda model: tiny.run(
            EasyCacheNode, model=model, reuse_threshold=threshold, **settings
        )

    def same(model: Any) -> Any:
        return model

    found = {"full": (same, {})}
    for start, end in ((0.0, 0.8), (0.0, 0.6), (0.0, 0.4), (0.1, 1.0), (0.2, 0.8)):
        found[f"guided from {start:g} to {end:g}"] = (interval(start, end), {})
    for threshold in (0.02, 0.05, 0.1, 0.2):
        found[f"EasyCache {threshold:g}"] = (cache(threshold), {})
    for sampler, steps in (
        ("euler", 25), ("dpmpp_2m", 25), ("uni_pc", 25), ("heun", 13), ("dpmpp_2m", 15),
        ("uni_pc", 15), ("uni_pc", 10),
    ):  # fmt: skip
        found[f"{sampler}, {steps} steps"] = (same, {"sampler_name": sampler, "steps": steps})
    fast = {"sampler_name": "dpmpp_2m", "steps": 20}
    found["dpmpp_2m, 20 steps, guided to 0.8"] = (interval(0.0, 0.8), fast)
    return found


def _videos(loaded: Any) -> Iterator[Any]:
    from tests.nodes import scenes, tiny
    from training.shapes.captions import held_out_prompts

    negative = loaded.text("")
    latent = tiny.run("STIVEmptyLatent", width=64, height=64, frames=16, batch_size=1)
    for prompt, _ in held_out_prompts(PROMPTS):
        yield scenes.Scene(loaded.model, loaded.text(prompt), negative, latent)


def _sampled(loaded: Any, videos: list, model: Any, settings: dict) -> tuple[list[Tensor], int]:
    """Decoded videos, and how many samples went through the blocks for all of them."""
    passes = 0

    def count(block, args) -> None:
        nonlocal passes
        passes += len(args[0])

    hook = model.model.diffusion_model.blocks[0].register_forward_pre_hook(count)
    try:
        samples = [
            video.but(model=model).sample(cfg=CFG, seed=index, **settings)
            for index, video in enumerate(videos)
        ]
    finally:
        hook.remove()
    return [loaded.vae.decode(one)[0] for one in samples], passes


def _psnr(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """(n,) dB, 99 where nothing differs by more than rounding."""
    errors = [(a - b).square().mean() for a, b in zip(made, wanted, strict=True)]
    return -10 * torch.stack(errors).clamp(min=10**-9.9).log10()
