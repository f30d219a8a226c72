"""`verify`: sound files pass; each kind of damage is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stiv.checkpoint import tensor_hash
from stiv.convert.verify import examine
from stiv.quantised import quantise_layers
from tests.stiv.convert.checkpoints import checkpoint, fails, run, write

NAME = "blocks.0.mlp.fc1.bias"


@pytest.mark.parametrize("quantised", [False, True])
def test_a_sound_file(tmp_path: Path, quantised: bool, capsys: pytest.CaptureFixture) -> None:
    weights = checkpoint()
    if quantised:
        weights = replace(weights, diffusion_model=quantise_layers(weights.diffusion_model))
    path = write(tmp_path / "a.safetensors", weights)
    assert run("verify", path) == 0
    stated = tensor_hash(load_file(path))
    assert capsys.readouterr().out.splitlines()[-1] == f"sound: tensor hash {stated}"


def test_a_flipped_bit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "a.safetensors", checkpoint())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run("verify", path) == 1
    assert "wrong: its tensors hash to " in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_nan_and_infinity_are_counted(
    tmp_path: Path, dtype: torch.dtype, capsys: pytest.CaptureFixture
) -> None:
    weights = checkpoint()
    bad = torch.ones(128)
    bad[:3] = float("nan")
    if dtype != torch.float8_e4m3fn:  # which has no infinity
        bad[3:5] = torch.tensor([float("inf"), -float("inf")])
    tensors = {**weights.diffusion_model, NAME: bad.to(dtype)}
    path = write(tmp_path / "a.safetensors", replace(weights, diffusion_model=tensors))
    infinite = 0 if dtype == torch.float8_e4m3fn else 2
    assert examine(path).odd == {f"diffusion_model.{NAME}": (3, infinite, 128)}
    assert run("verify", path) == 1
    line = f"wrong: diffusion_model.{NAME}: 3 NaN and {infinite} infinite of 128 values"
    assert line in capsys.readouterr().out


def test_zeros_are_noted(tmp_path: Path) -> None:
    weights = checkpoint()
    tensors = {**weights.diffusion_model, NAME: torch.zeros(128)}
    path = write(tmp_path / "a.safetensors", replace(weights, diffusion_model=tensors))
    before = set(examine(write(tmp_path / "b.safetensors", weights)).zeros)
    assert set(examine(path).zeros) - before == {f"diffusion_model.{NAME}"}


def test_a_file_without_a_card_is_sound_but_not_proven(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a.safetensors"
    tensors = checkpoint().diffusion_model
    save_file({f"model.diffusion_model.{n}": t.contiguous() for n, t in tensors.items()}, path)
    assert run("verify", path) == 0
    out = capsys.readouterr().out
    assert "note: its card states no tensor hash" in out and "no STIV metadata" in out


def test_a_cut_off_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", checkpoint())
    path.write_bytes(path.read_bytes()[:-100])
    fails("the tensors need .* bytes, the file holds", "verify", path)
