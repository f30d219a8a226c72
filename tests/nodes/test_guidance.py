"""STIV's guidance under any sampler node, against the host's own guiders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    BasicScheduler,
    CFGGuider,
    DualCFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_easycache import EasyCacheNode
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_sampling import assert_given, close, shapes_of_forwards


def custom(scene: Scene, guider: Any, sampler: str = "euler") -> Tensor:
    """The samples of SamplerCustomAdvanced, with the settings of `tiny.sample`."""
    output, _ = tiny.run(
        SamplerCustomAdvanced,
        noise=tiny.run(RandomNoise, noise_seed=7),
        guider=guider,
        sampler=tiny.run(KSamplerSelect, sampler_name=sampler),
        sigmas=tiny.run(
            BasicScheduler, model=scene.model, scheduler="simple", steps=4, denoise=1.0
        ),
        latent_image=scene.latent,
    )
    return output["samples"]


def guidance(scene: Scene, mode: str, renorm: bool = False, image_scale: float = 1.5) -> Any:
    settings = {"mode": mode, "image_scale": image_scale, "renorm": renorm}
    return tiny.run("STIVGuidance", model=scene.model, **settings)


def test_a_guider_without_a_negative_has_nothing_to_separate(scene: Scene) -> None:
    plain = tiny.run(BasicGuider, model=scene.model, conditioning=scene.positive)
    model = guidance(scene, "separate")
    separate = tiny.run(BasicGuider, model=model, conditioning=scene.positive)
    made = custom(scene, separate)
    assert torch.isfinite(made).all() and made.shape == custom(scene, plain).shape


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("renorm", [False, True])
@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_ksampler_and_guider_agree(scene: Scene, mode: str, renorm: bool, cfg: float) -> None:
    settings = {"mode": mode, "image_scale": 1.5, "renorm": renorm}
    guider = tiny.run(
        "STIVGuider",
        model=scene.model,
        positive=scene.positive,
        negative=scene.negative,
        cfg=cfg,
        **settings,
    )
    guided = tiny.run("STIVGuidance", model=scene.model, **settings)
    ksampler = scene.but(model=guided).sample(cfg=cfg)
    assert torch.equal(ksampler, custom(scene, guider))
    assert_given(ksampler, scene)


def test_joint_is_plain_cfg(scene: Scene) -> None:
    plain = scene.sample()
    assert torch.equal(scene.but(model=guidance(scene, "joint")).sample(), plain)
    core = tiny.run(
        CFGGuider, model=scene.model, positive=scene.positive, negative=scene.negative, cfg=3.0
    )
    assert torch.equal(custom(scene, core), plain)


@pytest.mark.parametrize("positions", ["first", "first,last"])
def test_separate_is_the_cores_dual_guider(loaded: Loaded, positions: str) -> None:
    scene = loaded.scene(positions)
    given = {"stiv_frames": scene.positive[0][1]["stiv_frames"]}
    image_only = [[text, {**extra, **given}] for text, extra in scene.negative]
    dual = tiny.run(
        DualCFGGuider,
        model=scene.model,
        cond1=scene.positive,
        cond2=image_only,
        negative=scene.negative,
        cfg_conds=3.0,
        cfg_cond2_negative=1.5,
        style="regular",
    )
    ours = scene.but(model=guidance(scene, "separate")).sample(cfg=3.0)
    assert close(ours, custom(scene, dual)) < 1e-5
    assert close(ours, scene.sample()) > 1e-3


def test_separate_runs_three_passes_as_one_batch(scene: Scene) -> None:
    model, seen = shapes_of_forwards(guidance(scene, "separate"))
    scene.but(model=model).sample()
    assert [shape[0] for shape in seen] == [3] * 4


def test_separate_without_frames_is_plain_cfg(loaded: Loaded) -> None:
    scene = loaded.scene()
    model, seen = shapes_of_forwards(guidance(scene, "separate"))
    assert close(scene.but(model=model).sample(), scene.sample()) < 1e-5
    assert [shape[0] for shape in seen] == [2] * 4


def test_equal_scales_of_separate_are_joint(scene: Scene) -> None:
    separate = scene.but(model=guidance(scene, "separate", image_scale=3.0)).sample(cfg=3.0)
    assert close(separate, scene.sample(cfg=3.0)) < 1e-4


def test_renorm_keeps_the_conditional_magnitude(loaded: Loaded) -> None:
    """One step from pure noise: the velocity's norm is that of the conditional alone."""
    scene = loaded.scene("first")
    card = scene.model.model.card
    scale, shift = (torch.tensor(card.latents[k]).view(1, -1, 1, 1, 1) for k in ("scale", "shift"))
    noise = torch.randn(scene.clean.shape, generator=torch.Generator().manual_seed(7))

    def velocity(samples: Tensor) -> Tensor:
        return ((samples - shift) * scale - noise)[:, :, ~scene.mask]

    conditional = velocity(scene.sample(cfg=1.0, steps=1))
    plain = velocity(scene.sample(cfg=5.0, steps=1))
    renormed = velocity(
        scene.but(model=guidance(scene, "joint", renorm=True)).sample(cfg=5.0, steps=1)
    )
    assert renormed.norm().item() == pytest.approx(conditional.norm().item(), rel=1e-4)
    direction = torch.nn.functional.cosine_similarity(renormed.flatten(), plain.flatten(), 0)
    assert direction.item() == pytest.approx(1.0, abs=1e-5)


def test_guidance_with_caches_and_uneven_prompts(loaded: Loaded, scene: Scene) -> None:
    cached = tiny.run(
        EasyCacheNode,
        model=guidance(scene, "separate", renorm=True),
        reuse_threshold=10.0,
        start_percent=0.1,
        end_percent=0.95,
        verbose=False,
    )
    assert_given(scene.but(model=cached).sample(steps=8), scene)
    long = loaded.text("a red circle moves left " * 4)
    uneven = scene.but(model=guidance(scene, "separate", renorm=True), negative=long)
    assert_given(uneven.sample(), scene)


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "uni_pc", "dpmpp_sde"])
def test_guidance_under_other_samplers(scene: Scene, sampler: str) -> None:
    model = guidance(scene, "separate", renorm=True)
    assert_given(scene.but(model=model).sample(sampler_name=sampler), scene)


def test_the_model_that_went_in_is_not_changed(scene: Scene) -> None:
    before = scene.sample()
    guidance(scene, "separate", renorm=True)
    assert torch.equal(scene.sample(), before)


SETTINGS = [("joint", False), ("joint", True), ("separate", False), ("separate", True)]


@pytest.mark.parametrize("earlier", SETTINGS, ids=str)
@pytest.mark.parametrize("later", SETTINGS, ids=str)
def test_a_later_guidance_replaces_an_earlier_one(scene: Scene, earlier, later) -> None:
    first = guidance(scene, *earlier, image_scale=4.0)
    before = scene.but(model=first).sample()
    both = scene.but(model=guidance(scene.but(model=first), *later))
    alone = scene.but(model=guidance(scene, *later)).sample()
    assert torch.equal(both.sample(), alone)
    given = {"positive": scene.positive, "negative": scene.negative, "cfg": 3.0}
    settings = {"mode": later[0], "image_scale": 1.5, "renorm": later[1]}
    assert torch.equal(
        custom(scene, tiny.run("STIVGuider", model=first, **given, **settings)), alone
    )
    assert torch.equal(scene.but(model=first).sample(), before)  # what went in is not changed


def test_guidance_of_other_nodes_stays(scene: Scene) -> None:
    def halved(args: dict[str, Any]) -> Tensor:
        return args["denoised"] / 2

    model = scene.model.clone()
    model.set_model_sampler_post_cfg_function(halved)
    theirs = scene.but(model=model)
    both = guidance(scene.but(model=guidance(theirs, "separate", renorm=True)), "joint")
    assert torch.equal(scene.but(model=both).sample(), theirs.sample())
    assert both.model_options["sampler_post_cfg_function"] == [halved]


def test_an_unknown_mode_is_named(scene: Scene) -> None:
    with pytest.raises(ValueError, match="mode is 'both': expected one of joint, separate"):
        guidance(scene, "both")
