"""Writing the report on a set of rows: report.html and stats.json in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...files import atomic
from ..filter import PRESETS, Filter, load_filter
from ..rows import Row, value
from .collect import Collector
from .compare import compare
from .drops import judge, verdict
from .files import count_files
from .measures import Cut, shortened
from .page import page
from .sheets import pictures

PAGE = "report.html"
FIGURES = "stats.json"


def filtered_by(rows: Iterable[Row]) -> tuple[str, Filter] | None:
    """The preset that the first filtered row was filtered by; None where it was no preset, or one
    of another version. Reads no further than that row."""
    made_by = next(filter(None, (value(row, "filter.made_by") for row in rows)), {})
    name = made_by.get("name")
    if not isinstance(name, str) or name not in presets():
        return None
    found = load_filter(name)
    return found if found[1].digest() == made_by.get("rules") else None


def presets() -> list[str]:
    """Names of the filters that come with the pack."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def write_report(
    rows: Iterable[Row],
    out: Path,
    *,
    name: str,
    media: Path | None = None,
    files: Iterable[Row] | None = None,
    rules: tuple[str, Filter] | None = None,
    against: Mapping[str, Any] | None = None,
    size: int = 6,
    seed: int = 0,
    workers: int = 2,
    limit: float = 60.0,
) -> dict[str, Any]:
    """Writes both files, each whole or not at all, and returns the figures.

    rows: of segments, read once. media: the folder of their files; None = no pictures. files: rows
    of all files, for the stages before segments. rules: a filter with its name, whose thresholds
    are shown, and which is tried on rows that it has not filtered. against: figures of another
    report, to compare with. size: clips in a strip; 0 = no contact sheets. seed: of what is drawn
    at random. workers, limit: processes that decode, and the seconds that each clip may take.

    The same rows and files give the same bytes. Raises what the iterators raise, OSError, and
    RuntimeError where no worker process can be started.
    """
    applied = rules[1] if rules else None
    collector = Collector(
        [Cut(*threshold) for threshold in applied.thresholds()] if applied else (),
        applied.reasons() if applied else (),
        judge=judge(applied) if applied else verdict,
        size=size,
        seed=seed,
    )
    collector.add_all(rows)
    found, clips = collector.figures()
    figures = {"name": shortened(name), **found}
    if rules:
        figures["filter"] |= {"name": shortened(rules[0]), "digest": rules[1].digest()}
        figures["filter"]["top"] = rules[1].top.count if rules[1].top else None
    if files is not None:
        figures["files"] = count_files(files)
    if against is not None:
        figures["compared"] = compare(against, figures)
    shown: dict[str, bytes | str] = {}
    if media is not None and clips:
        sheets = figures["sheets"].values()
        uses = Counter(id for strips in sheets for strip in strips for id in strip["clips"])
        shown = dict(pictures(clips, media, uses, workers=workers, limit=limit))
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, ensure_ascii=False, allow_nan=False, indent=1)
    for file, content in ((FIGURES, text + "\n"), (PAGE, page(figures, shown))):
        with atomic(out / file) as part:
            part.write_text(content, encoding="utf-8", newline="\n")
    return figures
