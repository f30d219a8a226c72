"""What `training.doctor` looks at: the machine, the files, the data. Each check yields findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    level: Literal["ok", "warn", "error"]
    about: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<5}  {self.about}: {self.text}"
        return f"{line}\n       -> {self.remedy}" if self.remedy else line


Findings = Iterator[Finding]


def absent(about: str, path: Path | None, remedy: str) -> Finding:
    """A file or folder that is not there."""
    return Finding("error", about, f"{path} is not there", remedy)


def has_shards(folder: Path | None, kind: str) -> bool:
    """Whether a cache holds shards of a kind: "latents" or "text"."""
    if folder is None or not folder.is_dir():
        return False
    return any(folder.glob(f"{kind}-*.safetensors"))
