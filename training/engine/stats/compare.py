"""What changed between two reports, from their figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .collect import FORMAT
from .measures import shortened

_LARGEST = 2**26  # bytes of a stats.json
_MOST = 200  # lines


def read_figures(path: Path) -> dict[str, Any]:
    """The content of a stats.json. Raises ValueError naming the file and what is wrong with it,
    OSError."""
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: expected at most {_LARGEST}")
    try:
        figures = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the stats.json of a report ({error})") from None
    if _at(figures, "format") != FORMAT or not isinstance(_at(figures, "measures"), Mapping):
        raise ValueError(f"{path} is no stats.json of format {FORMAT}: make the report again")
    return figures


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that both have, side by side: `name` of the older report, and `lines` of `what`,
    `before` and `now`."""
    older, newer = dict(_numbers(before)), dict(_numbers(now))
    lines = [
        {"what": shortened(what), "before": older.get(what), "now": newer.get(what)}
        for what in dict.fromkeys([*newer, *older])
    ]
    return {"name": shortened(before.get("name", "")), "lines": lines[:_MOST]}


def _numbers(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What is compared, with names for people."""
    for path, name in (
        (("totals", "rows"), "clips"),
        (("totals", "seconds"), "seconds of video"),
        (("filter", "kept"), "clips kept"),
        (("totals", "kept_seconds"), "seconds kept"),
    ):
        yield from _number(name, _at(figures, *path))
    rules = _at(figures, "filter", "rules")
    for rule in rules if isinstance(rules, list) else ():
        if _at(rule, "any"):
            yield from _number(f"dropped: {_at(rule, 'rule')}", _at(rule, "any"))
    measures = _at(figures, "measures")
    for path in measures if isinstance(measures, dict) else ():
        yield from _number(f"median of {path}", _at(measures, path, "quantiles", "0.5"))


def _number(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18:
        yield name, value


def _at(found: Any, *keys: str) -> Any:
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
