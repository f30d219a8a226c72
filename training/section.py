"""The base of every part of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path in which ~ means the user's folder."""


class Section(BaseModel):
    """Unknown keys are errors: a misspelt key must not train something else."""

    model_config = ConfigDict(extra="forbid", frozen=True)
