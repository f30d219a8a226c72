"""`soup`: averages in closed form, and what has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stiv.convert.soup import soup
from stiv.convert.weights import Weights
from stiv.quantised import dequantise, quantise_layers
from tests.models import random_model
from tests.stiv.convert.checkpoints import VAE, checkpoint, fails, run, tensors_of, write


def test_the_average_of_three(tmp_path: Path) -> None:
    sources = [checkpoint(seed) for seed in range(3)]
    paths = [write(tmp_path / f"{i}.safetensors", source) for i, source in enumerate(sources)]
    target = tmp_path / "soup.safetensors"
    assert run("soup", *paths, "--weights", "0.5,0.3,0.2", "--out", target) == 0
    found = Weights.read(target)
    tables = [tensors_of(source) for source in sources]
    for name, tensor in tensors_of(found).items():
        a, b, c = (table[name].double() for table in tables)
        expected = VAE[name[4:]] if name.startswith("vae.") else 0.5 * a + 0.3 * b + 0.2 * c
        torch.testing.assert_close(tensor.double(), expected.double(), rtol=1e-6, atol=1e-8)
    (operation,) = found.card.training["operations"]
    assert operation["weights"] == [0.5, 0.3, 0.2]
    assert operation["parents"] == [Weights.read(path).card.tensor_hash for path in paths]


def test_equal_shares_of_itself_are_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", checkpoint())
    target = tmp_path / "soup.safetensors"
    assert run("soup", path, path, "--out", target) == 0
    found, original = tensors_of(Weights.read(target)), tensors_of(checkpoint())
    assert all(torch.equal(found[name], original[name]) for name in original)


def test_float16_is_averaged_in_float32() -> None:
    """In float16 the sum of the first two would be infinite."""
    a = checkpoint(dtype=torch.float16)
    large = {**a.diffusion_model, "mask_token": torch.full((32,), 60000.0).half()}
    a = replace(a, diffusion_model=large)
    found = soup([a, a, a], [1.0, 1.0, -1.0]).diffusion_model["mask_token"]
    assert found.dtype == torch.float16 and torch.equal(found, large["mask_token"])
    with pytest.raises(ValueError, match=r"average of mask_token is not finite in torch\.float16"):
        _ = soup([a, a], [2.0, -0.5]).diffusion_model["mask_token"]


def test_dtypes_widen() -> None:
    half, brain, full = (
        checkpoint(dtype=t) for t in (torch.float16, torch.bfloat16, torch.float32)
    )
    scaled = replace(full, diffusion_model=dequantise(quantise_layers(full.diffusion_model)))
    for sources, expected in (
        ([half, half], torch.float16),
        ([half, brain], torch.float32),
        ([half, full], torch.float32),
        ([brain, scaled], torch.float32),
    ):
        made = soup(sources, [0.5, 0.5]).diffusion_model["blocks.0.mlp.fc1.weight"]
        assert made.dtype == expected


def test_cards_are_joined() -> None:
    a, b = checkpoint(), checkpoint()
    more = {"task": "t2i", "height": [64, 64]}
    other = replace(
        b.card, tasks=[*b.card.tasks, more], training={"data": "shapes 1", "steps": 20},
        modelspec={"title": "Other", "license": "CC-BY-4.0"},
    )  # fmt: skip
    card = soup([a, replace(b, card=other)], [0.5, 0.5]).card
    assert card.tasks == [*a.card.tasks, more]
    assert card.modelspec["license"] == "Apache-2.0 and CC-BY-4.0"
    assert card.modelspec["title"] == "Average of Tiny, “test”, Other"
    assert card.training.pop("operations") and card.training == {"data": "shapes 1"}


def test_other_architectures_are_refused_by_field(tmp_path: Path) -> None:
    a = checkpoint()
    config = replace(a.card.config, depth=1, time_scale=0.5)
    tensors = random_model(config, seed=0, std=0.02).state_dict()
    other = replace(a, card=replace(a.card, config=config), diffusion_model=tensors)
    paths = [write(tmp_path / f"{n}.safetensors", w) for n, w in (("a", a), ("b", other))]
    fails(r"b\.safetensors is of another kind than .*a\.safetensors: config\.depth 2 → 1, "
          r"config\.time_scale 1\.0 → 0\.5",
          "soup", *paths, "--out", tmp_path / "soup.safetensors")  # fmt: skip


def test_half_the_text_encoders_are_refused(tmp_path: Path) -> None:
    a = checkpoint()
    paths = [write(tmp_path / f"{n}.safetensors", w)
             for n, w in (("a", a), ("b", replace(a, text_encoder={})))]  # fmt: skip
    fails(r"a\.safetensors holds a text encoder, .*b\.safetensors does not",
          "soup", *reversed(paths), "--out", tmp_path / "soup.safetensors")  # fmt: skip


@pytest.mark.parametrize(
    ("count", "weights", "message"),
    [
        (1, None, "takes two or more"),
        (2, "0.5", "1 numbers for 2 checkpoints"),
        (2, "0.5,0.6", r"their sum is 1\.1, expected 1"),
        (2, "0.5,half", "expected numbers"),
        (2, "nan,0.5", "their sum is nan"),
    ],
)
def test_bad_shares(tmp_path: Path, count: int, weights: str | None, message: str) -> None:
    path = write(tmp_path / "a.safetensors", checkpoint())
    options = [] if weights is None else ["--weights", weights]
    fails(message, "soup", *[path] * count, *options, "--out", tmp_path / "b.safetensors")
