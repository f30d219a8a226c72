"""A measured number with all that it takes to measure it again, as a line and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from ..files import atomic
from .intervals import LEVEL, Interval

_PACKAGES = ("torch", "torchmetrics", "transformers", "opencv-python-headless", "scipy", "av")


@dataclass(frozen=True)
class Result:
    """One number."""

    measure: str
    value: float
    better: Literal["higher", "lower", "neither"]
    interval: Interval | None = None
    """Of 95 %."""
    samples: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    """SHA-256 of weights, and of each folder's files, see `training.evaluation.inputs.Read`."""
    seed: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further figures of the same clips."""
    warnings: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; numbers that are not finite are null."""
        values = {**asdict(self), "level": LEVEL, "versions": _versions()}
        return _plain(values)

    def lines(self) -> list[str]:
        """For people."""
        said = f"{self.measure} {_short(self.value)}"
        if self.interval:
            said += f"  [{_short(self.interval[0])}, {_short(self.interval[1])}]"
        if self.better != "neither":
            said += f"  ({self.better} is better)"
        counts = ", ".join(f"{number} {name}" for name, number in self.samples.items())
        lines = [f"{said}  {counts}".rstrip()]
        lines += [f"  {name}: {_short(value)}" for name, value in self.more.items()]
        return lines + [f"  warning: {text}" for text in self.warnings]


def report(results: Sequence[Result], out: Path | None = None) -> None:
    """Print every number, and as the last line all of it as JSON; write that to `out` as well."""
    for result in results:
        print(*result.lines(), sep="\n")
    values = [result.to_dict() for result in results]
    text = json.dumps(values if len(values) > 1 else values[0])
    if out is not None:
        keep(text, out)
    print(text)


def keep(text: str, path: Path) -> None:
    """Writes a text whole or not at all, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
