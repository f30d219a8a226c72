"""STIV Guidance Interval and STIV Faster CPU: what they leave out, and what stays the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_extras.nodes_hooks import (
    ConditioningSetProperties,
    CreateHookKeyframe,
    CreateHookLoraModelOnly,
    SetHookKeyframes,
)
from comfy_extras.nodes_lora_debug import LoraLoaderBypassModelOnly
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from ComfyUI_STIV.stiv.packed import PackedForward, can_pack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.nodes import fingerprints, tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_guidance import custom, guidance
from tests.nodes.test_sampling import assert_given, shapes_of_forwards

needs_packing = pytest.mark.skipif(
    not can_pack(torch.float32), reason="this torch has no oneDNN for x86"
)


def interval(model: Any, start: float, end: float) -> Any:
    return tiny.run("STIVGuidanceInterval", model=model, start=start, end=end)


def passes(model: Any, scene: Scene, **sampler: Any) -> tuple[torch.Tensor, int]:
    """A result, and how many samples went through the network for it."""
    model, seen = shapes_of_forwards(model)
    made = scene.but(model=model).sample(**sampler)
    return made, sum(shape[0] for shape in seen)


def test_the_whole_sampling_is_what_it_was(scene: Scene) -> None:
    plain, all_passes = passes(scene.model, scene, steps=4)
    made, used = passes(interval(scene.model, 0.0, 1.0), scene, steps=4)
    assert torch.equal(made, plain) and used == all_passes == 8


@pytest.mark.parametrize(("start", "end", "guided"), [(0.0, 0.5, 2), (0.5, 1.0, 2), (0.3, 0.6, 1)])
def test_passes_outside_are_left_out(scene: Scene, start, end, guided) -> None:
    made, used = passes(interval(scene.model, start, end), scene, steps=4, scheduler="simple")
    assert used == 4 + guided
    assert_given(made, scene)
    assert not torch.equal(made, scene.sample(steps=4, scheduler="simple"))


@given(shift=st.integers(10, 2000).map(lambda hundredths: hundredths / 100))
@example(1.82)
@example(4.03)
@settings(max_examples=20, deadline=None)
def test_a_start_of_nothing_is_the_first_step(scene: Scene, shift: float) -> None:
    """For many shifts the host's first step is a rounding noisier than where it says it begins."""
    shifted = tiny.run(ModelSamplingSD3, model=scene.model, shift=shift)
    _, used = passes(interval(shifted, 0.0, 0.8), scene, steps=1)
    assert used == 2


def test_outside_it_samples_without_guidance(scene: Scene) -> None:
    """The last of two steps alone is guided: the first is that of cfg 1."""
    late = scene.but(model=interval(scene.model, 0.5, 1.0))
    whole = {"steps": 2, "scheduler": "simple"}
    begun = scene.sample(
        **whole, cfg=1.0, start_at_step=0, end_at_step=1, return_with_leftover_noise="enable"
    )
    ended = scene.but(latent={**scene.latent, "samples": begun}).sample(
        **whole, cfg=3.0, add_noise="disable", start_at_step=1, end_at_step=2
    )
    assert torch.allclose(late.sample(**whole, cfg=3.0), ended, atol=1e-5)


@pytest.mark.parametrize("mode", ["joint", "separate"])
@pytest.mark.parametrize("renorm", [False, True])
def test_goes_with_other_guidance(scene: Scene, mode: str, renorm: bool) -> None:
    guided = guidance(scene, mode, renorm)
    whole = scene.but(model=interval(guided, 0.0, 1.0)).sample(steps=4)
    assert torch.equal(whole, scene.but(model=guided).sample(steps=4))
    made, used = passes(interval(guided, 0.0, 0.5), scene, steps=4, scheduler="simple")
    assert used == 4 + 2 * (2 if mode == "separate" else 1)
    assert torch.isfinite(made).all()
    guider = tiny.run(
        "STIVGuider", model=interval(scene.model, 0.0, 0.5), positive=scene.positive,
        negative=scene.negative, cfg=3.0, mode=mode, image_scale=1.5, renorm=renorm,
    )  # fmt: skip
    assert torch.isfinite(custom(scene, guider)).all()


@pytest.mark.parametrize("mode", ["joint", "separate"])
@pytest.mark.parametrize("renorm", [False, True])
def test_comes_before_or_after_other_guidance(scene: Scene, mode: str, renorm: bool) -> None:
    after = interval(guidance(scene, mode, renorm), 0.0, 0.5)
    before = interval(guidance(scene, "separate", True, 4.0), 0.0, 0.5)  # replaced
    before = guidance(scene.but(model=before), mode, renorm)
    (made, used), wanted = passes(before, scene, steps=4), passes(after, scene, steps=4)
    assert torch.equal(made, wanted[0]) and used == wanted[1]


def test_an_interval_that_is_none_is_refused(scene: Scene) -> None:
    for start, end in ((0.6, 0.6), (0.8, 0.2)):
        with pytest.raises(ValueError, match=f"STIV Guidance Interval: .*{start:g} to {end:g}"):
            interval(scene.model, start, end)


# --- packed weights -------------------------------------------------------------------------------


def faster(model: Any) -> Any:
    return tiny.run("STIVFasterCPU", model=model)


@pytest.fixture
def pays(monkeypatch) -> None:
    """Weights are packed whether or not this CPU gains by it."""
    from ComfyUI_STIV.nodes.host import speed

    monkeypatch.setattr(speed, "pays_off", can_pack)


def relative(made: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


def packings(model: Any) -> list[PackedForward]:
    return [of for of in model.object_patches.values() if isinstance(of, PackedForward)]


@needs_packing
def test_the_video_stays_the_same_but_for_rounding(scene: Scene, pays) -> None:
    plain = scene.sample()
    model = faster(scene.model)
    made = scene.but(model=model).sample()
    assert relative(made, plain) < 1e-4
    assert all(of.packed is not None and of.has_gelu == of.gelu for of in packings(model))
    assert torch.equal(scene.sample(), plain)  # the other copy of the MODEL computes as before


@needs_packing
@pytest.mark.parametrize("order", ["lora, packed", "packed, lora"])
def test_loras_come_before_or_after(scene: Scene, folders, order: str, pays) -> None:
    fingerprints.write_lora(folders["loras"])

    def with_lora(model: Any, strength: float) -> Any:
        lora = {"lora_name": "tiny.safetensors", "strength_model": strength}
        return tiny.run("LoraLoaderModelOnly", model=model, **lora)

    model = faster(scene.model)
    for strength in (1.0, -0.5, 0.0):  # on, other, off: weights change under the packed ones
        plain = scene.but(model=with_lora(scene.model, strength)).sample()
        if order == "lora, packed":
            both = faster(with_lora(scene.model, strength))
        else:
            both = with_lora(model, strength)
        made = scene.but(model=both).sample()
        assert relative(made, plain) < 1e-4


@needs_packing
@pytest.mark.parametrize("order", ["lora, packed", "packed, lora"])
def test_loras_beside_the_weights_come_before_or_after(
    scene: Scene, folders, order: str, pays
) -> None:
    """Such a LoRA adds to what a layer gives, before the activation that follows."""
    fingerprints.write_lora(folders["loras"], "blocks.0.mlp.fc1", 128, "beside")

    def with_lora(model: Any) -> Any:
        lora = {"lora_name": "beside.safetensors", "strength_model": 1.0}
        return tiny.run(LoraLoaderBypassModelOnly, model=model, **lora)

    plain = scene.but(model=with_lora(scene.model)).sample()
    assert relative(plain, scene.sample()) > 1e-2
    first, then = (with_lora, faster) if order == "lora, packed" else (faster, with_lora)
    assert relative(scene.but(model=then(first(scene.model))).sample(), plain) < 1e-4


@needs_packing
@pytest.mark.parametrize("where", ["positive", "negative"])
def test_loras_of_a_conditioning_are_followed_and_leave_nothing(
    scene: Scene, folders, where: str, pays
) -> None:
    """The host writes them into the weights and out again within every step."""
    fingerprints.write_lora(folders["loras"])
    hooks = tiny.run(CreateHookLoraModelOnly, lora_name="tiny.safetensors", strength_model=1.0)
    frame = {"strength_mult": 0.5, "start_percent": 0.5}
    keys = tiny.run(CreateHookKeyframe, strength_mult=1.0, start_percent=0.0)
    keys = tiny.run(CreateHookKeyframe, **frame, prev_hook_kf=keys)
    hooks = tiny.run(SetHookKeyframes, hooks=hooks, hook_kf=keys)
    props = {"strength": 1.0, "set_cond_area": "default", "hooks": hooks}
    cond = tiny.run(ConditioningSetProperties, cond_NEW=getattr(scene, where), **props)
    hooked = scene.but(**{where: cond})
    without, plain = scene.sample(), hooked.sample()
    assert relative(plain, without) > 1e-2
    model = faster(scene.model)
    for _ in range(2):
        assert relative(hooked.but(model=model).sample(), plain) < 1e-4
        assert relative(scene.but(model=model).sample(), without) < 1e-4


def test_where_nothing_can_be_packed_it_says_so(loaded: Loaded, monkeypatch) -> None:
    from ComfyUI_STIV.nodes.host import speed

    model = loaded.scene("first").model
    model = model.clone()
    monkeypatch.setattr(speed, "pays_off", lambda dtype: False)
    assert "not be faster for float32" in speed.packing_doubt(model)
    assert not packings(faster(model))
    model.load_device = torch.device("cuda")
    assert "for a CPU" in speed.packing_doubt(model)
