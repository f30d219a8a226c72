"""Results with what they were measured on, in benchmarks/results/<case>.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from scripts.prepare import HOST_VERSION, ROOT

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def chosen(parser: argparse.ArgumentParser, known: Collection[str]) -> argparse.Namespace:
    """A parser's options with `cases`, which are all that are known where none is named."""
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(known)}")
    options = parser.parse_args()
    unknown = [name for name in options.cases if name not in known]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}: expected some of {', '.join(known)}")
    options.cases = options.cases or list(known)
    return options


def machine() -> dict[str, Any]:
    """The machine, its load and the libraries, now."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "comfyui": HOST_VERSION,
    }


def write(case: str, before: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows of one case, with its command, the commit and the machine before and after."""
    path = RESULTS / f"{case}.json"
    found = {
        "command": f"python -m benchmarks {case} --record",
        "date": date.today().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--", "*.py").splitlines()),
        **before,
        "load_after": round(os.getloadavg()[0], 1),
    }
    head = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    lines = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows)
    path.write_text(f'{{\n{head},\n  "rows": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
    return path


def read(case: str) -> dict[str, Any] | None:
    """What `write` has written; None where nothing is."""
    path = RESULTS / f"{case}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """As the system names it: Linux says so in a file, others through Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
