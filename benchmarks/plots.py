"""A picture of each recorded case: `python -m benchmarks.plots [CASE …]`, next to its JSON.

Needs matplotlib, see benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from . import record
from .targets import TARGETS

matplotlib.use("Agg")

OURS, OTHER, GOAL, QUIET = "#2a78d6", "#9aa4b2", "#c2410c", "#6b7280"
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": QUIET,
    "xtick.color": QUIET, "ytick.color": "#1f2937", "figure.dpi": 100, "legend.frameon": False,
}  # fmt: skip
Rows = Sequence[dict[str, Any]]


def forward(rows: Rows, case: str, title: str) -> None:
    """Bars of the time over ours, one plot per dtype, with targets where there are some."""
    dtypes = [d for d in ("fp32", "bf16") if any(_is_ratio(r, d) for r in rows)]
    count = max(sum(_is_ratio(r, d) for r in rows) for d in dtypes)
    size = (7.5, (0.8 + 0.32 * count) * len(dtypes))
    figure, axes = pyplot.subplots(len(dtypes), 1, figsize=size, squeeze=False)
    for dtype, axis in zip(dtypes, axes[:, 0], strict=True):
        found = [row for row in rows if _is_ratio(row, dtype)]
        _ratios(axis, found, TARGETS.get(case, {}).get(dtype, {}))
        axis.set_title(f"{title}, {dtype}")
    _save(figure, case)


def _is_ratio(row: dict[str, Any], dtype: str) -> bool:
    return row.get("dtype") == dtype and "ratio_range" in row


def _ratios(axis: Axes, rows: Rows, targets: dict[str, float]) -> None:
    for y, row in enumerate(rows):
        low, high = row["ratio_range"]
        error = [[max(0, row["ratio"] - low)], [max(0, high - row["ratio"])]]
        colour = OURS if row["what"].startswith("ours") else OTHER
        axis.barh(y, row["ratio"], color=colour, height=0.62, xerr=error, ecolor=QUIET)
        text = f"{row['ratio']:.2f}   {1000 * row['median_s']:.0f} ms"
        goal = targets.get(row["what"])
        place = (max(high, goal or 0), y)
        axis.annotate(text, place, xytext=(6, 0), textcoords="offset points", va="center")
        if goal:
            axis.plot([goal, goal], [y - 0.42, y + 0.42], color=GOAL, linewidth=2)
    if targets:
        axis.plot([], [], color=GOAL, linewidth=2, label="target")
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1))
    axis.set_yticks(range(len(rows)), [row["what"] for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.25 * max([row["ratio_range"][1] for row in rows] + [*targets.values()]))
    axis.set_xlabel("time over ours, median of the rounds and their range")


def checkpointing(rows: Rows) -> None:
    """Time and kept memory of each mode."""
    found = [row for row in rows if "kept_tokens_d_per_block" in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.5, 2.2))
    bars = (
        (left, "ratio", 1.2, "time over no checkpointing"),
        (right, "kept_tokens_d_per_block", 3.2, "tokens × d kept per block"),
    )
    for axis, key, goal, title in bars:
        colours = [OURS if row["what"] == "selective" else OTHER for row in found]
        names, values = [row["what"] for row in found], [row[key] for row in found]
        drawn = axis.barh(names, values, color=colours)
        axis.bar_label(drawn, fmt="%.2f", padding=4)
        axis.axvline(goal, color=GOAL, linewidth=2, label="target of selective")
        axis.set_xlim(0, 1.2 * max(values))
        axis.set_title(title)
        axis.invert_yaxis()
    left.legend(loc="lower right", fontsize=7)
    _save(figure, "checkpointing")


def masking(rows: Rows) -> None:
    """Time and FLOPs of the masked step over the whole one."""
    found = next(row for row in rows if "time_over_flops" in row)
    figure, axis = pyplot.subplots(figsize=(7.5, 1.7))
    values = {"FLOPs": found["flop_ratio"], "time": found["time_ratio"]}
    drawn = axis.barh(list(values), list(values.values()), color=[OTHER, OURS], height=0.6)
    axis.bar_label(drawn, fmt="%.3f", padding=4)
    axis.set_xlim(0, 1)
    axis.set_title(f"masked over whole step: time ÷ FLOPs {found['time_over_flops']:.2f}")
    _save(figure, "masking")


def sample(rows: Rows) -> None:
    """What the host's layers add to the network's time."""
    found = [row for row in rows if "shares" in row]
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    figure, axis = pyplot.subplots(figsize=(7.5, 2.9))
    layers = [name for name in found[0]["shares"] if name != "network"]
    for y, row in enumerate(found):
        left = 0.0
        for i, layer in enumerate(layers):
            share = 100 * row["shares"][layer]
            axis.barh(y, share, left=left, height=0.5, color=pyplot.cm.Blues(0.35 + 0.15 * i))
            left += share
        text = f"sampled ÷ bare {ratios[y]:.3f}"
        axis.annotate(text, (left, y), xytext=(6, 0), textcoords="offset points", va="center")
    for i, layer in enumerate(layers):
        axis.barh(0, 0, color=pyplot.cm.Blues(0.35 + 0.15 * i), label=layer)
    names = [row["what"].removeprefix("where the time goes, ") for row in found]
    axis.set_yticks(range(len(found)), [name.replace(", ", "\n", 1) for name in names])
    axis.set_xlim(0, 1.6 * max(100 - 100 * row["shares"]["network"] for row in found) + 0.5)
    axis.set_xlabel("% of a sampling's time outside the network")
    axis.set_title("guided sampling in ComfyUI, 50 steps")
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.45), ncol=2)
    _save(figure, "sample")


def growth(rows: Rows) -> None:
    """Time over the first size, and the FLOPs', on logarithmic axes."""
    kinds = [row["what"].removeprefix("exponent, ") for row in rows if "flops" in row]
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(9, 2.6))
    for kind, axis in zip(kinds, axes, strict=True):
        found = [row for row in rows if row["what"] == kind]
        fit = next(row for row in rows if row["what"] == f"exponent, {kind}")
        values = [row["value"] for row in found]
        for key, colour, name in (("gflop", OTHER, "FLOPs"), ("best_s", OURS, "time")):
            relative = [row[key] / found[0][key] for row in found]
            axis.loglog(values, relative, "o-", color=colour, markersize=3, label=name)
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
        axis.set_title(
            f"{kind}\ntime {fit['time']}, FLOPs {fit['flops']},\nmemory {fit['memory']}", fontsize=8
        )
    axes[0].legend()
    axes[0].set_ylabel("over the smallest")
    _save(figure, "growth")


def memory(rows: Rows) -> None:
    """Weights and a pass of each model beside the sizes of cards."""
    found = {row["what"]: row for row in rows if "card_gib" in row}
    figure, axis = pyplot.subplots(figsize=(7.5, 4.4))
    names = list(found)
    weights = [found[name]["weights_gib"] for name in names]
    one = [2 * found[name]["pass_gib"] for name in names]
    axis.barh(names, weights, color=OURS, label="weights")
    axis.barh(names, one, left=weights, color="#93c5fd", label="a guided pass, both prompts")
    for card in (8, 12, 16, 24):
        axis.axvline(card, color=GOAL, linewidth=0.8)
        axis.text(card, -0.9, f"{card}", color=GOAL, ha="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("GiB, as ComfyUI estimates; lines are cards")
    axis.legend(loc="center right")
    _save(figure, "memory")


def _save(figure: Any, case: str) -> None:
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn)
    pyplot.close(figure)
    # A palette is a third of the size of true colours, and nobody sees the difference.
    Image.open(drawn).convert("RGB").quantize(64).save(
        record.RESULTS / f"{case}.png", optimize=True
    )


DRAWN = {
    "forward_video": lambda rows: forward(rows, "forward_video", "a video's forward pass"),
    "forward_image": lambda rows: forward(rows, "forward_image", "an image's forward pass"),
    "train_step": lambda rows: forward(rows, "train_step", "forward and backward pass"),
    "checkpointing": checkpointing,
    "masking": masking,
    "sample": sample,
    "growth": growth,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    pyplot.rcParams.update(STYLE)
    for case in record.chosen(parser, DRAWN).cases:
        found = record.read(case)
        if found:
            DRAWN[case](found["rows"])


if __name__ == "__main__":
    main()
