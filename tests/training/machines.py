"""Machines, and the recipes that come with the project, for what is told of a run beforehand."""

from __future__ import annotations

from scripts.prepare import ROOT
from training.config import TrainConfig, load_config
from training.outlook import Machine

H200 = Machine("NVIDIA H200", int(141e9), 989e12, processes=8, shards=1)
CPU = Machine("CPU", int(32e9), None, processes=1, shards=1)


def shipped(name: str, *changes: str) -> TrainConfig:
    """A recipe of training/recipes, with key=value changes."""
    return load_config(ROOT / "training" / "recipes" / f"{name}.yaml", list(changes))
