"""LoRA against its formula, against the real host, and on bases in few bits."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stiv.checkpoint import read_checkpoint, tensor_hash, write_checkpoint
from stiv.config import STIVConfig
from stiv.model import STIVTransformer
from training.lora import (
    TARGETS,
    add_lora,
    lora_tensors,
    matching_layers,
    save_lora,
)
from training.low_precision import LowPrecisionLinear, bytes_held, freeze_in, widen

CONFIG = STIVConfig(
    width=48, depth=2, heads=3, text_width=16, pooled_width=16, mask_decoder_blocks=1
)
METADATA = {"base": "0" * 64, "steps": 12}


def network(config: STIVConfig = CONFIG, dtype: torch.dtype = torch.float32) -> STIVTransformer:
    """Random weights everywhere, so that every layer has an influence."""
    model = STIVTransformer(config, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def trained(model: STIVTransformer, seed: int = 5) -> None:
    """Stand-in for training: B away from zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def merged(weights: dict[str, Tensor], lora: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """W + alpha / rank B A, in float64; share: alpha / rank."""
    found = dict(weights)
    for key in (key for key in lora if key.endswith(".alpha")):
        stem = key.removesuffix(".alpha")
        down, up = (lora[f"{stem}.lora_{part}.weight"].double() for part in "AB")
        name = f"{stem.removeprefix('diffusion_model.')}.weight"
        found[name] = (weights[name].double() + share * up @ down).to(weights[name].dtype)
    return found


@pytest.fixture
def velocity() -> Callable[[STIVTransformer], Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, text = (torch.randn(shape, generator=generator) for shape in ((2, 4, 2, 4, 4), (2, 3, 16)))
    t, pooled = torch.tensor([0.2, 0.7]), torch.randn(2, 16, generator=generator)
    return lambda model: model(x.to(pooled), t, text, pooled=pooled)


def difference(a: Tensor, b: Tensor) -> float:
    """Root mean square difference, relative to b."""
    return float(((a - b).norm() / b.norm()).detach())


def test_only_the_adapter_trains_and_it_starts_without_effect(velocity) -> None:
    model = network()
    before = velocity(model)
    names = add_lora(model, 4, 8.0, seed=3)
    assert torch.equal(velocity(model), before)
    assert names == [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    # 3 blocks: two self-attentions of 2 layers, cross-attention of 3, FFN of 2; A and B each
    assert len(names) == 3 * 9 * 2
    velocity(model).square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_the_start_depends_on_the_seed_alone() -> None:
    def start(seed: int, elsewhere: int) -> dict[str, Tensor]:
        torch.manual_seed(elsewhere)
        model = network()
        state = torch.get_rng_state()
        add_lora(model, 4, 4.0, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return lora_tensors(model)

    first, again, other = start(1, 10), start(1, 20), start(2, 10)
    name = "diffusion_model.blocks.1.mlp.fc2.lora_A.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])
    assert first[name].abs().max() <= (4 * 48) ** -0.5


def test_targets_name_layers_of_the_blocks() -> None:
    model = network()
    everything = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "blocks" in name
    }
    assert set(matching_layers(model, TARGETS)) == everything
    assert matching_layers(model, ["cross_attn.q", "patch_embed"]) == [
        "patch_embed",
        *(f"{block}.cross_attn.q" for block in ("blocks.0", "blocks.1", "decoder_blocks.0")),
    ]
    with pytest.raises(ValueError, match="'to_q' is no linear layer"):
        add_lora(model, 4, 4.0, ["qkv", "to_q"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"targets": []}, "no targets"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(network(), **{"rank": 4, "alpha": 4.0, **settings})


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    model = network()
    add_lora(model, 4, 2.0, ["qkv"])
    path = tmp_path / "style.safetensors"
    save_lora(path, model, {**METADATA, "title": "Style", "license": "MIT", "clips": 3})
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    said = json.loads(metadata["stiv.lora"])
    assert said == {"format": "1", "rank": 4, "alpha": 2.0, "clips": 3, **METADATA}
    assert (metadata["modelspec.title"], metadata["modelspec.license"]) == ("Style", "MIT")
    assert metadata["modelspec.architecture"] == "stiv/lora"
    stem = "diffusion_model.blocks.0.spatial_attn.qkv"
    assert {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", f"{stem}.alpha"} <= names
    assert len(names) == 3 * 2 * 3  # blocks, self-attentions, tensors
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="lacks steps"):
        save_lora(path, model, {"base": "0" * 64})


def test_the_network_is_the_plain_one_with_the_formula_s_weights(velocity) -> None:
    base, model = network(), network()
    add_lora(model, 4, 2.0)
    trained(model)
    plain = network()
    plain.load_state_dict(merged(base.state_dict(), lora_tensors(model), 2.0 / 4))
    assert difference(velocity(plain), velocity(model)) < 1e-5
    assert difference(velocity(model), velocity(base)) > 0.05
    with pytest.raises(ValueError, match="LoRA layers already"):
        add_lora(model, 2, 2.0)
    with pytest.raises(ValueError, match="no LoRA layers"):
        lora_tensors(base)


# Relative RMS error of the output, from the bits of the mantissa: 8 and 4 with the implicit one.
@pytest.mark.parametrize(
    ("dtype", "weight_bytes", "error"),
    [(torch.bfloat16, 2, 0.02), (torch.float8_e4m3fn, 1, 0.2)],
)
def test_a_frozen_base_takes_fewer_bytes(velocity, dtype, weight_bytes: int, error: float) -> None:
    model = network()
    before, exact = bytes_held(model), velocity(model)
    add_lora(model, 4, 4.0)
    adapter = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert freeze_in(model, dtype) == 27
    frozen = [m for m in model.modules() if isinstance(m, LowPrecisionLinear)]
    saved = sum(m.weight.numel() * (4 - weight_bytes) for m in frozen)
    scales = sum(m.out_features * 4 for m in frozen if m.scale is not None)
    assert bytes_held(model) == before + adapter - saved + scales
    assert 0 < difference(velocity(model), exact) < error
    assert freeze_in(model, dtype) == 0  # done once


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_gradients_through_a_frozen_base_are_those_of_its_widened_weights(velocity, dtype) -> None:
    """Oracle: plain layers with the stored weights, through autograd's own linear."""

    def gradients(model: STIVTransformer) -> dict[str, Tensor]:
        velocity(model).square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    model = network()
    add_lora(model, 4, 4.0)
    trained(model)
    freeze_in(model, dtype)
    found = gradients(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LowPrecisionLinear):
            plain = torch.nn.Linear(module.in_features, module.out_features)
            plain.weight = torch.nn.Parameter(widen(module.weight, module.scale, torch.float32))
            plain.bias = module.bias
            model.set_submodule(name, plain.requires_grad_(False))
    model.zero_grad(set_to_none=True)
    expected = gradients(model)
    assert found.keys() == expected.keys()
    assert all(difference(found[n], expected[n]) < 1e-5 for n in found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_base_may_be_frozen_before_or_after(velocity, dtype) -> None:
    after = network()
    add_lora(after, 4, 2.0)
    freeze_in(after, dtype)
    before = network().requires_grad_(False)
    freeze_in(before, dtype)
    add_lora(before, 4, 2.0)
    outputs = []
    for model in (before, after):
        trained(model)
        assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
        outputs.append(velocity(model))
    assert torch.equal(*outputs)


def test_float8_rows_have_scales_of_their_own() -> None:
    model = network()
    weight = model.blocks[0].mlp.fc1.weight
    with torch.no_grad():
        weight[0] *= 1e-6  # a row far below the others
        weight[1] = 0
        weight[2, 0] = 448.0 * 2**5  # at the limit of the format, up to a power of two
    add_lora(model, 4, 4.0)
    freeze_in(model, torch.float8_e4m3fn)
    layer = model.blocks[0].mlp.fc1.base_layer
    wide = widen(layer.weight, layer.scale, torch.float32)
    assert torch.equal(layer.scale.log2(), layer.scale.log2().round())
    assert layer.scale[2] == 2**5 and wide[2, 0] == weight[2, 0]
    assert wide[1].count_nonzero() == 0
    large = weight.abs() > weight.abs().amax(1, keepdim=True) / 28_000
    assert ((wide - weight).abs()[large] <= weight.abs()[large] / 16).all()


def test_freezing_needs_something_frozen_and_a_known_dtype() -> None:
    with pytest.raises(ValueError, match="no linear layer of the blocks is frozen"):
        freeze_in(network(), torch.bfloat16)
    with pytest.raises(ValueError, match=r"torch\.int8: expected one of bfloat16, float8_e4m3fn"):
        freeze_in(network(), torch.int8)
    model = network()
    add_lora(model, 4, 4.0)
    model.blocks[1].mlp.fc2.base_layer.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc2.*not finite"):
        freeze_in(model, torch.float8_e4m3fn)


def test_compiled_blocks_give_the_same_gradients(velocity) -> None:
    """Traced and differentiated ahead of time; without a C++ compiler nothing is generated."""

    def step(compiled: bool) -> list[Tensor]:
        torch._dynamo.reset()
        model = network(STIVConfig(width=48, depth=1, heads=3, text_width=16, pooled_width=16))
        add_lora(model, 4, 4.0)
        trained(model)
        freeze_in(model, torch.float8_e4m3fn)
        if compiled:
            model.blocks[0].compile(backend="aot_eager", fullgraph=True)
        output = velocity(model)
        output.square().mean().backward()
        return [output, *(p.grad for p in model.parameters() if p.requires_grad)]

    for one, other in zip(step(True), step(False), strict=True):
        assert difference(one, other) < 1e-5


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory):
    """The tiny checkpoint of the nodes' tests, the host's nodes, and its folders."""
    folder_paths = pytest.importorskip("folder_paths", reason="ComfyUI is not prepared")
    tiny = pytest.importorskip("tests.nodes.tiny")
    folders = {name: Path(folder_paths.get_folder_paths(name)[-1]) for name in FOLDERS}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return tiny, folders


FOLDERS = ("checkpoints", "loras")


def test_the_host_s_loader_gives_the_formula_s_weights(host, caplog) -> None:
    """LoraLoaderModelOnly on the host's model, against a checkpoint merged on this side."""
    tiny, folders = host
    from tests.nodes import scenes

    base_path = tiny.write(folders["checkpoints"] / "lora_base.safetensors")
    card, parts = read_checkpoint(base_path)
    model = STIVTransformer(card.config)
    model.load_state_dict(parts["diffusion_model"])
    add_lora(model, 4, 2.0)
    trained(model)
    layers = len(lora_tensors(model)) // 3
    save_lora(folders["loras"] / "ours.safetensors", model, {"base": card.tensor_hash, "steps": 1})
    write_checkpoint(
        folders["checkpoints"] / "lora_merged.safetensors",
        card,
        merged(parts["diffusion_model"], lora_tensors(model), 2.0 / 4),
        text_encoder=parts["text_encoder"],
        vae=parts["vae"],
    )
    base = scenes.load(base_path)
    scene = base.scene("first")
    with caplog.at_level(logging.WARNING):
        patched = tiny.run(
            "LoraLoaderModelOnly",
            model=base.model,
            lora_name="ours.safetensors",
            strength_model=1.0,
        )
    assert "not loaded" not in caplog.text
    assert len(patched.patches) == layers
    whole = scenes.load(folders["checkpoints"] / "lora_merged.safetensors")
    expected = scene.but(model=whole.model).sample()
    assert difference(scene.but(model=patched).sample(), expected) < 1e-5
    assert difference(scene.sample(), expected) > 1e-2


def test_a_half_precision_file_is_the_rounded_one(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "half.safetensors"
    add_lora(model, 4, 2.0, ["qkv"])
    trained(model)
    save_lora(path, model, METADATA, dtype=torch.float16)
    expected = {name: tensor.half() for name, tensor in lora_tensors(model).items()}
    assert tensor_hash(load_file(path)) == tensor_hash(expected)
