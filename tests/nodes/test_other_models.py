"""Guidance and hand-wired plans with the host's own models, tiny and with random weights.

So these tests are about plumbing alone: what reaches the model and what comes back, not how it
looks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy.supported_models import LTXV
from comfy_extras.nodes_lt import EmptyLTXVLatentVideo
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from comfy_extras.nodes_wan import WanFirstLastFrameToVideo
from torch import Tensor

from tests.nodes import tiny, wan
from tests.nodes.scenes import Scene
from tests.nodes.test_guidance import custom
from tests.nodes.test_sampling import close, shapes_of_forwards

SIZE = {"width": 32, "height": 32}


@pytest.fixture(scope="module")
def model() -> Any:
    return wan.build(image_to_video=True)


@pytest.fixture(scope="module")
def vae() -> Any:
    return wan.vae()


def ltxv() -> Any:
    config = LTXV({
        "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64,
        "attention_head_dim": 32, "num_attention_heads": 2, "num_layers": 1,
        "caption_channels": wan.TEXT_WIDTH,
    })  # fmt: skip
    return wan.patcher(config, 0)


def pictures(count: int) -> Tensor:
    return torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(5))


def between(vae: Any, first: Tensor, last: Tensor, frames: int = 5, **size: int) -> tuple:
    """Positive, negative and latent of the host's node for a video between two pictures."""
    return tiny.run(
        WanFirstLastFrameToVideo, positive=wan.text(1), negative=wan.text(2), vae=vae,
        length=frames, batch_size=1, start_image=first, end_image=last, **(size or SIZE),
    )  # fmt: skip


def guided(model: Any, mode: str, image_scale: float = 1.5, renorm: bool = False) -> Any:
    return tiny.run("STIVGuidance", model=model, mode=mode, image_scale=image_scale, renorm=renorm)


def test_joint_is_the_hosts_own_guidance(model: Any, vae: Any) -> None:
    scene = between(vae, *pictures(2).split(1))
    plain = tiny.sample(model, *scene)
    assert torch.isfinite(plain).all()
    assert torch.equal(tiny.sample(guided(model, "joint"), *scene), plain)


def test_separate_steers_the_pictures_of_another_model(model: Any, vae: Any) -> None:
    """With the text alone as the negative, the model's own blank picture is the null image."""
    positive, negative, latent = between(vae, *pictures(2).split(1))
    results = {}
    for scale in (1.0, 3.0):
        patched, seen = shapes_of_forwards(guided(model, "separate", scale))
        results[scale] = tiny.sample(patched, positive, wan.text(2), latent)
        assert [shape[0] for shape in seen] == [3] * 4
        assert torch.isfinite(results[scale]).all()
    assert close(results[1.0], results[3.0]) > 1e-3
    # As strong as the prompt: joint.
    joint = tiny.sample(guided(model, "joint"), positive, wan.text(2), latent)
    assert close(results[3.0], joint) < 1e-4
    # As strong as they are without guidance: as if both had them.
    both = tiny.sample(guided(model, "separate", 1.0), positive, negative, latent)
    assert close(both, tiny.sample(model, positive, negative, latent)) < 1e-4
    assert close(results[1.0], both) < 1e-4


def test_the_guider_agrees(model: Any, vae: Any) -> None:
    settings = {"mode": "separate", "image_scale": 1.5, "renorm": True}
    scene = Scene(model, *between(vae, *pictures(2).split(1))).but(negative=wan.text(2))
    texts = {"positive": scene.positive, "negative": scene.negative}
    guider = tiny.run("STIVGuider", model=model, cfg=3.0, **texts, **settings)
    patched = tiny.run("STIVGuidance", model=model, **settings)
    assert torch.equal(custom(scene, guider), scene.but(model=patched).sample(cfg=3.0))


@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_renorm_on_another_model(model: Any, vae: Any, mode: str) -> None:
    """One step from pure noise: the velocity's norm is that of the conditional alone."""
    positive, _, latent = between(vae, *pictures(2).split(1))
    format_ = model.model.latent_format
    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(7))

    def velocity(patched: Any, cfg: float) -> Tensor:
        samples = tiny.sample(patched, positive, wan.text(2), latent, cfg=cfg, steps=1)
        return format_.process_in(samples) - noise

    conditional = velocity(model, 1.0).norm().item()
    plain, renormed = (velocity(guided(model, mode, renorm=r), 9.0) for r in (False, True))
    assert renormed.norm().item() == pytest.approx(conditional, rel=1e-3)
    assert plain.norm().item() != pytest.approx(conditional, rel=1e-2)
    direction = torch.nn.functional.cosine_similarity(renormed.flatten(), plain.flatten(), 0)
    assert direction.item() == pytest.approx(1.0, abs=1e-4)


def test_ltxv_is_guided() -> None:
    """No picture is among its conditions, so separate is plain guidance."""
    model = ltxv()
    latent = tiny.run(EmptyLTXVLatentVideo, width=64, height=64, length=9, batch_size=1)
    mask = {"attention_mask": torch.ones(1, 5, dtype=torch.long)}
    texts = [[[tensor, mask]] for seed in (1, 2) for tensor, _ in wan.text(seed)]
    scene = (*texts, latent)
    plain = tiny.sample(model, *scene)
    assert torch.isfinite(plain).all()
    for mode in ("joint", "separate"):
        assert close(tiny.sample(guided(model, mode), *scene), plain) < 1e-5
        assert close(tiny.sample(guided(model, mode, renorm=True), *scene), plain) > 1e-3


def test_a_model_without_flow_matching_is_refused() -> None:
    """Nodes of the host make it one."""
    eps = tiny.run(ModelSamplingDiscrete, model=wan.build(), sampling="eps", zsnr=False)
    with pytest.raises(ValueError, match=r"STIV Guidance needs a flow-matching model.*got WAN21"):
        guided(eps, "joint")


@pytest.mark.parametrize("made", [False, True])
def test_a_plan_is_made_by_another_model(model: Any, vae: Any, made: bool) -> None:
    """Plan -> segments -> the host's first-last node -> KSampler -> VAE Decode -> join."""
    given = pictures(3)
    placed = None if made else tiny.run("STIVPlaceFrames", frames=given, positions="0,4,8")
    plan, _ = tiny.run(
        "STIVLongVideoPlan", prompts="a red circle", key_frames=3, stride=4, closing=True,
        fps=8.0, window=5, carry=1, seed=4, **SIZE, **({} if made else {"stiv_frames": placed}),
    )  # fmt: skip
    parts = {}
    for number in range(2):
        *_, seed, _, first, last, frames, width, height = tiny.run(
            "STIVSegment", plan=plan, number=number, **({"made": given} if made else {})
        )
        assert torch.equal(torch.cat([first, last]), given[number : number + 2])
        scene = between(vae, first, last, frames, width=width, height=height)
        samples = tiny.sample(guided(model, "joint", renorm=True), *scene, seed=seed)
        parts[f"segment{number}"] = tiny.run("VAEDecode", samples={"samples": samples}, vae=vae)
        assert len(parts[f"segment{number}"]) == frames == 5
    images, video, report = tiny.run(
        "STIVJoinSegments", segments=parts, fps=plan.plan.fps, shared=1, images=True
    )
    assert torch.equal(images, torch.cat([parts["segment0"], parts["segment1"][1:]]))
    assert len(images) == plan.plan.frames == video.get_frame_count() == 9
    assert report.startswith("9 frames of 2 segments")
