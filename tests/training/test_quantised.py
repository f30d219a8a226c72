"""Training and its sampler take checkpoints in scaled float8 as the numbers they stand for."""

from __future__ import annotations

from pathlib import Path

import torch

from stiv.convert.casting import cast
from stiv.convert.weights import Weights
from stiv.quantised import dequantise
from training.networks import Networks

NANO = Path(__file__).parents[2] / "models" / "stiv_nano.safetensors"


def test_networks_of_a_quantised_checkpoint(tmp_path: Path) -> None:
    scaled = cast(Weights.read(NANO), "fp8_e4m3fn")
    scaled.write(tmp_path / "scaled.safetensors")
    networks = Networks.from_checkpoint(tmp_path / "scaled.safetensors")
    expected = dequantise(scaled.diffusion_model)
    found = networks["diffusion_model"].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].float()) for name in found)
    x, t = torch.randn(1, 4, 4, 8, 8), torch.tensor([0.5])
    assert torch.isfinite(networks.velocity(x, t, ["a red circle"])).all()
