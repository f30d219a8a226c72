"""`card`: printing, and the few fields that hands may edit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stiv.checkpoint import read_card
from stiv.convert.card import FIELDS, edited
from stiv.convert.weights import Weights
from stiv.quantised import quantise_layers
from tests.stiv.convert.checkpoints import checkpoint, fails, run, tensors_of, write
from tests.stiv.test_checkpoint import CARD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.safetensors", checkpoint())


def test_printing(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("card", path) == 0
    assert capsys.readouterr().out.strip() == read_card(path).summary()


def test_editing(path: Path, tmp_path: Path) -> None:
    tasks = [{"task": "ti2v", "frames": [8, 16]}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    target = tmp_path / "b.safetensors"
    settings = ["modelspec.title=A = B, ü", "modelspec.license=", "modelspec.tags=video, stiv",
                "training.note=seen by hand", f"tasks={tmp_path / 'tasks.json'}",
                "sampling.shift=2.5"]  # fmt: skip
    options = [part for setting in settings for part in ("--set", setting)]
    assert run("card", path, *options, "--out", target) == 0
    before, after = Weights.read(path), Weights.read(target)
    card = after.card
    assert card.modelspec["title"] == "A = B, ü" and card.modelspec["tags"] == "video, stiv"
    assert "license" not in card.modelspec
    assert card.training == {**before.card.training, "note": "seen by hand"}
    assert card.tasks == tasks and card.sampling == {"shift": 2.5}
    assert (card.config, card.latents, card.text) == (CARD.config, CARD.latents, CARD.text)
    assert card.tensor_hash == before.card.tensor_hash
    found, expected = tensors_of(after), tensors_of(before)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_in_place(path: Path) -> None:
    command = ("card", path, "--set", "modelspec.title=New", "--out", path)
    fails("is there already", *command)
    assert run(*command, "--overwrite") == 0
    assert read_card(path).modelspec["title"] == "New"


def test_quantised_layers_stay_so(tmp_path: Path) -> None:
    weights = Weights(CARD, quantise_layers(checkpoint().diffusion_model))
    path = write(tmp_path / "a.safetensors", weights)
    target = tmp_path / "b.safetensors"
    assert run("card", path, "--set", "modelspec.title=New", "--out", target) == 0
    assert read_card(target).tensor_hash == read_card(path).tensor_hash


def test_assumptions_of_a_file_without_a_card_are_kept(tmp_path: Path) -> None:
    path, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensors = checkpoint().diffusion_model
    save_file({f"model.diffusion_model.{n}": t.contiguous() for n, t in tensors.items()}, path)
    assert run("card", path, "--set", "training.note=found", "--out", target) == 0
    assumed = list(read_card(path).inferred)
    assert read_card(target).training == {"note": "found", "assumed": assumed}
    again = tmp_path / "c.safetensors"
    assert run("dtype", target, "--to", "bf16", "--out", again) == 0
    assert all(f"note: {line}"[:400] in read_card(again).summary() for line in assumed)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("config.depth=3", "config.depth: cannot be edited; those are modelspec.title"),
        ("tensor_hash=00", "tensor_hash: cannot be edited"),
        ("modelspec.architecture=flux", "modelspec.architecture: cannot be edited"),
        ("training.steps=1", "training.steps: cannot be edited"),
        ("modelspec.title", "expected FIELD=VALUE"),
        ("modelspec.date=yesterday", r"modelspec\.date: .*yesterday"),
        (f"modelspec.description={'x' * 10_001}", "10,001 characters are too many"),
        ("sampling.shift=fast", "'fast' is no shift"),
        ("sampling.shift=0", r"sampling\.shift is 0\.0: expected 0\.01 to 100"),
        ("sampling.shift=nan", r"sampling\.shift is nan"),
        ("tasks=gone.json", r"there is no file gone\.json"),
    ],
)
def test_what_cannot_be_edited(path: Path, tmp_path: Path, setting: str, message: str) -> None:
    fails(message, "card", path, "--set", setting, "--out", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("text", ["{", '[{"task": 3}]', '"t2v"', '[{"task": "t2v", "frames": 3}]'])
def test_bad_tasks(tmp_path: Path, text: str) -> None:
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(ValueError, match="--set tasks: "):
        edited(CARD, [f"tasks={tmp_path / 'tasks.json'}"])


def test_missing_options(path: Path, tmp_path: Path) -> None:
    fails("--set needs --out", "card", path, "--set", "modelspec.title=New")
    fails("--out without --set", "card", path, "--out", tmp_path / "b.safetensors")


def test_the_help_names_the_fields(capsys: pytest.CaptureFixture) -> None:
    assert run("card", "--help") == 0
    words = "".join(capsys.readouterr().out.split())
    assert all(field in words for field in FIELDS)
