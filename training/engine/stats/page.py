"""The page: figures as HTML that loads nothing and runs nothing.

Every word of a row, a rule or a file name is escaped and stands in an element of its own (`<bdi>`,
so that right-to-left text leaves its surroundings alone); none gets into an attribute, a style or
a chart. The policy in the page's head forbids scripts, requests and any style but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from . import charts
from .charts import bar, number
from .collect import SAMPLE
from .contact import sheets
from .parts import command, length, said, share, table, unit

_STYLE = Path(__file__).with_name("page.css")

_TALLIES = {
    "category": "Categories",
    "resolution": "Resolutions",
    "orientation": "Orientation",
    "frame_rate": "Frames per second",
    "codec": "Codecs",
}


def page(figures: Mapping[str, Any], pictures: Mapping[str, bytes | str]) -> str:
    """The whole page.

    figures: the content of stats.json. pictures: by the ids of its clips a JPEG, or why there is
    none; clips that are not among them are told without a picture.
    """
    sections = {
        "dropped": ("What was dropped", _dropped(figures)),
        "compared": ("What changed", _compared(figures.get("compared"))),
        "distributions": ("Distributions", _distributions(figures)),
        "joint": ("The two scores that cut most", _joint(figures)),
        "contents": ("What is in the set", _tallies(figures)),
        "clips": ("Clips", sheets(figures, pictures)),
        "origin": ("Where the numbers come from", _origin(figures)),
    }
    there = {key: both for key, both in sections.items() if both[1]}
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in there.items())
    parts = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-title">\n'
        f'<h2 id="{key}-title">{title}</h2>\n{body}\n</section>'
        for key, (title, body) in there.items()
    )
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Report on {escape(figures['name'])}</title>\n<style>{style}</style>\n</head>\n"
        '<body>\n<a class="skip" href="#main">To the figures</a>\n'
        f"<header>\n<p>Data report</p>\n<h1>{said(figures['name'])}</h1>\n"
        f"{_totals(figures)}\n</header>\n"
        f'<nav aria-label="Parts of the report">{links}</nav>\n<main id="main">\n{parts}\n</main>\n'
        "</body>\n</html>\n"
    )


@cache
def _style() -> str:
    return _STYLE.read_text(encoding="utf-8")


# --- the whole set -------------------------------------------------------------------------------


def _totals(figures: Mapping[str, Any]) -> str:
    totals, filtered = figures["totals"], figures["filter"]["rows"]
    cells = [("Clips", f"{totals['rows']:,}"), ("Length", length(totals["seconds"]))]
    if filtered:
        kept = figures["filter"]["kept"]
        cells += [
            ("Kept", f"{kept:,}", share(kept, filtered)),
            ("Length kept", length(totals["kept_seconds"])),
        ]
    files = figures.get("files", {}).get("files")
    if files:
        cells.append(("Files", f"{files:,}"))
    captioned = figures["measures"]["caption_words"]["count"]
    if captioned:
        cells.append(("With a caption", f"{captioned:,}", share(captioned, totals["rows"])))
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd>" + "".join(f"<dd>{m}</dd>" for m in more) + "</div>"
        for name, value, *more in cells
    )
    missing = "" if filtered else f"<p>No clip has been filtered yet: {command('filter')}</p>"
    return f'<dl class="tiles">{tiles}</dl>{missing}'


def _dropped(figures: Mapping[str, Any]) -> str:
    """The funnel: files, then rows, each stage with what it dropped."""
    stages, total = list(_file_stages(figures.get("files"))), figures["totals"]["rows"]
    filtered = figures["filter"]["rows"]
    parts = []
    if stages:
        parts.append(_funnel("Files", stages, ("Stage", "Left", "Dropped"), stages[0][1]))
        parts.append(_left_out(figures["files"]["left_out"]))
    if filtered:
        rows = [
            ("all clips" if filtered == total else "filtered clips", filtered, None, None, None)
        ]
        rows += [
            (rule["rule"], rule["left"], rule["first"], rule["any"], rule["only"])
            for rule in figures["filter"]["rules"]
            if rule["any"]
        ]
        names = ("Rule", "Left", "Dropped", "Would drop alone", "Only this rule drops")
        parts.append(_funnel("Clips", rows, names, filtered))
        parts.append(
            "<p>Rules apply from top to bottom: <em>Dropped</em> counts what the rules above had "
            "left. A rule with a small <em>Only this rule drops</em> costs little to keep or to "
            "give up.</p>"
        )
        if figures["filter"].get("top"):
            best = f"the best {figures['filter']['top']:,}"
            parts.append(
                f"<p>Of what these rules leave, {best} are chosen by {command('filter')}; "
                "rules that are only tried choose none.</p>"
            )
        idle = [said(rule["rule"]) for rule in figures["filter"]["rules"] if not rule["any"]]
        if idle:
            names = f"<p>{', '.join(idle)}</p>"
            parts.append(
                f"<details><summary>Rules that drop nothing: {len(idle)}</summary>{names}</details>"
            )
    return "\n".join(parts)


def _file_stages(files: Mapping[str, int] | None) -> Iterator[tuple[str, int, int | None]]:
    if not files or not files["files"]:
        return
    left = files["files"]
    yield "files found", left, None
    for key, name in (
        ("unreadable", "can be read"),
        ("copies", "no copy of another"),
        ("not_cut", "cut into segments"),
        ("without_segments", "with a segment"),
    ):
        left -= files[key]
        yield name, left, files[key]


def _left_out(reasons: Sequence[Mapping[str, Any]]) -> str:
    if not reasons:
        return ""
    longest = max(entry["seconds"] for entry in reasons) or 1.0
    rows = [
        f'<tr><th scope="row">{said(entry["reason"])}</th>'
        f'<td class="wide">{bar({"dropped": entry["seconds"] / longest})}</td>'
        f"<td>{length(entry['seconds'])}</td><td>{entry['stretches']:,}</td></tr>"
        for entry in reasons
    ]
    head = (
        '<tr><th scope="col">Why</th><td class="wide"></td><th scope="col">Length</th>'
        '<th scope="col">Stretches</th></tr>'
    )
    return table("Parts of files that are in no segment", head, rows, "funnel")


def _funnel(title: str, stages: Sequence[tuple], names: Sequence[str], whole: int) -> str:
    rows = []
    for name, left, dropped, *more in stages:
        parts = {"kept": left / max(whole, 1), "dropped": (dropped or 0) / max(whole, 1)}
        cells = [f"{left:,} <small>{share(left, whole)}</small>"]
        cells += ["" if value is None else f"{value:,}" for value in (dropped, *more)]
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(
            f'<tr><th scope="row">{said(name)}</th><td class="wide">{bar(parts)}</td>{numbers}</tr>'
        )
    first, *others = names
    heads = "".join(f'<th scope="col">{name}</th>' for name in others)
    head = f'<tr><th scope="col">{first}</th><td class="wide"></td>{heads}</tr>'
    return table(f"{title} that are left", head, rows, "funnel")


def _compared(compared: Mapping[str, Any] | None) -> str:
    if not compared:
        return ""
    rows = []
    for line in compared["lines"]:
        before, now = line["before"], line["now"]
        change = None if None in (before, now) else now - before
        sign = "+" if change and change > 0 else ""
        cells = f"<td>{_count(before)}</td><td>{_count(now)}</td><td>{sign}{_count(change)}</td>"
        rows.append(f'<tr><th scope="row">{said(line["what"])}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Before", "Now", "Change"))
    head = f'<tr><th scope="col">Figure</th>{heads}</tr>'
    about = f"<p>Before: the report on {said(compared['name'])}.</p>"
    return about + table("Figures before and now", head, rows)


def _count(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}".replace("-", "−") if isinstance(value, int) else number(value)


# --- distributions -------------------------------------------------------------------------------


def _distributions(figures: Mapping[str, Any]) -> str:
    cards, missing = [], []
    for index, measured in enumerate(figures["measures"].values()):
        if measured["count"]:
            cards.append(_card(measured, f"measure-{index}", figures["filter"]["rows"] > 0))
        else:
            missing.append(measured)
    parts = [_legend(figures), f'<div class="cards">{"".join(cards)}</div>'] if cards else []
    if missing:
        items = "".join(
            f"<li>{said(m['label'])}" + (f": {command(m['step'])}" if m["step"] else "") + "</li>"
            for m in missing
        )
        parts.append(f'<h3 class="after">Not measured yet</h3>\n<ul>{items}</ul>')
    return "\n".join(parts)


def _legend(figures: Mapping[str, Any]) -> str:
    if not figures["filter"]["rows"]:
        return ""
    return (
        '<p class="legend"><span class="kept">kept</span><span class="dropped">dropped, by any '
        'rule</span><span class="off">cut off by this threshold</span></p>'
    )


def _card(measured: Mapping[str, Any], id: str, filtered: bool) -> str:
    quantiles = measured["quantiles"]
    facts = [
        ("Median", number(quantiles["0.5"])),
        ("Middle 90 %", f"{number(quantiles['0.05'])} to {number(quantiles['0.95'])}"),
        ("Mean", number(measured["mean"])),
    ]
    if measured["missing"]:
        facts.append(("Not measured", f"{measured['missing']:,} clips"))
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    cuts = "".join(
        f"<li><b>{cut['side']} {cut['at']:g}</b>: {cut['rows']:,} clips "
        f"({share(cut['rows'], measured['count'])})</li>"
        for cut in measured["cuts"]
    )
    return (
        f'<article class="card"><h3 id="{id}">{said(measured["label"])}{unit(measured)}</h3>\n'
        f"{charts.distribution(measured, id)}\n"
        f'<dl class="facts">{facts}</dl>'
        + (f'<ul class="cuts">{cuts}</ul>' if cuts else "")
        + _bins(measured, filtered)
        + "</article>\n"
    )


def _bins(measured: Mapping[str, Any], filtered: bool) -> str:
    """The chart as a table."""
    bars = measured["histogram"]
    edges = [number(edge) for edge in bars["edges"]]
    rows = [(f"below {edges[0]}", *bars["below"].values())]
    rows += [
        (f"{low} to {high}", kept, dropped)
        for low, high, kept, dropped in zip(
            edges, edges[1:], bars["kept"], bars["dropped"], strict=False
        )
    ]
    rows.append((f"{edges[-1]} and above", *bars["above"].values()))
    names = ("Kept", "Dropped") if filtered else ("Clips",)
    head = '<tr><th scope="col">Range</th>' + "".join(f'<th scope="col">{n}</th>' for n in names)
    lines = [
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{value:,}</td>" for value in counts[: len(names)])
        + "</tr>"
        for name, *counts in rows
        if any(counts)
    ]
    numbers = table("Clips in each range", head + "</tr>", lines)
    return f"<details><summary>Numbers</summary>{numbers}</details>"


def _joint(figures: Mapping[str, Any]) -> str:
    pair = figures["joint"]
    if not pair:
        return ""
    x, y = (figures["measures"][pair[axis]] for axis in "xy")
    if not (x["count"] and y["count"]):
        return ""
    total, points = figures["totals"]["rows"], len(pair["points"])
    quarters = (
        (f"dropped by {said(x['label'])} alone", pair["only_x"]),
        (f"dropped by {said(y['label'])} alone", pair["only_y"]),
        ("dropped by both", pair["both"]),
        ("dropped by neither", pair["neither"]),
    )
    rows = [
        f'<tr><th scope="row">{name}</th><td>{rows:,} <small>{share(rows, total)}</small></td></tr>'
        for name, rows in quarters
    ]
    counts = table("Clips by the two thresholds", "", rows)
    drawn = "drawn at random" if total > SAMPLE else "those that have both scores"
    return (
        '<p id="joint-about">'
        f"Each dot is a clip: {said(x['label'])} from left to right, {said(y['label'])} upwards. "
        f"{points:,} clips of {total:,}, {drawn}.</p>\n{_legend(figures)}\n"
        f'<div class="joint"><div>{charts.joint(pair["points"], x, y, "joint-about")}</div>'
        f"{counts}</div>"
    )


def _tallies(figures: Mapping[str, Any]) -> str:
    cards = "".join(
        _tally(title, figures["tallies"][name])
        for name, title in _TALLIES.items()
        if any(entry["value"] is not None for entry in figures["tallies"][name])
    )
    return f'<div class="cards">{cards}</div>' if cards else ""


def _tally(title: str, entries: Sequence[Mapping[str, Any]]) -> str:
    total = sum(entry["kept"] + entry["dropped"] for entry in entries)
    most = max(entry["kept"] + entry["dropped"] for entry in entries)
    rows = []
    for entry in entries:
        name = "<i>others, or not known</i>" if entry["value"] is None else said(entry["value"])
        shares = {group: entry[group] / most for group in ("kept", "dropped")}
        rows_here = entry["kept"] + entry["dropped"]
        rows.append(
            f'<tr><th scope="row">{name}</th><td class="wide">{bar(shares)}</td>'
            f"<td>{rows_here:,} <small>{share(rows_here, total)}</small></td></tr>"
        )
    counts = table(f"{title} of the clips", "", rows)
    return f'<article class="card"><h3>{title}</h3>{counts}</article>'


# --- where it comes from -------------------------------------------------------------------------


def _origin(figures: Mapping[str, Any]) -> str:
    parts = []
    for key, title, text in (
        ("failed", "Failed", "Reason"),
        ("made_by", "Made by", "Version, settings, model"),
    ):
        if figures[key]:
            rows = [
                f'<tr><th scope="row">{said(entry["section"])}</th>'
                f"<td>{entry['rows']:,}</td>"
                f'<td class="text">{said("others" if entry["text"] is None else entry["text"])}'
                "</td></tr>"
                for entry in figures[key]
            ]
            head = "".join(f'<th scope="col">{n}</th>' for n in ("Step", "Clips"))
            head += f'<th scope="col" class="text">{text}</th>'
            parts.append(table(title, f"<tr>{head}</tr>", rows))
    return "\n".join(parts)
