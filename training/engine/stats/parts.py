"""Small parts of the page, as HTML. Words of strangers get into it by `said` alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any


def unit(measured: Mapping[str, Any]) -> str:
    """What a measure is in, after its name."""
    return f" <small>{said(measured['unit'])}</small>" if measured["unit"] else ""


def share(part: float, whole: float) -> str:
    """A share in percent, never rounded to all or nothing."""
    percent = 100 * part / whole if whole else 0.0
    if not percent:
        return "0 %"
    if 0 < percent < 0.1:
        return "&lt; 0.1 %"
    if 99.9 < percent < 100:
        return "&gt; 99.9 %"
    return f"{percent:.1f} %"


def said(text: Any) -> str:
    """Words of a stranger."""
    return f"<bdi>{escape(str(text))}</bdi>"


def length(seconds: float) -> str:
    """A length of video."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def command(step: str) -> str:
    """The command of a step."""
    return f"<code>python -m training data {escape(step)}</code>"


def table(caption: str, head: str, rows: Iterable[str], name: str = "") -> str:
    """A table that scrolls by itself where it is wider than its place. name: a class."""
    reach = f' tabindex="0" role="region" aria-label="{caption}"' if head else ""
    return (
        f'<div class="scroll {name}"{reach}>'
        f"<table><caption>{caption}</caption>"
        + (f"<thead>{head}</thead>" if head else "")
        + f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
