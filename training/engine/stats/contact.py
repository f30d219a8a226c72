"""Contact sheets as HTML: for every score the clips at its ends and around its thresholds."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from .charts import number
from .parts import said, unit

_CAPTION = 120  # characters under a picture; the rest is folded away


def sheets(figures: Mapping[str, Any], pictures: Mapping[str, bytes | str]) -> str:
    places = count(1)
    links, parts = [], []
    for index, (path, strips) in enumerate(figures["sheets"].items()):
        measured = figures["measures"][path]
        body = "\n".join(
            _strip(strip, path, figures, pictures, places) for strip in strips if strip["clips"]
        )
        title = f"{said(measured['label'])}{unit(measured)}"
        links.append(f'<a href="#sheet-{index}">{said(measured["label"])}</a>')
        parts.append(
            f'<article class="sheet"><h3 id="sheet-{index}">{title}</h3>\n'
            f'<div class="strips">{body}</div>\n</article>'
        )
    return f'<p class="links">{" ".join(links)}</p>\n' + "\n".join(parts) if parts else ""


def _strip(
    strip: Mapping[str, Any],
    path: str,
    figures: Mapping[str, Any],
    pictures: Mapping[str, bytes | str],
    numbers: Iterator[int],
) -> str:
    cells = "\n".join(
        _clip(figures["clips"][id], path, figures["measures"], pictures.get(id), next(numbers))
        for id in strip["clips"]
    )
    title = f"{strip['title']} <small>{strip['about']}</small>"
    half = " half" if strip["title"] == "Borderline" else ""
    return f'<div class="strip{half}"><h4>{title}</h4>\n<div class="clips">{cells}</div></div>'


def _clip(
    clip: Mapping[str, Any],
    path: str,
    measures: Mapping[str, Any],
    picture: bytes | str | None,
    place: int,
) -> str:
    if isinstance(picture, bytes):
        data = base64.b64encode(picture).decode()
        shown = (
            f'<img loading="lazy" alt="Frames of clip {place}" src="data:image/jpeg;base64,{data}">'
        )
    else:
        shown = f'<p class="none">No picture{": " + said(picture) if picture else ""}</p>'
    text = clip["caption"]
    caption = f'<p class="caption">{said(_cut_short(text))}</p>' if text else ""
    where = said(clip["file"])
    if "start_s" in clip and "end_s" in clip:
        where += f" <span>{clip['start_s']:.1f} to {clip['end_s']:.1f} s</span>"
    values = "".join(
        f"<div><dt>{said(measures[name]['label'])}</dt><dd>{number(value)}</dd></div>"
        for name, value in clip["values"].items()
    )
    whole = f"<p>{said(text)}</p>" if _cut_short(text) != text else ""
    return (
        f'<figure>{shown}<figcaption><p class="score"><b>{number(clip["values"][path])}</b> '
        f'{_verdict(clip)}</p>{caption}<p class="file">{where}</p>'
        f'<details><summary>All scores</summary>{whole}<dl class="facts">{values}</dl></details>'
        "</figcaption></figure>"
    )


def _verdict(clip: Mapping[str, Any]) -> str:
    if clip["keep"] is None:
        return ""
    if clip["keep"]:
        return '<span class="chip kept">kept</span>'
    reasons = ", ".join(map(said, clip["reasons"]))
    return f'<span class="chip dropped">dropped: {reasons}</span>'


def _cut_short(text: str) -> str:
    return text if len(text) <= _CAPTION else text[: _CAPTION - 1].rstrip() + "…"
