"""`python -m training sample` gives the latents of a ComfyUI graph with the Euler sampler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene, load
from tests.nodes.test_sampling import assert_given, close
from training.sampling import Sampler


def as_trained(loaded: Loaded, scene: Scene) -> torch.Tensor:
    """The scene's latents by the training's own sampler."""
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
    return sampler.latents(["a red circle moves left"], clean, mask, seed=7) / scale + shift


@pytest.mark.parametrize("positions", ["", "first"])
def test_same_seed_and_settings_give_the_same_latents(loaded: Loaded, positions: str) -> None:
    scene = loaded.scene(positions)
    assert close(as_trained(loaded, scene), scene.sample()) < 1e-5


@pytest.mark.parametrize("mode", ["instead", "beside"])
def test_a_picture_in_cross_attention_is_used_as_in_training(
    mode: str, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny.write(
        folders["checkpoints"] / f"{mode}.safetensors",
        training={"recipe": {"data": {"image_attention": mode}}},
        image_cross_attention=True,
    )
    loaded = load(path)
    without = loaded.scene().sample()
    for positions in ("first", "last"):  # without the first frame the picture is zeros
        scene = loaded.scene(positions)
        samples = scene.sample()
        assert close(as_trained(loaded, scene), samples) < 1e-5
        if mode == "beside":
            assert_given(samples, scene)
        else:
            changed = close(samples, without)
            assert changed > 1e-3 if positions == "first" else changed < 1e-5
        warned = "looks at the first frame alone" in caplog.text
        assert warned == (mode == "instead" and positions == "last")
