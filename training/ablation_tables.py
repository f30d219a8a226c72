"""The paper's ablation tables with what every row costs: for the terminal, and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from stiv.ablations import ABLATIONS, METRICS, Ablation

from .ablations import cost, differences, hints, network_changes, obstacle

_TITLES = {"t2i": "Text to image", "t2v": "Text to video", "ti2v": "Text and image to video"}
_NUMBERS = ("parameters", "forward", "training", "paper", "trained here")
_INTRO = """\
# The paper's ablations

Every row of the paper's ablation tables as a configuration of this network, with its cost and the
figure that the paper gives. **The column *paper* is the paper's; none of it was measured here.**
`python -m training ablations --markdown` wrote this page. `python -m training ablations t2i/rope`
tells about one row, with `--recipe` how to train it; in Python it is `stiv.ablation("t2i/rope")`.

- *parameters*: of the network, without text encoder and VAE.
- *forward*: FLOPs of one pass in sampling, without guidance. *training*: of one sample forward and
  backward, with the tokens that masking leaves. By estimate, at 256 × 256 pixels (videos of 20
  frames) and 77 text tokens: a multiply-add is two, only matrix products are counted, causal
  attention as if it were not.
- *trained here*: whether there is a recipe; *nearly*, with the differences below the table. The
  paper's data and text encoder were not published either; clip_g has the encoder's sizes.

Where the paper is silent, we chose. The ladder of text to image begins with PixArt-alpha in the
size of XL (18 heads instead of 16) and with an AdaLN in every block, since the paper adds the
shared one later: `t2i/baseline` with `shared_adaln: true` and `heads: 16` is PixArt-alpha, tensor
by tensor. T5-XXL, PixArt-alpha's encoder, stays until CLIP bigG, and AdamW until AdaFactor. The
decoder blocks come with MaskDiT, and stay where a video row masks nothing. The last row is what
[t2i_256.yaml](../training/recipes/t2i_256.yaml) trains, but for the channels of the VAE. A row of
the videos changes one thing of the first row of its table.
"""


def overview() -> str:
    """The tables as text for a terminal."""
    rows = [("row", "", *_NUMBERS)]
    rows += [(row.name, row.title, *_numbers(row)) for row in ABLATIONS.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows]
    return "\n".join([*lines, "", *(f"paper, {table}: {what}" for table, what in METRICS.items())])


def describe_row(row: Ablation) -> str:
    """One row as text: figures, what it changes, its network, how it was trained."""
    count, forward, training, figure, _ = _numbers(row)
    reason = obstacle(row)
    changes = f"{row.base} with {', '.join(_changed(row))}" if row.base else "the table's first row"
    lines = [
        f"{row.name}: {row.title}",
        f"paper     {figure} ({METRICS[row.table]})",
        f"is        {changes}",
        f"network   XL with {', '.join(_pairs(network_changes(row.config)))}",
        f"setup     {', '.join(_pairs(asdict(row.setup)))}",
        f"cost      {count} parameters, {forward} forward, {training} in training",
    ]
    if reason:
        return "\n".join([*lines, f"training  not here: {reason}"])
    remarks = [*(f"unlike the paper {text}" for text in differences(row)), *hints(row)]
    remarks.append(f"command: python -m training ablations {row.name} --recipe")
    return "\n".join([*lines, *(f"training  {text}" for text in remarks)])


def markdown() -> str:
    """The page docs/ablations.md."""
    lines = [_INTRO, *(line for table in _TITLES for line in _section(table))]
    return "\n".join(lines).rstrip("\n")


def _section(table: str) -> Iterator[str]:
    rows = [row for row in ABLATIONS.values() if row.table == table]
    heads = ("row", "changes", *_NUMBERS)
    yield f"## {_TITLES[table]}\n\n*paper*: {METRICS[table]}.\n"
    yield _line(heads)
    yield _line("---" for _ in heads)
    for row in rows:
        changed = ", ".join(f"`{change}`" for change in _changed(row))
        yield _line((f"`{row.name}` {row.title}", changed, *_numbers(row)))
    yield "\nNot trained as in the paper:\n"
    for remark, names in _remarks(rows).items():
        yield f"- {remark}: {', '.join(names)}"
    yield ""


def _remarks(rows: list[Ablation]) -> dict[str, list[str]]:
    """What keeps rows from being trained as in the paper, and the rows that each concerns."""
    found: dict[str, list[str]] = {}
    for row in rows:
        reason = obstacle(row)
        for remark in [f"not at all, {reason}"] if reason else differences(row):
            found.setdefault(remark, []).append(f"`{row.name}`")
    return found


def _numbers(row: Ablation) -> tuple[str, ...]:
    spent = cost(row)
    trained = "no" if obstacle(row) else "nearly" if differences(row) else "yes"
    return (
        f"{spent.parameters / 1e6:.1f} M",
        f"{spent.forward / 1e12:.3f} T",
        "–" if spent.training is None else f"{spent.training / 1e12:.3f} T",
        f"{row.figure:.2f}" if row.table != "ti2v" else f"{row.figure:.1f}",
        trained,
    )


def _changed(row: Ablation) -> list[str]:
    return _pairs({**row.network, **row.settings})


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
