"""Checkpoints in scaled float8 through the host's own operations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy.quant_ops import QuantizedTensor, TensorCoreFP8E4M3Layout
from comfy_extras.nodes_model_merging import ModelSave
from ComfyUI_STIV.nodes.host.fingerprint import model_fingerprint
from ComfyUI_STIV.stiv.checkpoint import read_checkpoint, write_checkpoint
from ComfyUI_STIV.stiv.quantised import (
    dequantise,
    layer_of,
    quantise,
    quantise_layers,
    quantised_layers,
    scale_of,
)
from safetensors.torch import save_file
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_sampling import assert_given, close

LAYER = "blocks.0.spatial_attn.qkv"


@pytest.fixture(scope="module")
def quantised(loaded: Loaded, folders: dict[str, Path]) -> dict[str, Tensor]:
    """The tiny model's tensors in scaled float8; also in a file of models/diffusion_models."""
    card, parts = read_checkpoint(loaded.path)
    tensors = dict(quantise_layers(parts["diffusion_model"]))
    write_checkpoint(folders["diffusion_models"] / "scaled.safetensors", card, tensors)
    return tensors


def load(weight_dtype: str = "default", name: str = "scaled.safetensors") -> Any:
    return tiny.run("STIVLoadModel", model_name=name, weight_dtype=weight_dtype)


def plain(quantised: dict[str, Tensor], loaded: Loaded, folders: dict[str, Path]) -> Any:
    """The numbers that the quantised model stands for, in a model of float32."""
    card, _ = read_checkpoint(loaded.path)
    tensors = {name: tensor.float() for name, tensor in dequantise(quantised).items()}
    write_checkpoint(folders["diffusion_models"] / "plain.safetensors", card, tensors)
    return load(name="plain.safetensors")


@pytest.mark.parametrize("weight_dtype", ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast"])
def test_layers_stay_float8_and_compute_what_they_stand_for(
    quantised: dict, loaded: Loaded, folders: dict, scene: Scene, weight_dtype: str
) -> None:
    """On a CPU all are computed in full precision, so the samples are the very same."""
    model = load(weight_dtype)
    weights = dict(model.model.diffusion_model.named_parameters())
    kept = {name for name in weights if isinstance(weights[name], QuantizedTensor)}
    assert kept == {name for name in weights if layer_of(name)} != set()
    assert all(weights[name]._qdata.dtype == torch.float8_e4m3fn for name in kept)
    samples = scene.but(model=model).sample()
    assert_given(samples, scene)
    assert torch.equal(samples, scene.but(model=plain(quantised, loaded, folders)).sample())
    assert 0 < close(samples, scene.sample()) < 0.2


@pytest.mark.parametrize("size", [1e-6, 0.05, 1000.0])
def test_layers_are_quantised_as_the_host_does_it(size: float) -> None:
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(1)) * size
    theirs, parameters = TensorCoreFP8E4M3Layout.quantize(weight, scale="recalculate")
    scale = scale_of(weight)
    assert torch.equal(scale, parameters.scale)
    assert torch.equal(quantise(weight, scale).float(), theirs.float())


def test_fast_lets_the_host_round_activations_too(quantised: dict) -> None:
    def full_precision(model: Any) -> bool:
        return model.model.diffusion_model.get_submodule(LAYER)._full_precision_mm_config

    assert full_precision(load()) and full_precision(load("fp8_e4m3fn"))
    assert not full_precision(load("fp8_e4m3fn_fast"))


@pytest.mark.parametrize("weight_dtype", ["fp32", "bf16", "fp16", "fp8_e5m2"])
def test_another_dtype_dequantises(
    quantised: dict, loaded: Loaded, scene: Scene, weight_dtype: str
) -> None:
    model = load(weight_dtype)
    dtypes = {parameter.dtype for parameter in model.model.diffusion_model.parameters()}
    assert dtypes == {model.model.get_dtype()}
    weight = model.model.diffusion_model.get_submodule(LAYER).weight
    expected = dequantise(quantised)[f"{LAYER}.weight"]
    torch.testing.assert_close(weight.float(), expected.to(weight.dtype).float(), rtol=0, atol=0)
    assert_given(scene.but(model=model).sample(), scene)


def test_a_mac_gets_whole_numbers(quantised: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_management, "is_device_mps", lambda device: True)
    weights = load().model.diffusion_model.parameters()
    assert not any(isinstance(weight, QuantizedTensor) for weight in weights)


def test_a_lora_on_quantised_layers(
    quantised: dict, loaded: Loaded, folders: dict, scene: Scene
) -> None:
    """As exact as on float32, up to the host's rounding to float8 when it bakes the LoRA in."""
    generator = torch.Generator().manual_seed(9)
    down, up = (torch.randn(s, generator=generator) for s in ((4, 32), (96, 4)))
    name = f"diffusion_model.{LAYER}"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up},
              folders["loras"] / "for_scaled.safetensors")  # fmt: skip

    def with_lora(model: Any) -> Tensor:
        model = tiny.run("LoraLoaderModelOnly", model=model,
                         lora_name="for_scaled.safetensors", strength_model=0.5)  # fmt: skip
        return scene.but(model=model).sample()

    expected = plain(quantised, loaded, folders)
    changed = with_lora(load())
    assert close(changed, with_lora(expected)) < 0.2
    assert close(changed, scene.but(model=expected).sample()) > 0.2


def test_the_hosts_own_save_node_keeps_the_form(quantised: dict, scene: Scene) -> None:
    """What ModelSave writes of such a model, without our metadata, loads again as it was."""
    import folder_paths

    model = load()
    tiny.run(ModelSave, model=model, filename_prefix="saved/scaled")
    (saved,) = Path(folder_paths.get_output_directory(), "saved").glob("scaled*.safetensors")
    target = Path(folder_paths.get_folder_paths("diffusion_models")[-1], "saved_scaled.safetensors")
    saved.rename(target)
    _, parts = read_checkpoint(target, as_stored=True)
    assert quantised_layers(parts["diffusion_model"]) == quantised_layers(quantised)
    again = load(name=target.name)
    assert isinstance(again.model.diffusion_model.get_submodule(LAYER).weight, QuantizedTensor)
    weight = dequantise(parts["diffusion_model"])[f"{LAYER}.weight"]
    assert torch.equal(weight, dequantise(quantised)[f"{LAYER}.weight"])


def test_a_fingerprint_tells_how_layers_are_computed(
    quantised: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device=None: True)
    first, second, fast = (
        model_fingerprint(load(dtype)) for dtype in ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast")
    )
    assert first.lasting, first.reason
    assert first == second != fast


def test_model_info_tells(quantised: dict) -> None:
    text = tiny.run("STIVModelInfo", model=load())
    assert text.endswith("loaded as: float32, the blocks' linear layers as float8 with scales")


def test_a_copy_is_read_again(quantised: dict, scene: Scene) -> None:
    model = load()
    again = model.clone(force_deepcopy=True)
    assert again.model is not model.model
    assert torch.equal(scene.but(model=again).sample(), scene.but(model=model).sample())
