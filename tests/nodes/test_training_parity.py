"""`python -m training sample` gives the latents of a ComfyUI graph with the Euler sampler."""

from __future__ import annotations

import pytest
import torch

from tests.nodes import tiny
from tests.nodes.scenes import Loaded
from training.sampling import Sampler


@pytest.mark.parametrize("positions", ["", "first"])
def test_same_seed_and_settings_give_the_same_latents(loaded: Loaded, positions: str) -> None:
    scene = loaded.scene(positions)
    sampler = Sampler.from_checkpoint(loaded.path, steps=4, guidance_scale=3.0)
    assert sampler.shape == (4, tiny.FRAMES, tiny.SIDE, tiny.SIDE)
    # The host keeps text encoders in float16, as files that we export do: round this one too.
    sampler.velocity.__self__["text_encoder"].half().float()
    scale, shift = (
        torch.tensor(sampler.codec.latents[k]).view(1, -1, 1, 1, 1) for k in ("scale", "shift")
    )
    clean = mask = None
    if scene.clean is not None:
        clean = (scene.clean - shift) * scale
        clean, mask = clean.expand(1, *sampler.shape), scene.mask[None]
    got = sampler.latents(["a red circle moves left"], clean, mask, seed=7) / scale + shift
    expected = scene.sample()
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
