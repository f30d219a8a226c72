"""The base of every part of a recipe, and of other settings that come as YAML."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path in which ~ means the user's folder."""


class Section(BaseModel):
    """Unknown keys are errors: a misspelt key must not train something else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Section)


def load_section(kind: type[S], path: Path) -> S:
    """Settings from a YAML file. Raises ValueError of one line naming the file and each bad key."""
    return parse_section(kind, read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises ValueError of one line naming the file."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable YAML config ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values


def parse_section(kind: type[S], values: dict[str, Any], origin: str) -> S:
    """Settings from plain values. Raises ValueError of one line that names every bad key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{origin}: {'; '.join(map(_problem, error.errors()))}") from None


def _problem(error: dict[str, Any]) -> str:
    key = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("missing", "value_error") or not key:
        return f"{key}: {message}" if key else message
    # A few lines of YAML can name a value whose whole repr would fill the memory.
    return f"{key}: {message} (got {reprlib.repr(error['input']):.80})"
