"""Small checkpoints for the conversions' tests, and the command line as a function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stiv.convert.cli import main
from stiv.convert.weights import Weights
from stiv.text_encoder import TextEncoder
from tests.models import random_model
from tests.stiv.test_checkpoint import CARD, CONFIG, TEXT_CONFIG

VAE = {"taesd_decoder.1.weight": torch.linspace(-1, 1, 12).view(4, 3), "vae_scale": torch.ones(())}


def checkpoint(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Model, text encoder and VAE in one."""

    def cast(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}

    text = TextEncoder(TEXT_CONFIG)
    text.init_weights(torch.Generator().manual_seed(seed))
    model = random_model(CONFIG, seed=seed, std=0.02)
    return Weights(CARD, cast(model.state_dict()), cast(text.state_dict()), VAE)


def write(path: Path, weights: Weights) -> Path:
    weights.write(path)
    return path


def run(*arguments: object) -> int | str:
    """What the process would exit with: 0, a code, or the line of an error."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


def fails(message: str, *arguments: object) -> None:
    """The command ends in one line that matches."""
    code = run(*arguments)
    assert isinstance(code, str) and "\n" not in code
    with pytest.raises(ValueError, match=message):
        raise ValueError(code)


def tensors_of(weights: Weights) -> dict[str, Tensor]:
    """All of them, by their names with the part."""
    parts = ("diffusion_model", "text_encoder", "vae")
    return {f"{p}.{name}": t for p in parts for name, t in getattr(weights, p).items()}
