"""The step that a CLIP is needed for, with a tiny CLIP of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.training.engine.footage import coloured, measured, moving, texture
from training.engine.features.clip import Clip, predict, read_predictor
from training.engine.step import NotReady

WIDTH = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A folder with a CLIP whose features are `WIDTH` wide."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    part = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**part, "num_attention_heads": 4, "vocab_size": 99},
        vision_config={**part, "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
        projection_dim=WIDTH,
    )
    CLIPModel(config).save_pretrained(folder)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Path:
    """Layers as LAION's, of whole numbers, and what they give for features of ones: 7."""
    path = tmp_path_factory.mktemp("predictor") / "layers.safetensors"
    tensors = {
        "layers.0.weight": torch.full((4, WIDTH), 0.0),
        "layers.0.bias": torch.arange(4.0),
        "layers.2.weight": torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]]),
        "layers.2.bias": torch.zeros(2),
        "layers.10.weight": torch.tensor([[1.0, 0.5]]),
        "layers.10.bias": torch.tensor([1.0]),
    }
    save_file(tensors, path)
    return path


def test_the_predictor_is_a_chain_of_linear_layers(predictor: Path) -> None:
    layers = read_predictor(predictor)
    assert [weight.shape for weight, _ in layers] == [(4, WIDTH), (2, 4), (1, 2)]
    assert predict(layers, np.ones(WIDTH, np.float32)) == 3 + 0.5 * 6 + 1
    assert predict([], np.ones(WIDTH)) is None


def test_a_segment_that_changes_is_less_consistent(clip: Path, predictor: Path) -> None:
    step = Clip(folder=str(clip), aesthetic=str(predictor))
    step.check()
    still = [coloured(texture(64, 64, 1))] * 8
    same = measured(step, still)
    assert same["consistency"] == pytest.approx(1, abs=1e-4) and same["aesthetic"] == 7
    changing = [coloured(texture(64, 64, seed)) for seed in range(8)]
    assert (
        measured(step, changing)["consistency"] < measured(step, list(moving(1, 8)))["consistency"]
    )
    without = measured(Clip(folder=str(clip)), still)
    assert without["aesthetic"] is None and without["drift"] == pytest.approx(1, abs=1e-4)


def test_weights_are_in_the_stamp_and_their_place_is_not(clip: Path, predictor: Path) -> None:
    stamp = Clip(folder=str(clip), aesthetic=str(predictor)).stamp()
    assert len(stamp["clip"]) == len(stamp["aesthetic"]) == 64
    assert "folder" not in stamp and stamp != Clip(folder=str(clip)).stamp()


def test_what_is_missing_is_named(clip: Path, predictor: Path, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="--clip"):
        Clip(folder=str(tmp_path)).check()
    with pytest.raises(NotReady, match=r"weights_only=True"):
        Clip(folder=str(clip), aesthetic="sac+logos+ava1-l14-linearMSE.pth").check()
    save_file({"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(NotReady, match=f"takes 7 features, .* gives {WIDTH}"):
        Clip(folder=str(clip), aesthetic=str(tmp_path / "b.safetensors")).check()
    save_file({"weight": torch.zeros(2, WIDTH), "bias": torch.zeros(2)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="ends in one number"):
        read_predictor(tmp_path / "c.safetensors")
