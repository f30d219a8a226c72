"""A run that begins with the text encoder of a checkpoint, and a transformer of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stiv.checkpoint import read_card
from training.checks.files import init
from training.export import export
from training.loop import Trainer
from training.start import build_networks
from training.vocabulary import keep_vocabulary, vocabulary_of


@pytest.fixture
def trained(tiny, tmp_path: Path) -> Path:
    config = tiny(run=str(tmp_path / "first"), steps=2)
    trainer = Trainer(config)
    trainer.start()
    trainer.run()
    export(config, tmp_path / "first.safetensors", weights="raw")
    return tmp_path / "first.safetensors"


def test_words_are_taken_and_the_transformer_is_new(trained, tiny) -> None:
    config = tiny(**{"text.weights": str(trained), "seed": 8, "model.changes.width": 24})
    networks, origin = build_networks(config)
    theirs = load_file(trained)
    for name, tensor in networks["text_encoder"].state_dict().items():
        assert torch.equal(tensor.half(), theirs[f"text_encoder.{name}"])
    assert networks["diffusion_model"].config.width == 24 and not origin.parents


def test_a_resumed_run_needs_the_file_no_more(trained, tiny) -> None:
    config = tiny(**{"text.weights": str(trained)})
    trainer = Trainer(config)
    trainer.start()
    trainer.run(1)
    trained.unlink()
    build_networks(config, is_resumed=True)
    with pytest.raises((ValueError, OSError)):
        build_networks(config)
    (finding,) = init(config)
    assert finding.level == "error" and str(trained) in str(finding)


def test_its_words_are_taken_whatever_the_data_says(trained, tiny) -> None:
    config = tiny(**{"text.weights": str(trained), "data.kind": "clips"})
    assert vocabulary_of(config) == list(read_card(trained).tokenizer.vocab)


def test_other_encoders_are_refused(trained, tiny) -> None:
    config = tiny(**{"text.weights": str(trained), "text.depth": 2})
    with pytest.raises(ValueError, match=r"text.weights .*other sizes"):
        build_networks(config)
    with pytest.raises(ValueError, match="of encoder nano"):
        tiny(**{"text.weights": str(trained), "text.encoder": "clip_g", "text.cache": "none"})


def test_words_of_a_run_that_was_never_saved_are_forgotten(tiny) -> None:
    config = tiny()
    words = vocabulary_of(config)
    keep_vocabulary(config, ["left", "over"])  # by a start that failed after it
    assert vocabulary_of(config) == words
    keep_vocabulary(config, words)
    trainer = Trainer(config)
    trainer.start()
    trainer.run(1)
    keep_vocabulary(config, ["of", "a", "cache", "that", "grew"])
    assert vocabulary_of(config) == words
