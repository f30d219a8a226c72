"""What the rows of the paper's ablation tables cost, and how to train one with the recipes."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from stiv.ablations import METRICS, Ablation
from stiv.config import MODELS, STIVConfig

from .config import load_config
from .estimate import Shape, flops, parameters

RECIPES = Path(__file__).parent / "recipes"
SHAPES: dict[str, Shape] = {"t2i": (1, 32, 32), "t2v": (20, 32, 32), "ti2v": (20, 32, 32)}
"""Latents of a table's costs: 256 x 256 pixels, a picture or 20 frames."""

_RECIPES = {"t2i": "t2i_256", "t2v": "t2v_256", "ti2v": "stiv_256"}
_CHANNELS = 4  # of the VAE of the recipes
_T5 = {"text.file": "~/stiv/t5xxl_fp16.safetensors", "text.cache": "~/stiv/cache/text_t5xxl"}


@dataclass(frozen=True)
class Cost:
    """Of a row's network, by estimate."""

    parameters: int
    forward: int
    """FLOPs of one pass in sampling, with every token."""
    training: int | None
    """FLOPs of one sample in training, with the tokens that masking leaves; None: not known."""


def cost(row: Ablation) -> Cost:
    """What a row costs at 256 x 256 pixels, see `SHAPES`."""
    config, shape, kept = row.config, SHAPES[row.table], 1 - row.setup.spatial_mask
    return Cost(
        parameters(config),
        flops(config, shape, train=False),
        None if row.setup.temporal_mask else flops(config, shape, kept=kept),
    )


def obstacle(row: Ablation) -> str | None:
    """Why a row cannot be trained here; None where it can."""
    if row.setup.temporal_mask:
        return "masking here leaves out spatial tokens only"
    if "latent_channels" in row.network:
        return (
            "the paper's VAE of 8 channels was not published, and with one of 4 this is the row "
            "before; the nearest public ones have 16 (SD3, Flux)"
        )
    return None


def differences(row: Ablation) -> list[str]:
    """In what a row that is trained here differs from the paper's."""
    found = []
    if row.setup.prediction == "epsilon":
        found.append("it learns the velocities of a flow instead of predicting noise")
    if row.config.latent_channels != _CHANNELS:
        found.append(f"its VAE has {_CHANNELS} channels instead of {row.config.latent_channels}")
    return found


def hints(row: Ablation) -> list[str]:
    """What a row asks for besides its recipe."""
    found = []
    if "captions" in row.settings:
        found.append("this row is a matter of your data: have the captions written by a model")
    if row.setup.renorm:
        found.append("sample it with renorm, as STIV Guidance has it")
    return found


def recipe(row: Ablation) -> Path:
    """The recipe that `overrides` change."""
    return RECIPES / f"{_RECIPES[row.table]}.yaml"


def overrides(row: Ablation) -> dict[str, Any]:
    """Settings by dotted keys that make the recipe the row's: those that differ, name and run.

    Raises ValueError, with the reason, for a row that cannot be trained here.
    """
    if reason := obstacle(row):
        raise ValueError(f"{row.name} cannot be trained here: {reason}")
    base, setup = load_config(recipe(row)), row.setup
    wanted = {
        "model.changes": network_changes(replace(row.config, latent_channels=_CHANNELS)),
        "text.encoder": setup.text_encoder,
        "optimizer.kind": setup.optimizer,
        "optimizer.lr": setup.lr,
        "masking.ratio": setup.spatial_mask,
    }
    if row.config.image_cross_attention:
        wanted["data.image_attention"] = "beside" if setup.frame_replacement else "instead"
    if not setup.spatial_mask:
        wanted["masking.unmasked_steps"] = 0
    found = {
        k: value for k, value in wanted.items() if reduce(getattr, k.split("."), base) != value
    }
    if setup.text_encoder == "t5xxl":
        found |= _T5
    run = f"~/stiv/runs/ablation_{row.name.replace('/', '_')}"
    return {"name": f"STIV-XL ablation {row.name}", "run": run, **found}


def command(row: Ablation) -> str:
    """The shell command that trains a row, with comments. Raises ValueError as `overrides`."""
    figure = f"{row.figure:g} in the paper ({METRICS[row.table]})"
    lines = [f"# {row.name}, {row.title}: {figure}"]
    lines += [f"# unlike the paper {text}" for text in differences(row)]
    lines += [f"# {text}" for text in hints(row)]
    lines += ["# doctor, cache and export take the same --config and --set"]
    words = [f"python -m training train --config training/recipes/{recipe(row).name}"]
    for key, value in overrides(row).items():
        words.append(f"--set {shlex.quote(f'{key}={json.dumps(value)}')}")
    return "\n".join([*lines, " \\\n    ".join(words)])


def network_changes(config: STIVConfig) -> dict[str, Any]:
    """Fields that differ from XL's in the MODELS table."""
    table = MODELS["xl"].to_dict()
    return {key: value for key, value in config.to_dict().items() if value != table[key]}
