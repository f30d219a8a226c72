"""`diff`: what it finds, in closed form."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stiv.convert.compare import compare
from stiv.convert.weights import Weights
from stiv.quantised import quantise_layers
from tests.stiv.convert.checkpoints import checkpoint, fails, run, write

NAME = "blocks.0.mlp.fc1.bias"


def changed(weights: Weights, **tensors: torch.Tensor) -> Weights:
    return replace(weights, diffusion_model={**weights.diffusion_model, **tensors})


def test_equal_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "a.safetensors", checkpoint())
    assert run("diff", path, path) == 0
    assert capsys.readouterr().out.startswith("equal: the cards and all ")
    assert run("diff", path, path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["is_different"] is False


def test_one_tensor_differs() -> None:
    a = changed(checkpoint(), **{NAME: torch.full((128,), 2.0)})
    moved = torch.full((128,), 2.0)
    moved[0] = 2.5
    found = compare(a, changed(a, **{NAME: moved}))
    (tensor,) = found.tensors
    assert tensor.name == f"diffusion_model.{NAME}" and tensor.largest == 0.5
    assert tensor.relative == pytest.approx(0.5 / math.sqrt(128 * 4))
    whole = sum(t.double().square().sum() for p in ("diffusion_model", "text_encoder", "vae")
                for t in getattr(a, p).values())  # fmt: skip
    assert found.relative == pytest.approx(0.5 / math.sqrt(whole))
    assert not (found.card or found.missing or found.extra)


def test_missing_extra_and_other_shapes() -> None:
    a = checkpoint()
    b = replace(a, vae={"vae_scale": torch.ones(2), "new": torch.ones(1)}, text_encoder={})
    found = compare(a, b)
    assert found.missing == [*(f"text_encoder.{n}" for n in a.text_encoder),
                             "vae.taesd_decoder.1.weight"]  # fmt: skip
    assert found.extra == ["vae.new"]
    (tensor,) = found.tensors
    assert tensor.shapes == ((), (2,)) and tensor.largest == math.inf


def test_nan_equals_nan_only() -> None:
    nan, ones = torch.full((128,), math.nan), torch.ones(128)
    a = changed(checkpoint(), **{NAME: nan})
    assert compare(a, a).is_none
    (tensor,) = compare(a, changed(a, **{NAME: ones})).tensors
    assert tensor.largest == math.inf
    json.dumps(compare(a, changed(a, **{NAME: ones})).to_dict(), allow_nan=False)


def test_the_same_numbers_in_another_dtype_differ() -> None:
    a = checkpoint(dtype=torch.float16)
    found = compare(a, changed(a, **{NAME: a.diffusion_model[NAME].float()}))
    assert [(t.dtypes, t.largest) for t in found.tensors] == [(("float16", "float32"), 0.0)]


def test_cards(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a = checkpoint()
    card = replace(a.card, sampling={"shift": 1.5}, modelspec={"license": "MIT"})
    paths = [write(tmp_path / f"{n}.safetensors", replace(a, card=c))
             for n, c in (("a", a.card), ("b", card))]  # fmt: skip
    assert run("diff", *paths) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        "card: sampling.shift 3.0 → 1.5",
        'card: modelspec.title "Tiny, “test”" → nothing',
        'card: modelspec.license "Apache-2.0" → "MIT"',
    ]


def test_the_farthest_first_and_the_rest_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a = checkpoint()
    paths = [write(tmp_path / f"{n}.safetensors", w) for n, w in (("a", a), ("b", checkpoint(1)))]
    assert run("diff", *paths, "--top", "3") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tensors: ") and lines[-1].startswith("and ")
    shown = [float(line.split()[0]) for line in lines[2:-1]]
    assert len(shown) == 3 and shown == sorted(shown, reverse=True)


def test_quantised_layers_by_what_they_stand_for(tmp_path: Path) -> None:
    a = checkpoint()
    scaled = replace(a, diffusion_model=quantise_layers(a.diffusion_model))
    path = write(tmp_path / "scaled.safetensors", scaled)
    found = compare(a, Weights.read(path))
    assert not (found.missing or found.extra)
    assert 0.001 < found.relative < 0.03


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", checkpoint())
    fails(r"gone\.safetensors: there is no such file", "diff", path, tmp_path / "gone.safetensors")
