"""`dtype`: what each format keeps, and what it refuses to lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stiv.convert.casting import cast, too_large_for
from stiv.convert.exchange import DTYPES
from stiv.convert.weights import Weights
from stiv.model import STIVTransformer
from stiv.quantised import dequantise, quantised_layers
from stiv.tensor_file import byte_count
from tests.stiv.convert.checkpoints import VAE, checkpoint, fails, run, tensors_of, write

NANO = Path(__file__).parents[3] / "models" / "stiv_nano.safetensors"
LAYER = "blocks.0.mlp.fc1.weight"


@pytest.mark.parametrize("name", DTYPES)
def test_every_weight_is_cast_and_the_vae_kept(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    original = checkpoint()
    parent = original.write(source)
    assert run("dtype", source, "--to", name, "--out", target) == 0
    found = Weights.read(target)
    cast_to = tensors_of(found)
    for key, tensor in tensors_of(original).items():
        expected = tensor if key.startswith("vae.") else tensor.to(DTYPES[name])
        assert cast_to[key].dtype == expected.dtype, key
        assert torch.equal(cast_to[key], expected), key
    (operation,) = found.card.training["operations"]
    assert operation == {"operation": "dtype", "to": name, "parents": [parent.tensor_hash]}


def test_scaled_float8_and_back(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.safetensors" for n in ("fp32", "scaled", "back")]
    write(paths[0], checkpoint())
    assert run("dtype", paths[0], "--to", "fp8_e4m3fn", "--out", paths[1]) == 0
    assert run("dtype", paths[1], "--to", "fp32", "--out", paths[2]) == 0
    scaled = Weights.read(paths[1], as_stored=True)
    assert len(quantised_layers(scaled.diffusion_model)) == 27
    assert {tensor.dtype for tensor in scaled.text_encoder.values()} == {torch.bfloat16}
    assert tensors_of(scaled)["vae.vae_scale"].dtype == VAE["vae_scale"].dtype
    back = Weights.read(paths[2])
    assert not quantised_layers(back.diffusion_model)
    for name, tensor in dequantise(scaled.diffusion_model).items():
        assert torch.equal(back.diffusion_model[name], tensor.float()), name
    steps = [entry["to"] for entry in back.card.training["operations"]]
    assert steps == ["fp8_e4m3fn", "fp32"]


@pytest.mark.parametrize("part", ["diffusion_model", "text_encoder"])
def test_overflow_is_refused_or_cut_by_name(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture
) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    original = checkpoint(dtype=torch.bfloat16)
    name = LAYER if part == "diffusion_model" else next(iter(original.text_encoder))
    tensors = dict(getattr(original, part))
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[:2] = torch.tensor([-1e5, 7e4])
    write(source, replace(original, **{part: tensors}))

    command = ("dtype", source, "--to", "fp16", "--out", target)
    fails(rf"1 tensors .*too large for fp16 \({part}\.{name}: 99840\); cast to bf16", *command)
    fails("too large for fp16", *command, "--dry-run")
    assert not target.exists()
    assert run(*command, "--clamp") == 0
    assert f"{part}.{name}: 99840" in capsys.readouterr().out
    found = Weights.read(target)
    values = getattr(found, part)[name].view(-1)
    assert values[:2].tolist() == [-65504, 65504]
    assert torch.equal(values[2:], tensors[name].view(-1)[2:].half())
    assert found.card.training["operations"][0]["clamped"] == [f"{part}.{name}"]
    assert run("dtype", source, "--to", "bf16", "--out", target, "--overwrite") == 0


@pytest.mark.parametrize("to", ["fp32", "fp16", "fp8_e4m3fn"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_no_number_is_never_passed_on(tmp_path: Path, to: str, value: float) -> None:
    original = checkpoint()
    bad = {**original.diffusion_model, LAYER: torch.full((128, 32), value)}
    source = write(tmp_path / "a.safetensors", replace(original, diffusion_model=bad))
    fails(rf"{LAYER} holds values that are NaN or infinite: list them with verify",
          "dtype", source, "--to", to, "--clamp", "--out", tmp_path / "b.safetensors")  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_largest_that_fits_is_no_overflow() -> None:
    original = checkpoint()
    full = {**original.diffusion_model, LAYER: torch.full((128, 32), -65504.0)}
    assert not too_large_for(replace(original, diffusion_model=full), torch.float16)


def test_quality_of_scaled_float8_on_nano() -> None:
    """The network's output: between bf16 and everything cast to float8 without scales."""
    nano = Weights.read(NANO)
    plain = {name: tensor.float() for name, tensor in nano.diffusion_model.items()}
    scaled = dequantise(cast(nano, "fp8_e4m3fn").diffusion_model)
    fp8 = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in plain.items()}
    bf16 = {name: tensor.bfloat16() for name, tensor in plain.items()}
    x = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(1))

    def output(tensors: dict) -> torch.Tensor:
        network = STIVTransformer(nano.card.config)
        network.load_state_dict(tensors)
        with torch.no_grad():
            return network(x, torch.tensor([0.3, 0.8]), text)

    exact = output(plain)
    off = [float((output(t) - exact).norm() / exact.norm()) for t in (bf16, scaled, fp8)]
    assert off[0] < 0.01 < off[1] < 0.04 < off[2]


def test_three_quarters_of_the_size_on_nano() -> None:
    """83 % of the model's weights are in such layers; text encoder and VAE are not."""
    nano = Weights.read(NANO)
    sizes = [
        sum(byte_count(getattr(cast(nano, to), part)) for part in ("diffusion_model", "vae"))
        for to in ("bf16", "fp8_e4m3fn")
    ]
    assert 0.6 < sizes[1] / sizes[0] < 0.75
