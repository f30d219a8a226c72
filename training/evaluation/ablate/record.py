"""Results of runs in one file, so that tables of what took hours can be had again in a moment.

JSON: `runs` and `scores` by the digests that they have in a cache, see `runs` and `command.scored`.
Networks are not in it: what has no result in the file is trained anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ...files import atomic
from .runs import FACTS

_DIGEST = re.compile(r"[0-9a-f]{16}")
_PARTS = ("runs", "scores")


def read_known(path: Path, cache: Path) -> int:
    """Put results into a cache where it has none; how many. Raises ValueError for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        parts = {part: dict(found[part]) for part in _PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no results of comparisons: {error}") from error
    added = 0
    for part, results in parts.items():
        for digest, result in results.items():
            if not _DIGEST.fullmatch(digest):
                raise ValueError(f"{path}: {digest!r} in {part} is no digest")
            if not isinstance(result, dict):
                raise ValueError(f"{path}: {digest} in {part} is {result!r:.40}: expected a table")
            place = _place(cache, part, digest)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                with atomic(place) as unfinished:
                    unfinished.write_text(json.dumps(result), encoding="utf-8")
                added += 1
    return added


def write_known(path: Path, cache: Path) -> None:
    """All results of a cache, one to a line."""
    found = {
        "runs": {p.parent.name: _read(p) for p in sorted(cache.glob(f"runs/*/{FACTS}"))},
        "scores": {p.stem: _read(p) for p in sorted(cache.glob("scores/*.json"))},
    }
    lines = []
    for part, results in found.items():
        rows = [f"{json.dumps(digest)}: {json.dumps(result)}" for digest, result in results.items()]
        lines.append(f'"{part}": {{\n' + ",\n".join(rows) + "\n}")
    with atomic(path) as unfinished:
        unfinished.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def _place(cache: Path, part: str, digest: str) -> Path:
    return cache / part / digest / FACTS if part == "runs" else cache / part / f"{digest}.json"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
