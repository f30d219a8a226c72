"""One self-contained HTML page about a run: it can be mailed, and it loads nothing."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import atomic
from .chart import line_chart
from .metrics import FILE, duration, read_metrics

PAGE = "report.html"
HELD_OUT = "heldout/"

_SHEETS = 3  # newest contact sheets on the page
_SHEET_BYTES = 8 * 2**20  # larger ones are linked
_CURVES = {"loss": "Loss", "lr": "Learning rate", "grad_norm": "Gradient norm"}
_TOO = {"tokens_per_s": "Tokens per second", "mfu": "Share of the device's peak (MFU)"}

# No script, no request: what a prompt or caption smuggled in could do nothing.
_POLICY = "default-src 'none'; img-src data: 'self'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --faint: color-mix(in srgb, currentColor 18%, transparent) }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1360px; margin: 2rem auto; padding: 0 1rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem }
svg { width: 100%; font-size: 11px } svg text { fill: currentColor } svg .title { font-size: 14px }
svg polyline { fill: none; stroke-width: 1.5 } svg .grid { stroke: var(--faint) }
.legend { margin: 0 0 0 64px; font-size: 12px } .legend span { margin-right: 1em }
.legend i { display: inline-block; width: .7em; height: .7em; margin-right: .3em }
table { border-collapse: collapse } td, th { padding: .1rem 1rem .1rem 0; text-align: left }
th { font-weight: normal; opacity: .7 } td { overflow-wrap: anywhere } img { max-width: 100% }
"""


def write_report(run_folder: Path, config: Mapping[str, Any]) -> Path:
    """Write `report.html` into a run's folder, atomically; returns its path.

    Curves and totals come from metrics.jsonl, pictures from the newest contact sheets in
    samples/ (inside the page; a sheet above 8 MiB is linked). Whatever is missing is left out.
    Every text is escaped. Raises OSError when the page cannot be written.
    """
    folder = Path(run_folder)
    entries = read_metrics(folder / FILE)
    name = str(config.get("name") or folder.name)
    sections = [
        f"<h1>{html.escape(name)}</h1>",
        _table(_totals(entries, config), "totals"),
        _section("Curves", _grid(_curves(entries))),
        _section("Held-out loss", _grid(_held_out(entries))),
        _section("Samples", "\n".join(_sheets(folder))),
        _section("Settings", _table(dict(_flat(config)), "settings")),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body></html>\n"
    )
    path = folder / PAGE
    with atomic(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    return path


def _totals(entries: list[dict], config: Mapping[str, Any]) -> dict[str, str]:
    """The run in numbers: the last entry that has each."""
    if not entries:
        return {"Steps": "no metrics yet"}
    last: dict[str, Any] = {}
    for entry in entries:
        last |= {key: value for key, value in entry.items() if value is not None}
    planned = config.get("steps")
    totals = {"Steps": f"{last['step']:,}" + (f" of {planned:,}" if _number(planned) else "")}
    if _number(last.get("seconds")):
        totals["Time"] = f"{duration(last['seconds'])} ({last['seconds'] / 3600:.2f} hours)"
    for key, label in (("tokens", "Tokens"), ("skipped", "Skipped steps")):
        if _number(last.get(key)):
            totals[label] = f"{last[key]:,.0f}"
    if _number(last.get("loss")):
        totals["Last loss"] = f"{last['loss']:.5g}"
    held_out = [v for k, v in last.items() if k.startswith(HELD_OUT) and _number(v)]
    if held_out:
        totals["Last held-out loss"] = f"{sum(held_out) / len(held_out):.5g}"
    return totals


def _curves(entries: list[dict]) -> Iterator[str]:
    for key, title in (_CURVES | _TOO).items():
        yield line_chart(title, {key: _series(entries, key)}, is_log=key == "loss")


def _held_out(entries: list[dict]) -> Iterator[str]:
    """A chart per task, a curve per time."""
    names = dict.fromkeys(k for entry in entries for k in entry if k.startswith(HELD_OUT))
    tasks: dict[str, dict[str, str]] = {}
    for name in names:
        task, _, time = name.removeprefix(HELD_OUT).partition("@")
        tasks.setdefault(task, {})[f"t = {time}"] = name
    for task, times in tasks.items():
        series = {label: _series(entries, name) for label, name in times.items()}
        yield line_chart(task, series, is_log=True)


def _series(entries: list[dict], key: str) -> list[tuple[float, Any]]:
    return [(entry["step"], entry[key]) for entry in entries if _number(entry.get(key))]


def _sheets(folder: Path) -> Iterator[str]:
    """The newest contact sheets, newest first."""
    for path in sorted((folder / "samples").glob("*-sheet.png"), reverse=True)[:_SHEETS]:
        label = f"Step {path.name.removesuffix('-sheet.png').lstrip('0') or '0'}"
        if path.stat().st_size > _SHEET_BYTES:
            source = html.escape(path.relative_to(folder).as_posix())
            picture = f'<a href="{source}">{source}</a>'
        else:
            encoded = base64.b64encode(path.read_bytes()).decode()
            picture = f'<img alt="{html.escape(label)}" src="data:image/png;base64,{encoded}">'
        yield f"<figure><figcaption>{html.escape(label)}</figcaption>{picture}</figure>"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted names with their values in JSON."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, json.dumps(value, ensure_ascii=False, default=str)


def _table(rows: Mapping[str, str], name: str) -> str:
    cells = "\n".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in rows.items()
    )
    return f'<table class="{name}">\n{cells}\n</table>' if cells else ""


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}" if body else ""


def _grid(charts: Iterator[str]) -> str:
    cells = "\n".join(f"<div>{chart}</div>" for chart in charts if chart)
    return f'<div class="charts">{cells}</div>' if cells else ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
