"""STIV Save Checkpoint: what is saved loads again as it was on the wires."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.cli_args import args
from comfy.quant_ops import QuantizedTensor
from comfy_api.latest import io
from comfy_extras.nodes_lora_debug import LoraLoaderBypassModelOnly
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from comfy_extras.nodes_model_merging import CheckpointSave, ModelMergeSimple
from ComfyUI_STIV.nodes.host import disk
from ComfyUI_STIV.stiv import checkpoint, tensor_file
from ComfyUI_STIV.stiv.checkpoint import Card, read_checkpoint, write_checkpoint
from ComfyUI_STIV.stiv.model import STIVTransformer
from ComfyUI_STIV.stiv.quantised import quantise_layers, quantised_layers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_sampling import close

LAYER = "blocks.0.spatial_attn.qkv"


@pytest.fixture(scope="module", autouse=True)
def listed(folders: dict[str, Path]) -> Path:
    """As the host's main does it: what is saved is offered by the loaders."""
    import folder_paths

    path = Path(folder_paths.get_output_directory(), "checkpoints")
    folder_paths.add_model_folder_path("checkpoints", str(path))
    return path


@pytest.fixture
def outputs(listed: Path) -> Path:
    shutil.rmtree(listed, ignore_errors=True)
    return listed


def write(model: Any, prefix: str = "stiv/model", dtype: str = "as loaded", **more: Any) -> str:
    """Run the node; what it shows."""
    inputs = {"model": model, "filename_prefix": prefix, "dtype": dtype, "title": "", "license": ""}
    output = tiny.PACK["STIVSaveCheckpoint"].EXECUTE_NORMALIZED(**{**inputs, **more})
    (text,) = output.ui.as_dict()["text"]
    return text


def only_file(outputs: Path) -> Path:
    (path,) = outputs.rglob("*.safetensors")
    return path


def load(outputs: Path) -> Loaded:
    path = only_file(outputs)
    name = path.relative_to(outputs).as_posix()
    return Loaded(path, *tiny.run("STIVLoadCheckpoint", ckpt_name=name))


def lora(folders: dict[str, Path], clip: bool = False) -> str:
    """A LoRA of one layer of the network, and on wish one of the text encoder."""
    generator = torch.Generator().manual_seed(9)
    layers = {f"diffusion_model.{LAYER}": (32, 96)}
    if clip:
        layers["text_encoders.clip_stiv.transformer.blocks.0.fc1"] = (24, 96)
    tensors = {}
    for name, (inner, outer) in layers.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, inner, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(outer, 4, generator=generator)
    save_file(tensors, folders["loras"] / "to_bake.safetensors")
    return "to_bake.safetensors"


def with_lora(model: Any, folders: dict[str, Path], strength: float = 0.5) -> Any:
    name = lora(folders)
    return tiny.run("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)


@pytest.mark.parametrize("sampled_before", [False, True])
def test_a_lora_is_baked_in(
    loaded: Loaded, folders: dict, scene: Scene, outputs: Path, sampled_before: bool
) -> None:
    """Also when the host has put it into the weights already."""
    model = with_lora(loaded.model, folders)
    expected = scene.but(model=model).sample() if sampled_before else None
    text = write(model, clip=loaded.clip, vae=loaded.vae)
    again = load(outputs)
    found = scene.but(model=again.model).sample()
    assert torch.equal(found, scene.but(model=model).sample() if expected is None else expected)
    assert close(found, scene.sample()) > 1e-3
    assert "baked in: lora, on 1 tensors" in text
    training = again.model.model.card.training
    assert training["operations"] == [{
        "operation": "save", "dtype": "as loaded",
        "patches": {"tensors": 1, "kinds": ["lora"]},
        "parents": [loaded.model.model.card.tensor_hash],
    }]  # fmt: skip


def test_text_encoder_and_vae_go_inside(loaded: Loaded, scene: Scene, outputs: Path) -> None:
    text = write(loaded.model, clip=loaded.clip, vae=loaded.vae)
    again = load(outputs)
    card, before = again.model.model.card, loaded.model.model.card
    assert (card.text, card.config, card.tasks) == (before.text, before.config, before.tasks)
    assert f"saved: {Path('checkpoints/stiv/model_00001_.safetensors')}" in text
    assert "inside the file" in text
    for node, old in zip(again.text("a red circle"), loaded.text("a red circle"), strict=True):
        assert torch.equal(node[0], old[0])
    latents = {"samples": torch.randn(1, 4, 2, 8, 8)}
    decoded = [tiny.run("VAEDecode", samples=latents, vae=of.vae) for of in (again, loaded)]
    assert torch.equal(*decoded)
    read_checkpoint(again.path, verify=True)


def test_a_lora_of_the_text_encoder_is_baked_in(
    loaded: Loaded, folders: dict, outputs: Path
) -> None:
    model, clip = tiny.run(
        "LoraLoader", model=loaded.model, clip=loaded.clip, lora_name=lora(folders, clip=True),
        strength_model=0.0, strength_clip=0.5,
    )  # fmt: skip
    write(model, clip=clip)
    found, expected, plain = (
        tiny.run("STIVTextEncode", clip=of, text="a red circle")[0][0]
        for of in (load(outputs).clip, clip, loaded.clip)
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_the_model_alone(loaded: Loaded, scene: Scene, outputs: Path) -> None:
    text = write(loaded.model)
    again = load(outputs)
    assert again.clip is None and again.vae is None
    assert "text encoder: none connected, so none inside" in text
    assert "vocab" not in again.model.model.card.text
    assert set(load_file(again.path)) == set(loaded.model.model.diffusion_model.state_dict())
    assert torch.equal(scene.but(model=again.model).sample(), scene.sample())


def test_a_merge_is_baked_in(loaded: Loaded, scene: Scene, folders: dict, outputs: Path) -> None:
    other = with_lora(loaded.model, folders, 1.0)
    merged = tiny.run(ModelMergeSimple, model1=loaded.model, model2=other, ratio=0.5)
    text = write(merged)
    found = scene.but(model=load(outputs).model).sample()
    assert torch.equal(found, scene.but(model=merged).sample())
    assert "baked in: merge" in text


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_dtypes(loaded: Loaded, outputs: Path, dtype: str, expected: torch.dtype) -> None:
    write(loaded.model, dtype=dtype, clip=loaded.clip, vae=loaded.vae)
    _, parts = read_checkpoint(only_file(outputs), verify=True)
    _, before = read_checkpoint(loaded.path)
    for part in ("diffusion_model", "text_encoder"):
        assert {tensor.dtype for tensor in parts[part].values()} == {expected}
        for name, tensor in before[part].items():
            in_memory = tensor.half() if part == "text_encoder" else tensor  # as the host loads it
            assert torch.equal(parts[part][name], in_memory.to(expected)), name


def test_weights_too_large_for_fp16_are_refused(
    loaded: Loaded, folders: dict, outputs: Path
) -> None:
    model = with_lora(loaded.model, folders, 1e5)
    with pytest.raises(ValueError, match=rf"1 tensors .*too large for fp16 .*{LAYER}.*choose bf16"):
        write(model, dtype="fp16")
    assert not list(outputs.rglob("*.*"))


@pytest.fixture(scope="module")
def scaled(loaded: Loaded, folders: dict[str, Path]) -> Any:
    card, parts = read_checkpoint(loaded.path)
    path = folders["diffusion_models"] / "scaled_to_save.safetensors"
    write_checkpoint(path, card, quantise_layers(parts["diffusion_model"]))
    return tiny.run("STIVLoadModel", model_name=path.name, weight_dtype="default")


@pytest.mark.parametrize("patched", [False, True])
def test_quantised_layers_stay_so(
    scaled: Any, scene: Scene, folders: dict, outputs: Path, patched: bool
) -> None:
    model = with_lora(scaled, folders) if patched else scaled
    write(model)
    again = load(outputs).model
    weight = again.model.diffusion_model.get_submodule(LAYER).weight
    assert isinstance(weight, QuantizedTensor)
    assert torch.equal(scene.but(model=again).sample(), scene.but(model=model).sample())
    tensors = read_checkpoint(only_file(outputs), as_stored=True, verify=True)[1]
    assert len(quantised_layers(tensors["diffusion_model"])) == 18 + 9


def test_quantised_layers_as_numbers(
    scaled: Any, scene: Scene, folders: dict, outputs: Path
) -> None:
    model = with_lora(scaled, folders)
    write(model, dtype="fp32")
    assert {t.dtype for t in load_file(only_file(outputs)).values()} == {torch.float32}
    again = load(outputs).model
    assert torch.equal(scene.but(model=again).sample(), scene.but(model=model).sample())


def test_weights_are_those_of_the_hosts_own_save_node(
    loaded: Loaded, folders: dict, outputs: Path
) -> None:
    """Of a model in float8, where baking rounds, by the host's seeds."""
    import folder_paths

    card, parts = read_checkpoint(loaded.path)
    path = folders["diffusion_models"] / "to_cast.safetensors"
    write_checkpoint(path, card, parts["diffusion_model"])
    model = tiny.run("STIVLoadModel", model_name=path.name, weight_dtype="fp8_e4m3fn")
    model = with_lora(model, folders)
    write(model)
    ours = load_file(only_file(outputs))
    tiny.run(CheckpointSave, model=model, clip=loaded.clip, vae=loaded.vae, filename_prefix="host")
    (file,) = Path(folder_paths.get_output_directory()).glob("host*.safetensors")
    theirs = load_file(file)
    file.unlink()
    for name, tensor in ours.items():
        expected = theirs[f"model.diffusion_model.{name}"]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8)), name


def test_what_is_no_weight_is_named(
    loaded: Loaded, folders: dict, scene: Scene, outputs: Path
) -> None:
    model = tiny.run(ModelSamplingSD3, model=loaded.model, shift=5.0)
    name = lora(folders)
    model = tiny.run(LoraLoaderBypassModelOnly, model=model, lora_name=name, strength_model=0.5)
    text = write(model)
    line = "not in the file: the shift that another node set and LoRAs in bypass mode; keep"
    assert line in text and "baked in" not in text
    assert torch.equal(scene.but(model=load(outputs).model).sample(), scene.sample())
    assert "not in the file" not in write(loaded.model)


def test_the_card_can_be_named(loaded: Loaded, outputs: Path) -> None:
    text = write(loaded.model, title=" My model ", license="MIT")
    card = checkpoint.read_card(only_file(outputs))
    assert card.modelspec["title"] == "My model" and card.modelspec["license"] == "MIT"
    assert "My model: video model" in text and "licence: MIT" in text


def run_with_workflow(loaded: Loaded) -> None:
    node = tiny.PACK["STIVSaveCheckpoint"]
    hidden = {io.Hidden.unique_id: "1", io.Hidden.prompt: {"1": {"class_type": "x"}},
              io.Hidden.extra_pnginfo: {"workflow": {"nodes": []}}}  # fmt: skip
    node = node.PREPARE_CLASS_CLONE({"hidden_inputs": hidden})
    node.EXECUTE_NORMALIZED(
        model=loaded.model, filename_prefix="with", dtype="as loaded", title="", license=""
    )


@pytest.mark.parametrize("disabled", [False, True])
def test_the_workflow_is_in_the_file(
    loaded: Loaded, outputs: Path, monkeypatch: pytest.MonkeyPatch, disabled: bool
) -> None:
    monkeypatch.setattr(args, "disable_metadata", disabled)
    run_with_workflow(loaded)
    with safe_open(only_file(outputs), "pt") as file:
        metadata = file.metadata()
    found = {key: json.loads(metadata[key]) for key in ("prompt", "workflow") if key in metadata}
    expected = {"prompt": {"1": {"class_type": "x"}}, "workflow": {"nodes": []}}
    assert found == ({} if disabled else expected)
    assert Card.from_metadata(metadata).config == loaded.model.model.card.config


def test_files_are_counted(loaded: Loaded, outputs: Path) -> None:
    for _ in range(2):
        write(loaded.model, prefix="a")
    assert sorted(p.name for p in outputs.iterdir()) == ["a_00001_.safetensors",
                                                         "a_00002_.safetensors"]  # fmt: skip


@pytest.mark.parametrize("prefix", ["../../escaped", "/escaped", "a/../../../escaped"])
def test_a_prefix_cannot_leave_the_output_folder(
    loaded: Loaded, outputs: Path, prefix: str
) -> None:
    with pytest.raises(Exception, match="outside the output folder"):
        write(loaded.model, prefix=prefix)
    assert not outputs.exists()


@pytest.mark.parametrize("prefix", ["", "/", "..", ". "])
def test_a_prefix_without_a_name(loaded: Loaded, prefix: str) -> None:
    with pytest.raises(ValueError, match=r"filename_prefix .* names no file: try stiv/model"):
        write(loaded.model, prefix=prefix)


def test_a_full_disk_is_seen_before(
    loaded: Loaded, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"no disk space for the checkpoint: .*needed.*make room"):
        write(loaded.model)
    assert not list(outputs.rglob("*.*"))


def test_a_write_that_fails_leaves_nothing(
    loaded: Loaded, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_file.os, "fsync", fail)
    with pytest.raises(ValueError, match="could not be written: No space left on device"):
        write(loaded.model)
    assert not list(outputs.rglob("*.*"))


def test_cancelling_leaves_nothing(
    loaded: Loaded, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            write(loaded.model)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert not list(outputs.rglob("*.*"))


def test_another_text_encoder_stays_beside(loaded: Loaded, outputs: Path) -> None:
    """A CLIP-L of the host, with random weights."""
    clip = comfy.sd.load_text_encoder_state_dicts(
        [clip_l()], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION
    )
    text = write(loaded.model, clip=clip)
    assert "SD1ClipModel is not put inside; load it beside the model" in text
    assert not read_checkpoint(only_file(outputs))[1]["text_encoder"]


def clip_l() -> dict[str, Tensor]:
    from comfy import sd1_clip

    model = sd1_clip.SDClipModel(device="cpu", dtype=torch.float16)
    state = model.transformer.state_dict()
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def test_a_text_encoder_of_another_width_is_refused(loaded: Loaded, folders: dict) -> None:
    card, _ = read_checkpoint(loaded.path)
    config = replace(card.config, text_width=48, pooled_width=0)
    text = {"encoder": "custom", "width": 48, "pooled_width": 0, "max_tokens": 77}
    network = tiny.randomised(STIVTransformer(config), 1)
    path = folders["checkpoints"] / "wide.safetensors"
    write_checkpoint(path, replace(card, config=config, text=text), network)
    model = tiny.run("STIVLoadCheckpoint", ckpt_name=path.name)[0]
    with pytest.raises(ValueError, match="the CLIP is 24 wide, the model takes 48"):
        write(model, clip=loaded.clip)


def test_a_vae_that_does_not_belong_is_refused(loaded: Loaded) -> None:
    vae = comfy.sd.VAE(sd=tiny.randomised(tiny.TAESD(latent_channels=16), 3))
    with pytest.raises(ValueError, match="the VAE makes 16 latent channels, the model takes 4"):
        write(loaded.model, vae=vae)


def test_other_models_are_refused(loaded: Loaded) -> None:
    model = replace(loaded).model.clone()
    model.model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="STIV Save Checkpoint needs a STIV model"):
        write(model)
