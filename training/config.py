"""A training run as checked data: YAML in, unknown keys refused, every key documented."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stiv.config import MODELS, STIVConfig
from stiv.frames import TASKS


class Section(BaseModel):
    """Unknown keys are errors: a misspelt key must not train something else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """The network to train."""

    size: Literal[tuple(MODELS)] = Field("nano", description="entry of the MODELS table")
    changes: dict[str, Any] = Field({}, description="STIVConfig fields that differ from the table")

    def build(self) -> STIVConfig:
        """The network's config. Raises ValueError quoting a bad field."""
        return STIVConfig.from_dict({**MODELS[self.size].to_dict(), **self.changes})


class TextSection(Section):
    """The small text encoder that is trained with the model."""

    width: int = Field(128, ge=16, le=4096, description="token width")
    depth: int = Field(3, ge=1, le=64, description="blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads")
    max_tokens: int = Field(40, ge=8, le=512, description="longest prompt in tokens")
    pretrain_steps: int = Field(1500, ge=0, description="steps of naming a caption's attributes")
    dropout: float = Field(0.1, ge=0, le=1, description="share of captions emptied (paper 0.1)")


class DataSection(Section):
    """Where the latents are and how they are given to the model."""

    latents: Path = Field(description="folder of latent shards, see `python -m training cache`")
    batch: int = Field(32, ge=1, description="clips per step")
    image_steps: float = Field(0.1, ge=0, le=1, description="share of steps on still images (T2I)")
    image_batch: int = Field(128, ge=1, description="images per such step")
    image_dropout: float = Field(0.08, ge=0, le=1, description="given frames dropped (paper 0.08)")
    reverse: bool = Field(False, description="also train on clips played backwards")
    tasks: dict[str, float] = Field(
        {"t2v": 1.0}, description="conditioning tasks and their shares, summing to 1"
    )

    @model_validator(mode="after")
    def _check_tasks(self) -> DataSection:
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise ValueError(f"unknown task {unknown[0]!r}: expected some of {', '.join(TASKS)}")
        if min(self.tasks.values()) < 0 or abs(sum(self.tasks.values()) - 1) > 1e-6:
            raise ValueError(f"task shares sum to {sum(self.tasks.values())}: expected 1")
        return self


class OptimizerSection(Section):
    """AdaFactor as in the paper."""

    lr: float = Field(2e-4, gt=0, le=0.1, description="learning rate after warm-up")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    warmup: int = Field(1000, ge=0, description="steps of linear warm-up")
    cooldown: float = Field(0.0, ge=0, le=1, description="last share of the steps, lr falls to 0")
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights")


class TrainConfig(Section):
    """Everything that determines a run."""

    name: str = Field(description="title of the exported model")
    notes: str = Field("", description="what a reader of the card should know of this run")
    seed: int = Field(0, ge=0, description="the run is a function of this seed and the data")
    steps: int = Field(ge=1, description="optimizer steps of the whole run")
    state: Path = Field(description="folder of the resumable state")
    init: Path | None = Field(None, description="checkpoint whose weights a new run starts from")
    save_every: int = Field(250, ge=1, description="steps between states")
    log_every: int = Field(50, ge=1, description="steps between log lines")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the forward and backward")
    compile: bool = Field(False, description="torch.compile every block (needs a C++ compiler)")
    timesteps: Literal["uniform", "logit_normal"] = Field("uniform", description="of training")
    shift: float = Field(1.0, gt=0, description="> 1 trains more at high noise")
    model: ModelSection = ModelSection()
    text: TextSection = TextSection()
    data: DataSection
    optimizer: OptimizerSection = OptimizerSection()


def load_config(path: Path, overrides: list[str] = ()) -> TrainConfig:
    """A config from YAML with `a.b=value` overrides (values are YAML too).

    `~` in paths is expanded. Raises ValueError naming the file and key.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable YAML config ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r}: expected key=value, as in optimizer.lr=1e-4")
        target = values
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = yaml.safe_load(text)
    config = TrainConfig.model_validate(values)
    return config.model_copy(
        update={
            "state": config.state.expanduser(),
            "init": config.init and config.init.expanduser(),
            "data": config.data.model_copy(update={"latents": config.data.latents.expanduser()}),
        }
    )
