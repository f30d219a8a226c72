"""Scaled float8: its numbers, and how strictly files of it are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stiv.checkpoint import CheckpointError, read_card, read_checkpoint, write_checkpoint
from stiv.convert.weights import Weights
from stiv.quantised import (
    dequantise,
    format_tensor,
    layer_of,
    quantise,
    quantise_layers,
    quantised_layers,
    scale_of,
)
from stiv.tensor_file import LazyTensors
from tests.models import random_model
from tests.stiv.test_checkpoint import CONFIG, PLAIN_CARD

LAYER = "blocks.1.mlp.fc2"


@pytest.fixture(scope="module")
def model() -> dict[str, Tensor]:
    return dict(random_model(CONFIG, seed=0, std=0.02).state_dict())


@pytest.fixture(scope="module")
def tensors(model: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(quantise_layers(model))


@given(st.integers(0, 2**32), st.floats(1e-20, 1e20))
def test_rounding_is_as_fine_as_float8(seed: int, size: float) -> None:
    """Three bits of mantissa: half of 1/8 of a number's power of two, and of 2^-6 at least."""
    weight = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * size
    scale = scale_of(weight)
    assert scale * 448 == pytest.approx(weight.abs().max().item(), rel=1e-6)
    back = quantise(weight, scale).float() * scale
    step = torch.exp2(torch.log2((weight / scale).abs()).floor().clamp(min=-6)) / 8
    assert ((back - weight).abs() <= step * scale * 0.5001).all()


def test_nothing_but_zeros_stays_zeros() -> None:
    scale = scale_of(torch.zeros(3, 2))
    assert scale == 1 and not quantise(torch.zeros(3, 2), scale).float().any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_none_are_named(model: dict, value: float) -> None:
    bad = {**model, f"{LAYER}.weight": torch.full_like(model[f"{LAYER}.weight"], value)}
    with pytest.raises(ValueError, match=rf"tensor {LAYER}\.weight holds values that are NaN"):
        dict(quantise_layers(bad))


def test_only_the_blocks_linear_layers_are_quantised(tensors: dict, model: dict) -> None:
    layers = quantised_layers(tensors)
    assert len(layers) == 3 * 9  # two blocks and one after unmasking
    assert all(layer.split(".")[0] in ("blocks", "decoder_blocks") for layer in layers)
    for name, tensor in tensors.items():
        if name in model:
            expected = torch.float8_e4m3fn if layer_of(name) else torch.bfloat16
            assert tensor.dtype == expected, name
    assert all(tensors[f"{layer}.weight_scale"].shape == () for layer in layers)


def test_dequantised_is_close_and_has_the_models_names(tensors: dict, model: dict) -> None:
    back = dequantise(tensors)
    assert back.keys() == model.keys()
    for name, tensor in back.items():
        error = (tensor.float() - model[name]).norm() / model[name].norm().clamp(min=1e-9)
        assert error < 0.04, name
        assert tensor.dtype == (torch.float32 if layer_of(name) else torch.bfloat16)
    assert dequantise(model) is model


def test_a_file_is_read_as_numbers_unless_asked_for_as_stored(
    tmp_path: Path, tensors: dict
) -> None:
    path = tmp_path / "scaled.safetensors"
    write_checkpoint(path, PLAIN_CARD, quantise_layers(dequantise(tensors)))
    assert read_card(path).parameters == PLAIN_CARD.parameters
    stored = read_checkpoint(path, verify=True, as_stored=True)[1]["diffusion_model"]
    assert stored.keys() == tensors.keys()
    for name, tensor in stored.items():  # quantising what was quantised changes nothing
        assert torch.equal(tensor.float(), tensors[name].float()), name
    expected = dict(dequantise(tensors))
    for found in (
        read_checkpoint(path)[1]["diffusion_model"],
        Weights.read(path).diffusion_model,
    ):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert isinstance(Weights.read(path, as_stored=True).diffusion_model, LazyTensors)


def test_a_cast_without_scales_is_no_quantisation(tmp_path: Path, model: dict) -> None:
    cast = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in model.items()}
    write_checkpoint(tmp_path / "cast.safetensors", PLAIN_CARD, cast)
    found = read_checkpoint(tmp_path / "cast.safetensors")[1]["diffusion_model"]
    assert {tensor.dtype for tensor in found.values()} == {torch.float8_e4m3fn}


def raw(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{LAYER}.weight_scale": None}, rf"missing \({LAYER}\.weight_scale\)"),
        ({f"{LAYER}.comfy_quant": None}, rf"missing \({LAYER}\.comfy_quant\)"),
        ({f"{LAYER}.weight_scale": torch.ones(2)}, r"weight_scale is \(2,\), expected \(\)"),
        ({f"{LAYER}.weight_scale": torch.tensor(1.0).half()}, "is F16, expected F32"),
        ({f"{LAYER}.weight_scale": torch.tensor(float("nan"))}, "expected a positive number"),
        ({f"{LAYER}.weight_scale": torch.tensor(0.0)}, "expected a positive number"),
        ({f"{LAYER}.comfy_quant": torch.zeros(4)}, "is F32, expected U8"),
        ({f"{LAYER}.comfy_quant": raw("{}")}, "only float8_e4m3fn with one scale is read"),
        ({f"{LAYER}.comfy_quant": raw('{"format": "nvfp4"}')}, "only float8_e4m3fn"),
        ({f"{LAYER}.comfy_quant": raw("[1]")}, "only float8_e4m3fn"),
        ({f"{LAYER}.comfy_quant": raw("{")}, "is no valid JSON"),
        ({f"{LAYER}.comfy_quant": raw(" " * 257)}, "wrong shape"),
        ({f"{LAYER}.input_scale": torch.ones(())}, rf"unknown \({LAYER}\.input_scale"),
        ({"final.linear.weight_scale": torch.ones(())}, r"unknown \(final\.linear"),
        ({f"{LAYER}.weight": torch.ones(32, 128)}, "unknown"),
    ],
)  # fmt: skip
def test_other_forms_are_refused_by_name(
    tmp_path: Path, tensors: dict, changes: dict, message: str
) -> None:
    path = tmp_path / "scaled.safetensors"
    write_checkpoint(path, PLAIN_CARD, tensors)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    changed = {k: v for k, v in (load_file(path) | changes).items() if v is not None}
    save_file(changed, path, metadata)
    for read in (read_checkpoint, Weights.read):
        with pytest.raises(CheckpointError, match=message) as error:
            read(path)
        assert str(error.value).startswith(str(path))


def test_the_format_is_the_hosts_json() -> None:
    assert bytes(format_tensor(full_precision=False)) == b'{"format": "float8_e4m3fn"}'
    full = b'{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}'
    assert bytes(format_tensor(full_precision=True)) == full
