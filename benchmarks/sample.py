"""Guided sampling in ComfyUI against the bare forward passes that it consists of.

The core KSampler, euler, 50 steps, in the real host in this process; the bare passes call the
network with what the host gave it, as often as the host did.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from scripts.prepare import ROOT

from . import timing
from .peers import install_host

STEPS, CFG = 50, 7.5
REPETITIONS = 3
NANO = ROOT / "models" / "stiv_nano.safetensors"
WIDE = {"width": 512, "depth": 1, "heads": 8, "mask_decoder_blocks": 0}
VIDEOS = {
    # pixels a side, frames, repetitions
    "nano, 16 frames of 64 x 64": (None, 64, 16, REPETITIONS),
    "random weights, one block of width 512, 8 frames of 128 x 128": (WIDE, 128, 8, 3),
}


def run() -> Iterator[dict]:
    """One row per model, then one that says where the time beyond the network goes."""
    install_host()
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    yield from timing.between_rooflines("fp32", _rows())


def _rows() -> Iterator[dict]:
    import folder_paths

    from tests.nodes import scenes, tiny

    folder = Path(folder_paths.get_folder_paths("checkpoints")[-1])
    folder.mkdir(parents=True, exist_ok=True)
    for what, (config, side, frames, repetitions) in VIDEOS.items():
        path = folder / f"{'nano' if config is None else 'wide'}.safetensors"
        if config is None:
            if not path.exists():
                path.symlink_to(NANO)
        else:
            tiny.write(path, **config)
        loaded = scenes.load(path)
        latent = tiny.run("STIVEmptyLatent", width=side, height=side, frames=frames, batch_size=1)
        texts = loaded.text("a red circle moves left"), loaded.text("")
        scene = scenes.Scene(loaded.model, *texts, latent)
        yield from _compared(what, scene, repetitions)


def _compared(what: str, scene: Any, repetitions: int) -> Iterator[dict]:
    calls = _calls(scene)
    network = scene.model.model.diffusion_model

    def sample() -> None:
        scene.sample(steps=STEPS, cfg=CFG)

    @torch.inference_mode()
    def bare() -> None:
        for args, options in calls:
            network(*args, **options)

    taken = timing.in_turn({"sampled": sample, "bare": bare}, repetitions)
    ratios = taken["sampled"].over(taken["bare"])
    yield {
        "what": f"guided sampling over bare passes, {what}",
        "threads": torch.get_num_threads(),
        "clock": timing.clock(),
        "repetitions": repetitions,
        "steps": STEPS,
        "calls": len(calls),
        "batch_of_a_call": calls[0][0][0].shape[0],
        "sampled_median_s": round(taken["sampled"].median, 3),
        "bare_median_s": round(taken["bare"].median, 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }
    yield {"what": f"where the time goes, {what}", "shares": _shares(sample)}


def _calls(scene: Any) -> list[tuple[tuple, dict]]:
    """What the host gives the network during one sampling."""
    calls = []
    network = scene.model.model.diffusion_model
    hook = network.register_forward_pre_hook(
        lambda _, args, options: calls.append((args, options)), with_kwargs=True
    )
    try:
        scene.sample(steps=STEPS, cfg=CFG)
    finally:
        hook.remove()
    return calls


def _shares(sample: Callable[[], None]) -> dict[str, float]:
    """The time of each layer of the host without that of the layers below it, as shares."""
    from comfy import samplers
    from comfy.model_base import BaseModel
    from ComfyUI_STIV.nodes.host.network import HostTransformer

    # from the outside in; each calls the next
    layers = {
        "before the first step and after the last": None,
        "sampler's own arithmetic": (samplers.KSAMPLER, "sample"),
        "guidance": (samplers, "sampling_function"),
        "batching of the conditions": (samplers, "_calc_cond_batch"),
        "casts and time": (BaseModel, "_apply_model"),
        "network": (HostTransformer, "forward"),
    }
    seconds: dict[str, float] = defaultdict(float)
    now = timing.CLOCKS[timing.clock()]
    with ExitStack() as stack:
        for name, place in layers.items():
            if place:
                stack.enter_context(_timed(*place, name, seconds))
        start = now()
        sample()
        whole = now() - start
    spent = [whole, *(seconds[name] for name, place in layers.items() if place), 0.0]
    return {name: round((spent[i] - spent[i + 1]) / whole, 4) for i, name in enumerate(layers)}


@contextmanager
def _timed(owner: Any, name: str, label: str, seconds: dict[str, float]) -> Iterator[None]:
    """Within it, calls of owner.name add their time to seconds[label]."""
    function, now = getattr(owner, name), timing.CLOCKS[timing.clock()]

    def timed(*args: Any, **options: Any) -> Any:
        start = now()
        try:
            return function(*args, **options)
        finally:
            seconds[label] += now() - start

    with mock.patch.object(owner, name, timed):
        yield
