"""STIV Guidance Interval and STIV Faster CPU: what they leave out, and what stays the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ComfyUI_STIV.stiv.packed import PackedForward, can_pack

from tests.nodes import fingerprints, tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_guidance import custom, guidance
from tests.nodes.test_sampling import assert_given, shapes_of_forwards

needs_packing = pytest.mark.skipif(
    not can_pack(torch.float32), reason="this torch has no oneDNN for x86"
)


def interval(model: Any, start: float, end: float) -> Any:
    return tiny.run("STIVGuidanceInterval", model=model, start=start, end=end)


def passes(model: Any, scene: Scene, **settings) -> tuple[torch.Tensor, int]:
    """A result, and how many samples went through the network for it."""
    model, seen = shapes_of_forwards(model)
    made = scene.but(model=model).sample(**settings)
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


def packings(model: Any) -> list[PackedForward]:
    return [of for of in model.object_patches.values() if isinstance(of, PackedForward)]


@needs_packing
def test_the_video_stays_the_same_but_for_rounding(scene: Scene, pays) -> None:
    plain = scene.sample()
    model = faster(scene.model)
    made = scene.but(model=model).sample()
    assert (made - plain).norm() / plain.norm() < 1e-4
    assert all(forward.packed is not None for forward in packings(model))
    assert torch.equal(scene.sample(), plain)  # the other copy of the MODEL computes as before


@needs_packing
@pytest.mark.parametrize("order", ["lora, packed", "packed, lora"])
def test_loras_come_before_or_after(scene: Scene, folders, order: str, pays) -> None:
    fingerprints.write_lora(folders["loras"])

    def with_lora(model: Any, strength: float) -> Any:
        settings = {"lora_name": "tiny.safetensors", "strength_model": strength}
        return tiny.run("LoraLoaderModelOnly", model=model, **settings)

    model = faster(scene.model)
    for strength in (1.0, -0.5, 0.0):  # on, other, off: weights change under the packed ones
        plain = scene.but(model=with_lora(scene.model, strength)).sample()
        if order == "lora, packed":
            both = faster(with_lora(scene.model, strength))
        else:
            both = with_lora(model, strength)
        made = scene.but(model=both).sample()
        assert (made - plain).norm() / plain.norm() < 1e-4


def test_where_nothing_can_be_packed_it_says_so(loaded: Loaded, monkeypatch) -> None:
    from ComfyUI_STIV.nodes.host import speed

    model = loaded.scene("first").model
    model = model.clone()
    monkeypatch.setattr(speed, "pays_off", lambda dtype: False)
    assert "not be faster for float32" in speed.packing_doubt(model)
    assert not packings(faster(model))
    model.load_device = torch.device("cuda")
    assert "for a CPU" in speed.packing_doubt(model)
