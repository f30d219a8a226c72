"""Settings of steps from a command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from .step import step_class


def parse_settings(changes: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """STEP.KEY=VALUE of `--set`, by step. Raises ValueError for a step that does not run, an
    unknown key, or a value of another type."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    settings: dict[str, dict[str, Any]] = {}
    for change in changes:
        path, _, text = change.partition("=")
        step, _, key = path.partition(".")
        if not key or step not in names:
            steps = ", ".join(names)
            raise ValueError(f"--set {change}: expected STEP.KEY=VALUE, STEP one of {steps}")
        fields = {field.name: field for field in dataclasses.fields(step_class(step))}
        if key not in fields:
            raise ValueError(f"--set {change}: {step} has {', '.join(fields) or 'no settings'}")
        try:
            value = yaml.safe_load(text)
            value = TypeAdapter(type(fields[key].default)).validate_python(value)
        except (ValidationError, yaml.YAMLError):
            default = fields[key].default
            raise ValueError(
                f"--set {change}: expected a {type(default).__name__} such as {default!r}"
            ) from None
        settings.setdefault(step, {})[key] = value
    return settings
