"""A tiny run on real latents of a small random VAE, as a recipe to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.vaes import make_vae
from training.cli import main
from training.config import TrainConfig, parse_config
from training.encoders.taesd import TinyVAE
from training.shapes.cache import encode_clips, write_stats


@pytest.fixture(scope="session")
def tiny_vae() -> TinyVAE:
    return make_vae().network


@pytest.fixture(scope="session")
def tiny_latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve procedural clips through `tiny_vae`: 4 latent frames of 4 x 4."""
    folder = tmp_path_factory.mktemp("latents")
    write_stats(folder, encode_clips(make_vae(), folder, "train", 12, frames=4, size=32))
    return folder


@pytest.fixture
def recipe(tiny_latents: Path, tmp_path: Path) -> dict[str, Any]:
    """Plain values of a run that takes a second."""
    return {
        "name": "tiny",
        "seed": 3,
        "steps": 6,
        "run": str(tmp_path / "run"),
        "model": {
            "size": "nano",
            "changes": {
                "width": 48,
                "depth": 1,
                "heads": 3,
                "text_width": 16,
                "pooled_width": 16,
            },
        },
        "text": {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2},
        "data": {
            "kind": "shapes",
            "latents": str(tiny_latents),
            "streams": [{"batch": 4, "weight": 0.7}, {"batch": 4, "weight": 0.3, "still": True}],
            "tasks": {"t2v": 0.5, "ti2v": 0.5},
        },
        "optimizer": {"lr": 1e-3, "warmup": 2, "cooldown": 0.5},
        "save": {"steps": 100},
        "watch": {"log_every": 1},
    }


@pytest.fixture
def tiny(recipe: dict[str, Any]) -> Callable[..., TrainConfig]:
    """tiny(**{"optimizer.lr": 1e-2}): the config with changes."""

    def make(**changes: Any) -> TrainConfig:
        return parse_config(changed(recipe, changes))

    return make


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values with `section.key` entries replaced."""
    values = json.loads(json.dumps(values, default=str))
    for name, value in changes.items():
        *sections, key = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return values


def run(*words: object) -> None:
    """`python -m training` ends well."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert not end.value.code, end.value.code


def refused(*words: object) -> str:
    """The one line that `python -m training` ends with."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert isinstance(end.value.code, str)
    assert "\n" not in end.value.code
    return end.value.code
