"""Loading: files, dtypes, saved models, patches; each bad file in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from comfy_extras.nodes_model_merging import CheckpointSave, ModelMergeSimple, ModelSave
from ComfyUI_STIV.nodes import load
from ComfyUI_STIV.nodes.host import model as host_model
from ComfyUI_STIV.nodes.host.latents import VideoLatents
from ComfyUI_STIV.stiv.checkpoint import read_checkpoint, write_checkpoint
from ComfyUI_STIV.stiv.config import MODELS
from ComfyUI_STIV.stiv.public import LATENT_SPACES
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_sampling import assert_given, close


def load_as(loaded: Loaded, folders: dict[str, Path], weight_dtype: str = "default"):
    """The network of the tiny checkpoint alone, through STIV Load Model."""
    card, parts = read_checkpoint(loaded.path)
    path = folders["diffusion_models"] / "tiny_model.safetensors"
    write_checkpoint(path, card, parts["diffusion_model"])
    return tiny.run("STIVLoadModel", model_name=path.name, weight_dtype=weight_dtype)


def test_the_same_model_from_either_loader(loaded: Loaded, folders: dict, scene: Scene) -> None:
    assert torch.equal(scene.but(model=load_as(loaded, folders)).sample(), scene.sample())


@pytest.mark.parametrize(
    ("weight_dtype", "tolerance"),
    [("fp32", 0), ("bf16", 0.05), ("fp16", 0.01), ("fp8_e4m3fn", 0.5), ("fp8_e4m3fn_fast", 0.5),
     ("fp8_e5m2", 0.8)],
)  # fmt: skip
def test_weight_dtypes(
    loaded: Loaded, folders: dict, scene: Scene, weight_dtype: str, tolerance: float
) -> None:
    model = load_as(loaded, folders, weight_dtype)
    assert model.model.get_dtype() == host_model.WEIGHT_DTYPES[weight_dtype]
    stored = {parameter.dtype for parameter in model.model.diffusion_model.parameters()}
    assert stored == {host_model.WEIGHT_DTYPES[weight_dtype]}
    samples = scene.but(model=model).sample()
    assert_given(samples, scene)
    assert close(samples, scene.sample()) <= tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computing_in_half_precision(
    loaded: Loaded, folders: dict, scene: Scene, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """As on a GPU: activations in half precision too."""
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *args: None)
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    model = load_as(loaded, folders, name)
    assert model.model.get_dtype_inference() == dtype
    samples = scene.but(model=model).sample()
    assert_given(samples, scene)
    assert close(samples, scene.sample()) < 0.1


def test_a_saved_model_loads_again(
    loaded: Loaded, folders: dict, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """ModelSave keeps no metadata of ours: what had to be assumed is logged."""
    import folder_paths

    tiny.run(ModelSave, model=loaded.model, filename_prefix="saved/tiny")
    (saved,) = Path(folder_paths.get_output_directory(), "saved").glob("*.safetensors")
    target = folders["diffusion_models"] / "saved.safetensors"
    saved.rename(target)
    with caplog.at_level(logging.WARNING):
        model = tiny.run("STIVLoadModel", model_name=target.name, weight_dtype="default")
    assert "no STIV metadata" in caplog.text
    inferred, original = model.model.card.config, loaded.model.model.card.config
    assert inferred == original
    weights = load_file(target)
    assert all(name.startswith("model.diffusion_model.") for name in weights)


def test_a_saved_checkpoint_loads_without_its_text_encoder(loaded: Loaded, folders: dict) -> None:
    import folder_paths

    tiny.run(
        CheckpointSave,
        model=loaded.model,
        clip=loaded.clip,
        vae=loaded.vae,
        filename_prefix="saved/all",
    )
    (saved,) = Path(folder_paths.get_output_directory(), "saved").glob("all*.safetensors")
    target = folders["checkpoints"] / "saved_all.safetensors"
    saved.rename(target)
    _, clip, vae = tiny.run("STIVLoadCheckpoint", ckpt_name=target.name)
    assert clip is None
    with pytest.raises(ValueError, match="there is no CLIP, the checkpoint holds no text encoder"):
        tiny.run("STIVTextEncode", clip=clip, text="a red circle")
    latents = torch.randn(1, 4, 2, 4, 4)
    decoded = [
        tiny.run("VAEDecode", samples={"samples": latents}, vae=v) for v in (vae, loaded.vae)
    ]
    assert torch.equal(*decoded)


@pytest.mark.parametrize("style", ["lora_A", "lora_down", "kohya", "diff"])
def test_loras(loaded: Loaded, folders: dict, scene: Scene, style: str) -> None:
    """The key names that trainers write: at strength 1 they change the video, at 0 they do not."""
    generator = torch.Generator().manual_seed(9)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    layer, width = "blocks.0.spatial_attn.qkv", 32
    name = (
        f"lora_unet_{layer.replace('.', '_')}" if style == "kohya" else f"diffusion_model.{layer}"
    )
    down, up = random(4, width), random(3 * width, 4)
    tensors = {
        "lora_A": {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up},
        "diff": {f"{name}.diff": random(3 * width, width)},
    }.get(style) or {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(4.0),
    }
    path = folders["loras"] / f"{style}.safetensors"
    save_file(tensors, path)

    def with_lora(strength: float) -> Tensor:
        model = tiny.run(
            "LoraLoaderModelOnly", model=loaded.model, lora_name=path.name, strength_model=strength
        )
        return scene.but(model=model).sample()

    plain = scene.sample()
    assert torch.equal(with_lora(0.0), plain)
    changed = with_lora(1.0)
    assert_given(changed, scene)
    assert close(changed, plain) > 1e-3
    assert torch.equal(scene.sample(), plain)


def test_models_merge(loaded: Loaded, folders: dict, scene: Scene) -> None:
    other = load_as(loaded, folders)
    merged = tiny.run(ModelMergeSimple, model1=loaded.model, model2=other, ratio=0.5)
    assert close(scene.but(model=merged).sample(), scene.sample()) < 1e-5


def test_a_model_is_read_again_for_a_delegate(loaded: Loaded, folders: dict, scene: Scene) -> None:
    """What the host does for hooks under dynamic memory, and for a second GPU."""
    model = load_as(loaded, folders)
    again = model.clone(force_deepcopy=True)
    assert again.model is not model.model
    assert torch.equal(scene.but(model=again).sample(), scene.sample())
    assert loaded.clip.patcher.clone(force_deepcopy=True).model is not loaded.clip.patcher.model


def test_no_tensor_is_missing_or_left_over(
    loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tiny.run("STIVLoadCheckpoint", ckpt_name=loaded.path.name)
    assert caplog.text == ""


def test_the_bundled_model_is_first_under_one_name_everywhere() -> None:
    (choice,) = (
        i for i in tiny.PACK["STIVLoadCheckpoint"].GET_SCHEMA().inputs if i.id == "ckpt_name"
    )
    assert choice.options[0] == "stiv_nano (bundled)"


def test_a_missing_bundled_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "BUNDLED_PATH", tmp_path / "stiv_nano.safetensors")
    with pytest.raises(ValueError, match=r"stiv_nano.safetensors is missing .*: install the pack"):
        tiny.run("STIVLoadCheckpoint", ckpt_name="stiv_nano (bundled)")


def test_a_rewritten_file_is_loaded_again(loaded: Loaded) -> None:
    node = tiny.PACK["STIVLoadCheckpoint"]
    before = node.fingerprint_inputs(ckpt_name=loaded.path.name)
    assert before == node.fingerprint_inputs(ckpt_name=loaded.path.name)
    loaded.path.touch()
    assert before != node.fingerprint_inputs(ckpt_name=loaded.path.name)
    assert node.fingerprint_inputs(ckpt_name="gone.safetensors") is None


def test_a_name_by_wire_reloads_only_what_may_have_changed(loaded: Loaded, folders: dict) -> None:
    """The host asks without the name, before the node that gives it has run."""
    load_as(loaded, folders)
    for node, name, file in (
        ("STIVLoadCheckpoint", "ckpt_name", loaded.path),
        ("STIVLoadModel", "model_name", folders["diffusion_models"] / "tiny_model.safetensors"),
    ):
        states = [tiny.PACK[node].fingerprint_inputs(**{name: None}) for _ in range(2)]
        assert states[0] == states[1] and file.name in dict(states[0])
        file.touch()
        assert tiny.PACK[node].fingerprint_inputs(**{name: None}) != states[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "tiny_bad"),
        (b"\x80\x04\x95pickle", "tiny_bad"),
        (b"\xff" * 64, "tiny_bad"),
    ],
    ids=["empty", "pickle", "huge header"],
)
def test_files_that_are_no_checkpoint(folders: dict, content: bytes, reason: str) -> None:
    path = folders["diffusion_models"] / "tiny_bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        tiny.run("STIVLoadModel", model_name=path.name, weight_dtype="default")
    assert "\n" not in str(error.value)


def test_another_architecture_is_refused(folders: dict) -> None:
    path = folders["diffusion_models"] / "other.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(ValueError, match="is not a STIV model"):
        tiny.run("STIVLoadModel", model_name=path.name, weight_dtype="default")


def test_float8_on_a_mac_is_refused(
    loaded: Loaded, folders: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy.model_management, "is_device_mps", lambda device: True)
    with pytest.raises(ValueError, match="this Mac's GPU has no float8: choose fp16"):
        load_as(loaded, folders, "fp8_e5m2")


def test_model_info_shows_the_card(loaded: Loaded) -> None:
    output = tiny.PACK["STIVModelInfo"].EXECUTE_NORMALIZED(model=loaded.model.clone())
    (text,) = output.result
    assert "Tiny" in text and "ti2v (64 × 64 px, 4 frames)" in text
    assert text.endswith("loaded as: float32")
    assert output.ui.as_dict() == {"text": (text,)}


@pytest.mark.parametrize("space", LATENT_SPACES)
def test_latent_spaces_are_the_hosts(space: str) -> None:
    """What the card says, what the host's class does and our formula are one."""
    ours, host = VideoLatents(LATENT_SPACES[space]), host_model_space(space)
    x = torch.randn(2, ours.latent_channels, 3, 4, 5)
    assert torch.allclose(ours.process_in(x), host.process_in(x), atol=1e-6)
    assert torch.allclose(ours.process_out(ours.process_in(x)), x, atol=1e-6)
    card = LATENT_SPACES[space]
    assert torch.allclose(ours.process_in(x), (x - card["shift"]) * card["scale"], atol=1e-6)


def host_model_space(space: str):
    from comfy import latent_formats

    names = {"sd": "SD15", "sdxl": "SDXL", "sd3": "SD3", "flux": "Flux"}
    return getattr(latent_formats, names[space])()


@pytest.mark.parametrize("name", ["xl", "xxl", "m"])
def test_memory_estimates_grow_with_the_model(name: str) -> None:
    small, large = (host_model.memory_usage_factor(MODELS[n]) for n in ("nano", name))
    assert 0 < small < large < 4


def test_two_loads_share_no_weights(loaded: Loaded) -> None:
    first, second = (host_model.load_model(str(loaded.path)) for _ in range(2))
    weight = first.model.diffusion_model.patch_embed.weight
    weight.data.zero_()
    assert second.model.diffusion_model.patch_embed.weight.abs().max() > 0
    assert isinstance(first, comfy.model_patcher.ModelPatcher)
