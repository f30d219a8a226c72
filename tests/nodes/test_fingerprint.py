"""Fingerprints of MODELs, CONDITIONINGs and VAEs: what changes them, and what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from ComfyUI_STIV.nodes.host import fingerprint as module
from ComfyUI_STIV.nodes.host.fingerprint import (
    Fingerprint,
    conditioning_fingerprint,
    fingerprint,
    model_fingerprint,
    vae_fingerprint,
)
from ComfyUI_STIV.stiv.checkpoint import read_checkpoint

from scripts.prepare import ROOT, find_host
from tests.nodes import fingerprints, scenes, tiny, wan
from tests.nodes.scenes import Loaded, Scene


@pytest.fixture(scope="module")
def models(loaded: Loaded, folders: dict[str, Path]) -> dict[str, Any]:
    fingerprints.write_lora(folders["loras"])
    return fingerprints.models(loaded.path)


def digest(model: Any) -> str:
    taken = model_fingerprint(model)
    assert taken.lasting and not taken.reason, taken.reason
    return taken.digest


def sampled(model: Any, scene: Scene) -> None:
    if isinstance(model.model, type(wan.build().model)):
        tiny.sample(model, wan.text(1), wan.text(2), wan.latent(), steps=2)
    else:
        scene.but(model=model).sample(steps=6)


def test_every_difference_counts(models: dict[str, Any]) -> None:
    digests = {name: digest(model) for name, model in models.items()}
    assert len(set(digests.values())) == len(digests)
    assert all(len(one) == 64 for one in digests.values())


def test_what_a_card_decides_counts(folders: dict[str, Path]) -> None:
    """The same weights, which the card says are to be sampled otherwise."""
    cards: dict[str, dict[str, Any]] = {
        "beside": {"training": {"recipe": {"data": {"image_attention": "beside"}}}},
        "instead": {"training": {"recipe": {"data": {"image_attention": "instead"}}}},
        "stride": {"stride": 3},
        "none": {},
    }
    folder = folders["checkpoints"]
    digests = {
        name: digest(
            scenes.load(
                tiny.write(folder / f"card_{name}.safetensors", image_cross_attention=True, **card)
            ).model
        )
        for name, card in cards.items()
    }
    assert len(set(digests.values())) == len(cards)


def test_made_again_in_the_same_way(models: dict[str, Any], loaded: Loaded) -> None:
    """Another load of the same file, and the same nodes after it."""
    again = fingerprints.models(loaded.path)
    assert {n: digest(m) for n, m in again.items()} == {n: digest(m) for n, m in models.items()}
    assert again["plain"].model is not models["plain"].model


def test_a_copy_is_the_same_model(models: dict[str, Any]) -> None:
    for name, model in models.items():
        assert digest(model.clone()) == digest(model), name


def test_joint_guidance_alone_changes_nothing(models: dict[str, Any]) -> None:
    joint = tiny.run(
        "STIVGuidance", model=models["plain"], mode="joint", image_scale=1.5, renorm=False
    )
    assert digest(joint) == digest(models["plain"])


def test_sampling_changes_no_fingerprint(models: dict[str, Any], scene: Scene) -> None:
    """Each before and after its own run and those of all others, loaded and unloaded."""
    before = {name: digest(model) for name, model in models.items()}
    for model in models.values():
        sampled(model, scene)
    after = {name: digest(model) for name, model in models.items()}
    assert [name for name in models if before[name] != after[name]] == []
    for model in models.values():
        model.detach()
    assert before == {name: digest(model) for name, model in models.items()}


def test_another_process_takes_the_same(models: dict[str, Any], loaded: Loaded) -> None:
    here = fingerprints.taken(loaded.path)
    command = [sys.executable, "-m", "tests.nodes.fingerprints", str(find_host())]
    run = subprocess.run(
        [*command, folder_paths.base_path, str(loaded.path)], cwd=ROOT, check=True,
        capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    there = json.loads(run.stdout.splitlines()[-1])
    assert [name for name in here if here[name] != there[name]] == [] and len(here) == len(there)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp8_e4m3fn"])
def test_weight_dtype(folders: dict[str, Path], dtype: str) -> None:
    path = tiny.write(folders["diffusion_models"] / "dtype.safetensors")
    load = "STIVLoadModel"
    default = tiny.run(load, model_name=path.name, weight_dtype="fp32")
    other = tiny.run(load, model_name=path.name, weight_dtype=dtype)
    again = tiny.run(load, model_name=path.name, weight_dtype=dtype)
    assert digest(other) == digest(again) != digest(default)


def test_the_kind_of_device_counts(loaded: Loaded) -> None:
    placed = [loaded.model.clone() for _ in range(2)]
    for number, model in enumerate(placed):
        model.load_device = torch.device("cuda", number)
    assert digest(placed[0]) == digest(placed[1]) != digest(loaded.model)


def test_weights_that_are_converted_when_they_are_loaded(folders: dict[str, Path]) -> None:
    """On a GPU the host keeps a file's dtype, and converts some weights in place when it loads."""
    path = tiny.write(folders["diffusion_models"] / "converted.safetensors")
    model = tiny.run("STIVLoadModel", model_name=path.name, weight_dtype="bf16")
    _, parts = read_checkpoint(path)
    model.model.load_model_weights(dict(parts["diffusion_model"]), "", assign=True)
    before = digest(model)
    dtypes = {name: weight.dtype for name, weight in model.model.named_parameters()}
    model._load_list(for_dynamic=True, default_device=torch.device("cpu"))
    assert dtypes != {name: weight.dtype for name, weight in model.model.named_parameters()}
    assert digest(model) == before


def test_compute_dtype(loaded: Loaded) -> None:
    cast = loaded.model.clone()
    cast.set_model_compute_dtype(torch.bfloat16)
    assert digest(cast) != digest(loaded.model)


def test_one_weight(folders: dict[str, Path], loaded: Loaded) -> None:
    """Weights decide, not names, dates or what the card says of them."""
    path = tiny.write(folders["checkpoints"] / "other_name.safetensors")
    other = scenes.load(path).model
    assert digest(other) == digest(loaded.model)
    with torch.no_grad():
        other.model.diffusion_model.final.linear.bias.data[0] += 1e-6
    assert digest(other) != digest(loaded.model)


def test_a_large_weight_changed_in_place() -> None:
    big = torch.zeros(1_000_003)
    before = fingerprint(big).digest
    assert fingerprint(big).digest == before
    for change in (
        lambda: big.data.add_(1), lambda: big[5].fill_(7), lambda: big.data[5].zero_(),
        lambda: big.copy_(torch.arange(1_000_003)), lambda: big.copy_(big.roll(1021)),
    ):  # fmt: skip
        seen = fingerprint(big).digest
        change()
        assert fingerprint(big).digest == fingerprint(big.clone()).digest != seen
    assert fingerprint(big.zero_()).digest == before


def test_the_order_of_wrappers_counts(loaded: Loaded) -> None:
    def wrapped(*keys: str) -> Any:
        model = loaded.model.clone()
        for key in keys:
            model.add_wrapper_with_key("outer_sample", key, fingerprints.scaled)
        return model

    assert digest(wrapped("a", "b")) != digest(wrapped("b", "a"))


def test_a_merged_model(models: dict[str, Any], folders: dict[str, Path]) -> None:
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    other = scenes.load(tiny.write(folders["checkpoints"] / "shifted.safetensors", shift=2.0)).model
    merged = [
        tiny.run(ModelMergeSimple, model1=models["plain"], model2=other, ratio=ratio)
        for ratio in (0.5, 0.5, 0.6)
    ]
    assert digest(merged[0]) == digest(merged[1]) != digest(merged[2])
    assert digest(merged[0]) != digest(models["plain"])


def test_another_copys_patches_are_not_this_models(models: dict[str, Any], scene: Scene) -> None:
    """While one is loaded, its patched weights and objects stand in the shared model."""
    plain = digest(models["plain"])
    for name in ("LoRA 0.5", "shift 3", "LoRA beside 0.5", "method exchanged", "injected"):
        sampled(models[name], scene)
        assert models[name].model is models["plain"].model
        assert digest(models["plain"]) == plain, name


def test_compiled(loaded: Loaded) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def compiled(backend: str) -> Any:
        model = loaded.model.clone()
        set_torch_compile_wrapper(model, backend=backend)
        return model

    assert digest(compiled("eager")) == digest(compiled("eager"))
    assert len({digest(compiled("eager")), digest(compiled("inductor")), digest(loaded.model)}) == 3


@pytest.mark.parametrize("place", ["option", "object", "closure", "default", "attachment"])
def test_what_cannot_be_recognised_is_named(loaded: Loaded, place: str) -> None:
    lock = threading.Lock()
    model = loaded.model.clone()
    if place == "option":
        model.model_options["my_option"] = lock
        named = "model_options › my_option"
    elif place == "object":
        model.set_model_sampler_post_cfg_function(fingerprints.Patch(0.5, [lock]))
        named = "sampler_post_cfg_function › [0] › more › [0]"
    elif place == "closure":
        model.set_model_unet_function_wrapper(lambda apply, args: lock)
        named = "model_function_wrapper › lock"
    elif place == "default":
        model.set_model_sampler_cfg_function(lambda args, held=lock: held)
        named = "sampler_cfg_function › default"
    else:
        model.set_attachments("their pack", lock)
        named = "attachments › their pack"
    taken = model_fingerprint(model)
    assert not taken.lasting
    assert taken.reason.startswith("MODEL › ") and named in taken.reason
    assert taken.reason.endswith("a _thread.lock cannot be recognised after a restart")
    assert model_fingerprint(model) == taken, "the same object, in the same process"
    model.set_attachments("another", threading.Lock())
    assert model_fingerprint(model).digest != taken.digest
    assert digest(loaded.model)


def test_a_part_that_does_not_last_is_told_of_the_whole(loaded: Loaded) -> None:
    model = loaded.model.clone()
    model.model_options["my_option"] = threading.Lock()
    parts = {"model": model_fingerprint(model), "seed": 7}
    whole = fingerprint(parts)
    assert not whole.lasting and whole.reason == parts["model"].reason
    assert fingerprint({"model": Fingerprint("ab", True), "seed": 7}).lasting


def test_versions_count(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(loaded.model), vae_fingerprint(loaded.vae).digest
    monkeypatch.setattr(module, "COMPUTE_VERSION", module.COMPUTE_VERSION + 1)
    assert digest(loaded.model) != before[0] and vae_fingerprint(loaded.vae).digest != before[1]
    monkeypatch.undo()
    monkeypatch.setattr(module.comfyui_version, "__version__", "99.0")
    assert digest(loaded.model) != before[0]


# Conditionings and VAEs


def test_conditionings(loaded: Loaded) -> None:
    def taken(conditioning: list) -> str:
        found = conditioning_fingerprint(conditioning)
        assert found.lasting, found.reason
        return found.digest

    scene, same = loaded.scene("first"), loaded.scene("first")
    before = taken(scene.positive)
    assert before == taken(same.positive) and taken(scene.negative) == taken(same.negative)
    scene.sample()
    assert taken(scene.positive) == before
    others = [
        scene.negative, loaded.scene("first,last").positive, loaded.scene().positive, [],
        loaded.text("a blue circle moves left"), [*scene.positive, *scene.positive],
        tiny.run("ConditioningSetTimestepRange", conditioning=scene.positive, start=0.0, end=0.5),
    ]  # fmt: skip
    assert len({before, *map(taken, others)}) == len(others) + 1


def test_hooked_conditionings(models: dict[str, Any], scene: Scene) -> None:
    """A LoRA in a conditioning, with key frames, whose counters a run moves."""
    from comfy_extras.nodes_hooks import (
        CreateHookKeyframe,
        CreateHookLoraModelOnly,
        SetHookKeyframes,
    )

    def hooked(strength: float, later: float) -> list:
        hooks = CreateHookLoraModelOnly().create_hook_model_only("tiny.safetensors", strength)[0]
        frames = CreateHookKeyframe().create_hook_keyframe(1.0, 0.0)[0]
        frames = CreateHookKeyframe().create_hook_keyframe(later, 0.5, frames)[0]
        hooks = SetHookKeyframes().set_hook_keyframes(hooks, frames)[0]
        return [[text, {**extra, "hooks": hooks}] for text, extra in scene.positive]

    first = hooked(0.5, 0.2)
    before = conditioning_fingerprint(first)
    model = digest(models["plain"])
    assert before.lasting, before.reason
    assert conditioning_fingerprint(hooked(0.5, 0.2)) == before
    scene.but(positive=first).sample(steps=6)
    assert conditioning_fingerprint(first) == before
    assert digest(scene.model) == model
    others = [hooked(0.6, 0.2), hooked(0.5, 0.3), scene.positive]
    assert len({before, *map(conditioning_fingerprint, others)}) == 4


def test_vaes(loaded: Loaded, folders: dict[str, Path]) -> None:
    taken = vae_fingerprint(loaded.vae)
    assert taken.lasting, taken.reason
    again = scenes.load(loaded.path).vae
    assert vae_fingerprint(again) == taken
    tiny.run("VAEDecode", samples={"samples": torch.zeros(1, 4, 2, 4, 4)}, vae=again)
    assert vae_fingerprint(again) == taken
    image = again.first_stage_model.vae
    assert vae_fingerprint(image) != taken, "one decodes pictures, the other videos"
    assert vae_fingerprint(tiny.run("STIVVideoVAE", vae=image)) == taken
    with torch.no_grad():
        next(image.first_stage_model.parameters()).data.view(-1)[0] += 1e-3
    assert vae_fingerprint(again) != taken


def test_a_control_net(loaded: Loaded) -> None:
    """The host's own class around a network; a run leaves its picture and times in it."""
    from comfy.controlnet import ControlNet

    def controlled(strength: float, weight: float) -> list:
        network = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(network.weight, weight)
        torch.nn.init.zeros_(network.bias)
        control = ControlNet(network, load_device=torch.device("cpu"))
        control.set_cond_hint(torch.ones(1, 3, 8, 8), strength, (0.0, 0.5))
        return [
            [text, {**extra, "control": control}] for text, extra in loaded.text("a red circle")
        ]

    first = controlled(0.5, 1.0)
    before = conditioning_fingerprint(first)
    assert before.lasting, before.reason
    control = first[0][1]["control"]
    control.pre_run(loaded.model.model, loaded.model.model.model_sampling.percent_to_sigma)
    control.cond_hint = torch.zeros(1)
    assert (
        conditioning_fingerprint(first) == before == conditioning_fingerprint(controlled(0.5, 1.0))
    )
    others = [controlled(0.6, 1.0), controlled(0.5, 1.1)]
    assert len({before, *map(conditioning_fingerprint, others)}) == 3


def test_shift_is_what_the_sampler_takes(loaded: Loaded) -> None:
    """A node that sets what the model has anyway still sets it: another class of sampling."""
    same = tiny.run(ModelSamplingSD3, model=loaded.model, shift=1.0)
    assert digest(same) == digest(tiny.run(ModelSamplingSD3, model=loaded.model, shift=1.0))
