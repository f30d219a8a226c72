"""A comparison as YAML: what is trained, what is sampled with it, what is looked at.

An arm is a row of the table. It differs from the base recipe by its `train` settings, and in
sampling by `sample`; arms with the same training share it. `stages` are runs that arms start from:
"@name" in a setting stands for the checkpoint of a stage, of the same seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stiv.frames import TASKS

from ...section import Section, load_section
from ..long_video import PLANS


class SetSection(Section):
    """Latents of procedural clips, made before anything is trained."""

    size: int = Field(64, ge=16, le=256, multiple_of=16, description="pixels of a side")
    frames: int = Field(16, ge=2, le=64)
    clips: int = Field(3000, ge=2, description="to train on")
    gaps: int = Field(0, ge=0, description="also so many gaps of slowed clips (long videos)")


class StageSection(Section):
    """A run that arms start from."""

    steps: int = Field(ge=1)
    train: dict[str, Any] = Field({}, description="settings of the base recipe, by dotted keys")
    set: str | None = Field(None, description="name of its set; default: the comparison's")


class SampleSection(Section):
    """How clips are sampled; what an arm leaves out is the comparison's."""

    steps: int | None = Field(None, ge=1, le=1000, description="of the solver")
    guidance_scale: float | None = Field(None, gt=0, le=100)
    renorm: bool | None = None
    null: Literal["noised", "blank", "given"] | None = Field(
        None, description="how the unconditional pass sees given frames, see Sampler.null"
    )
    plan: Literal[PLANS] | None = Field(None, description="of long videos")


class ScoreSection(Section):
    """One look at every model."""

    given: Literal[tuple(TASKS)] = Field("t2v", description="which frames of the true clip it gets")
    clips: int = Field(64, ge=2, description="held-out prompts")
    after: int = Field(0, ge=0, description="only frames from this one on are looked at")
    long: int = Field(0, ge=0, multiple_of=15, description="frames of long videos; 0: of clips")
    loss: bool = Field(False, description="the held-out loss instead of samples")


class ArmSection(Section):
    """One row."""

    train: dict[str, Any] = Field({}, description="settings of the base recipe, by dotted keys")
    steps: int | None = Field(None, ge=1, description="instead of those of equal compute")
    set: str | None = Field(None, description="name of its set; default: the comparison's")
    sample: SampleSection = SampleSection()
    given: dict[str, Literal[tuple(TASKS)]] = Field(
        {}, description="by score: other frames than the score says"
    )


class Expectation(Section):
    """What the paper found: a figure of one arm is above (or below) another's."""

    figure: str
    of: str = Field(description="an arm")
    above: str | None = Field(None, description="another arm")
    below: str | None = Field(None, description="or this one")

    @model_validator(mode="after")
    def _check_other(self) -> Expectation:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"expect {self.figure} of {self.of}: name one arm, above or below")
        return self

    @property
    def other(self) -> str:
        """The arm that it is compared with."""
        return self.above or self.below


class Comparison(Section):
    """A table."""

    title: str
    paper: str = Field(description="what the paper found, with its numbers")
    base: Path | None = Field(None, description="recipe beside this file, that arms change")
    checkpoint: Path | None = Field(
        None, description="instead: a trained model, that arms sample in different ways; nano: ours"
    )
    steps: int = Field(1, ge=1, description="of the first arm")
    equal: Literal["compute", "steps"] = Field(
        "compute", description="what all arms have alike: FLOPs of training, or steps"
    )
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="of training and sampling")
    sets: dict[str, SetSection] = Field({"clips": SetSection()}, min_length=1)
    stages: dict[str, StageSection] = Field({}, description="runs that arms start from")
    sample: SampleSection = SampleSection()
    arms: dict[str, ArmSection] = Field(min_length=1)
    scores: dict[str, ScoreSection] = Field(min_length=1)
    columns: list[str] = Field(min_length=1, description="figures of the table, as score.figure")
    expect: list[Expectation] = Field([], description="what the paper found, to be decided")

    @model_validator(mode="after")
    def _check_names(self) -> Comparison:
        if (self.base is None) == (self.checkpoint is None):
            raise ValueError("name a base recipe or a checkpoint")
        for name, arm in self.arms.items():
            if self.checkpoint and (arm.train or arm.steps):
                raise ValueError(f"arm {name}: a checkpoint is not trained further")
            if unknown := sorted(set(arm.given) - set(self.scores)):
                raise ValueError(f"arm {name}: there is no score {unknown[0]!r}")
        for section in (*self.arms.values(), *self.stages.values()):
            if section.set is not None and section.set not in self.sets:
                raise ValueError(
                    f"there is no set {section.set!r}: expected {', '.join(self.sets)}"
                )
        for expectation in self.expect:
            for arm in (expectation.of, expectation.other):
                if arm not in self.arms:
                    raise ValueError(f"expect: there is no arm {arm!r}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}: each may be named once")
        return self

    def sampling(self, arm: str) -> dict[str, Any]:
        """How an arm's clips are sampled."""
        chosen = {**SAMPLING, **self.sample.model_dump(exclude_none=True)}
        return {**chosen, **self.arms[arm].sample.model_dump(exclude_none=True)}

    def set_of(self, section: ArmSection | StageSection) -> str:
        """The name of the set that a run is trained on."""
        return section.set or next(iter(self.sets))


SAMPLING = {
    "steps": 20, "guidance_scale": 4.0, "renorm": False, "null": "noised", "plan": "hierarchy",
}  # fmt: skip
"""What a comparison leaves out."""


def load_comparison(path: Path) -> Comparison:
    """From YAML. Raises ValueError of one line naming the file and every bad key."""
    comparison = load_section(Comparison, path)
    if comparison.base is None:
        return comparison
    base = path.parent / comparison.base
    if not base.is_file():
        raise ValueError(f"{path}: base {base} is not there")
    return comparison.model_copy(update={"base": base})
