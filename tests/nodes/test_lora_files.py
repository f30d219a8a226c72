"""LoRA files in the host: what was converted or extracted changes the weights as it was meant."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ComfyUI_STIV.stiv.convert.cli import main
from ComfyUI_STIV.stiv.convert.weights import Weights
from safetensors.torch import save_file
from torch import Tensor

from tests.nodes import tiny
from tests.stiv.convert.releases import pixart

LAYERS = ("patch_embed", "blocks.1.spatial_attn.qkv", "decoder_blocks.0.mlp.fc2", "modulation")


@pytest.fixture(scope="module")
def base(folders: dict[str, Path]) -> Path:
    return tiny.write(folders["checkpoints"] / "lora_files.safetensors")


@pytest.fixture
def loras(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> Path:
    """The host's folder of LoRAs; the host may not complain of any name or shape."""
    caplog.set_level(logging.WARNING)
    yield folders["loras"]
    assert not [record.getMessage() for record in caplog.records]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def patched(model, name: str, strength: float = 1.0) -> Callable[[str], Tensor]:
    """Weights as the host samples with them, by name, after its Load LoRA (Model Only)."""
    changed = tiny.run("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)
    return lambda key: changed.patch_weight_to_device(f"diffusion_model.{key}", return_weight=True)


def loaded(path: Path):
    return tiny.run("STIVLoadCheckpoint", ckpt_name=path.name)[0]


def factors(weights: Weights) -> dict[str, tuple[Tensor, Tensor]]:
    known = {layer: weights.diffusion_model[f"{layer}.weight"].shape for layer in LAYERS}
    return {
        layer: (draw(3, columns, seed=i), draw(rows, 3, seed=9 + i))
        for i, (layer, (rows, columns)) in enumerate(known.items())
    }


NAMES = {
    "generic": ("diffusion_model.{}", ".lora_A.weight", ".lora_B.weight", ".alpha"),
    "peft": ("base_model.model.{}", ".lora_A.default.weight", ".lora_B.default.weight", ""),
    "diffusers": ("transformer.{}", ".lora.down.weight", ".lora.up.weight", ".alpha"),
    "kohya": ("lora_unet_{}", ".lora_down.weight", ".lora_up.weight", ".alpha"),
    "bare": ("{}", ".lora_A", ".lora_B", ".alpha"),
    "unet": ("unet.{}", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", ""),
}


@pytest.mark.parametrize("written", ["comfy", "kohya"])
@pytest.mark.parametrize("trainer", NAMES)
def test_the_host_adds_what_the_trainer_meant(
    base: Path, loras: Path, trainer: str, written: str
) -> None:
    weights, (stem, down, up, alpha) = Weights.read(base), NAMES[trainer]
    state = {}
    for layer, (first, second) in factors(weights).items():
        name = stem.format(layer.replace(".", "_") if trainer == "kohya" else layer)
        state |= {name + down: first, name + up: second}
        if alpha:
            state[name + alpha] = torch.tensor(1.5)
    save_file(state, loras / f"{trainer}.safetensors")
    out = loras / f"{trainer}_{written}.safetensors"
    main(["lora", "convert", f"{loras}/{trainer}.safetensors", "--base", f"{base}",
          "--form", written, "--out", f"{out}", "--overwrite"])  # fmt: skip
    weight = patched(loaded(base), out.name, 0.7)
    scale = 0.7 * (0.5 if alpha else 1.0)
    for layer, (first, second) in factors(weights).items():
        before = weights.diffusion_model[f"{layer}.weight"].double()
        expected = before + scale * second.double() @ first.double()
        assert (weight(f"{layer}.weight") - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_gives_the_weights_that_the_host_patches(
    folders: dict[str, Path], base: Path, loras: Path, dtype: torch.dtype
) -> None:
    """Within one unit in the last place: both sum in float32 and round once."""
    weights = Weights.read(base)
    tensors = {name: tensor.to(dtype) for name, tensor in weights.diffusion_model.items()}
    cast = Weights(weights.card, tensors)
    path = folders["diffusion_models"] / "lora_base.safetensors"
    cast.write(path)
    state = {"diffusion_model.blocks.0.spatial_attn.q_norm.diff": draw(16)}
    for layer, (down, up) in factors(weights).items():
        state[f"diffusion_model.{layer}.lora_A.weight"] = down
        state[f"diffusion_model.{layer}.lora_B.weight"] = up
        state[f"diffusion_model.{layer}.diff_b"] = draw(len(up))
    save_file(state, loras / "merged.safetensors")
    out = folders["diffusion_models"] / "lora_merged.safetensors"
    main(["lora", "merge", f"{path}", f"{loras}/merged.safetensors", "--strength", "-1.3",
          "--out", f"{out}", "--overwrite"])  # fmt: skip
    name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    model = tiny.run("STIVLoadModel", model_name=path.name, weight_dtype=name)
    weight, merged = patched(model, "merged.safetensors", -1.3), Weights.read(out).diffusion_model
    changed = [f"{layer}.{end}" for layer in LAYERS for end in ("weight", "bias")]
    for key in (*changed, "blocks.0.spatial_attn.q_norm.weight"):
        found, expected = weight(key), merged[key]
        assert found.dtype == expected.dtype == dtype
        ulp = torch.finfo(dtype).eps * expected.float().abs() + 1e-7
        assert ((found.float() - expected.float()).abs() <= ulp).all(), key
        assert not torch.equal(expected, tensors[key])


def test_an_extracted_lora_makes_the_host_s_model_the_tuned_one(
    folders: dict[str, Path], base: Path, loras: Path
) -> None:
    """Full rank, with the differences of biases, norms and tables: every tensor comes back."""
    weights = Weights.read(base)
    tuned = {
        name: tensor + draw(*tensor.shape, seed=i)
        for i, (name, tensor) in enumerate(weights.diffusion_model.items())
    }
    path = folders["checkpoints"] / "lora_tuned.safetensors"
    Weights(weights.card, tuned).write(path)
    out = loras / "extracted.safetensors"
    main(["lora", "extract", f"{path}", f"{base}", "--rank", "99", "--full-diff",
          "--out", f"{out}", "--overwrite"])  # fmt: skip
    weight = patched(loaded(base), out.name)
    for name, tensor in tuned.items():
        assert (weight(name) - tensor).norm() < 1e-5 * tensor.norm(), name


def test_dora_of_columns_is_what_the_host_takes(base: Path, loras: Path) -> None:
    """LyCORIS' axis, on which host and trainer agree; at full and at half strength."""
    weights = Weights.read(base)
    layer = "blocks.0.mlp.fc1"
    before = weights.diffusion_model[f"{layer}.weight"]
    rows, columns = before.shape
    state = {
        f"lora_unet_blocks_0_mlp_fc1.{end}": tensor
        for end, tensor in {
            "lora_down.weight": draw(2, columns, seed=1),
            "lora_up.weight": draw(rows, 2, seed=2),
            "alpha": torch.tensor(1.0),
            "dora_scale": draw(1, columns, seed=3).abs(),
        }.items()
    }
    save_file(state, loras / "dora.safetensors")
    main(["lora", "convert", f"{loras}/dora.safetensors", "--out", f"{loras}/dora_out.safetensors",
          "--overwrite"])  # fmt: skip
    for strength in (1.0, 0.5):
        out = loras / "dora_merged.safetensors"
        main(["lora", "merge", f"{base}", f"{loras}/dora.safetensors", "--strength", f"{strength}",
              "--out", f"{out}", "--overwrite"])  # fmt: skip
        found = patched(loaded(base), "dora_out.safetensors", strength)(f"{layer}.weight")
        expected = Weights.read(out).diffusion_model[f"{layer}.weight"]
        assert (found - expected).norm() < 1e-5 * (expected - before).norm()


def test_a_lora_of_pixart_does_here_what_it_does_in_the_host_s_pixart(
    folders: dict[str, Path], loras: Path
) -> None:
    """The file as diffusers writes it on the host's own PixArt; converted, on ours."""
    path = folders["diffusion_models"] / "lora_pixart.safetensors"
    save_file(pixart(512, width=1152, depth=1, text=4096, tokens=120), path)
    block, wide, state = "transformer.transformer_blocks.0", 1152, {}
    layers = {
        "attn1.to_q": (wide, wide), "attn1.to_k": (wide, wide), "attn1.to_v": (wide, wide),
        "attn2.to_k": (wide, wide), "ff.net.0.proj": (4 * wide, wide),
    }  # fmt: skip
    for i, (layer, (rows, columns)) in enumerate(layers.items()):
        state[f"{block}.{layer}.lora_A.weight"] = draw(4, columns, seed=i)
        state[f"{block}.{layer}.lora_B.weight"] = draw(rows, 4, seed=9 + i)
        state[f"{block}.{layer}.alpha"] = torch.tensor(2.0 + i)
    save_file(state, loras / "pixart.safetensors")
    out = loras / "pixart_out.safetensors"
    main(["lora", "convert", f"{loras}/pixart.safetensors", "--out", f"{out}", "--overwrite"])
    ours = tiny.run("STIVLoadModel", model_name=path.name, weight_dtype="fp32")
    theirs = tiny.run("UNETLoader", unet_name=path.name, weight_dtype="default")
    found, expected = patched(ours, out.name), patched(theirs, "pixart.safetensors")
    same = {"spatial_attn.qkv": "attn.qkv", "cross_attn.kv": "cross_attn.kv_linear"}
    for here, there in {**same, "mlp.fc1": "mlp.fc1"}.items():
        one, other = found(f"blocks.0.{here}.weight"), expected(f"blocks.0.{there}.weight")
        assert (one - other).norm() < 1e-6 * other.norm(), here
