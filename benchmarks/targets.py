"""What the cases aim at, and where the recorded results stand: `python -m benchmarks.targets`.

Prints a Markdown table from benchmarks/results/*.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import record

Rows = list[dict[str, Any]]
PARTS, COMPILED = "diffusers parts, same weights", "ours, blocks compiled"

TARGETS: dict[str, dict[str, dict[str, float]]] = {
    "forward_video": {
        "fp32": {
            PARTS: 1.38,
            "diffusers Latte": 1.9,
            "Open-Sora STDiT3": 2.3,
            "ComfyUI Wan, as on a CPU": 2.7,
        },
        "bf16": {
            PARTS: 1.6,
            "diffusers Latte": 1.75,
            "Open-Sora STDiT3": 2.3,
            "ComfyUI Wan, as on a CPU": 2.6,
        },
    },
    "forward_image": {
        "fp32": {"diffusers PixArt": 1.25, "ComfyUI PixArt, as on a CPU": 1.65},
        "bf16": {"diffusers PixArt": 1.12, "ComfyUI PixArt, as on a CPU": 1.25},
    },
    "train_step": {
        "fp32": {PARTS: 1.1, "diffusers Latte": 1.45},
        "bf16": {PARTS: 1.2, "diffusers Latte": 1.4},
    },
}
"""Time of a peer over ours, at least: case, dtype, peer."""

FLOORS: dict[str, dict[str, dict[str, float]]] = {
    "forward_video": {
        "fp32": {
            PARTS: 1.46,
            "diffusers Latte": 1.98,
            "Open-Sora STDiT3": 2.44,
            "ComfyUI Wan, as on a CPU": 2.9,
        },
        "bf16": {
            PARTS: 1.82,
            "diffusers Latte": 2.0,
            "Open-Sora STDiT3": 2.63,
            "ComfyUI Wan, as on a CPU": 3.0,
        },
    },
}
"""The same if ours took no longer than its products and its memory traffic do (with AVX-512)."""

_WORK = {
    "forward_video": "video forward",
    "forward_image": "image forward",
    "train_step": "training step",
}


@dataclass(frozen=True)
class Target:
    """A number that is aimed at."""

    what: str
    case: str
    goal: float
    value: Callable[[Rows], float]
    """Of a case's recorded rows."""
    at_most: bool = False
    floor: float | None = None
    compiled: Callable[[Rows], float] | None = None
    """The same with our blocks compiled."""


def targets() -> Iterator[Target]:
    """Every row of the table, in order."""
    for case, dtypes in TARGETS.items():
        for dtype, peers in dtypes.items():
            for peer, goal in peers.items():
                yield Target(
                    f"{_WORK[case]}, {dtype}: {peer} ÷ ours",
                    case,
                    goal,
                    lambda rows, peer=peer, dtype=dtype: _row(rows, peer, dtype)["ratio"],
                    floor=FLOORS.get(case, {}).get(dtype, {}).get(peer),
                    compiled=lambda rows, peer=peer, dtype=dtype: (
                        _row(rows, peer, dtype)["ratio"] / _row(rows, COMPILED, dtype)["ratio"]
                    ),
                )
    for case in ("forward_video", "train_step"):
        for mine in ("ours", COMPILED):
            yield Target(
                f"{_WORK[case]}, fp32: peak memory, {mine} ÷ parts",
                case,
                0.75,
                lambda rows, mine=mine: (
                    _row(rows, mine)["peak_mib"] / _row(rows, PARTS)["peak_mib"]
                ),
                at_most=True,
            )
    yield _most("selective checkpointing, time", "checkpointing", 1.2, "selective", "ratio")
    yield _most(
        "selective checkpointing, tokens × d kept per block", "checkpointing", 3.2, "selective",
        "kept_tokens_d_per_block",
    )  # fmt: skip
    yield _most("masked step, time ÷ FLOPs", "masking", 1.05, "masked over", "time_over_flops", 1.0)
    for kind in ("nano", "random weights"):
        row = f"guided sampling over bare passes, {kind}"
        yield _most(
            f"50 guided steps in ComfyUI ÷ bare passes, {kind}", "sample", 1.03, row, floor=1
        )
    step = "step of one XL block"
    yield _most("AdaFactor ÷ transformers', time", "optimizer", 0.5, step, "time_ratio", 0.2)
    yield _most(
        "AdaFactor, temporaries in B per parameter", "optimizer", 0.1, step,
        "temporary_bytes_per_parameter",
    )  # fmt: skip
    yield _most("AdaFactor, error", "optimizer", 1e-5, step, "error_against_float64")


def _most(
    what: str, case: str, goal: float, row: str, key: str = "ratio", floor: float | None = None
) -> Target:
    return Target(what, case, goal, lambda rows: _row(rows, row)[key], at_most=True, floor=floor)


def _row(rows: Rows, what: str, dtype: str = "fp32") -> dict[str, Any]:
    """The first of that name, or one that begins so. Raises KeyError where there is none."""
    found = [row for row in rows if row.get("dtype", dtype) == dtype]
    for row in found:
        if row["what"] == what:
            return row
    for row in found:
        if row["what"].startswith(what):
            return row
    raise KeyError(what)


def table() -> str:
    """Markdown: measured, target, floor, case; a target that is met is bold, a dash means that
    nothing is recorded."""
    head = "| | measured | blocks compiled | target | floor | case |"
    lines = [head, "|---|---|---|---|---|---|"]
    for target in targets():
        cells = [
            target.what,
            _shown(target, target.value),
            _shown(target, target.compiled) if target.compiled else "",
            f"{'≤' if target.at_most else '≥'} {target.goal:g}",
            "" if target.floor is None else f"{target.floor:g}",
            f"`{target.case}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(target: Target, value: Callable[[Rows], float]) -> str:
    found = record.read(target.case)
    try:
        number = value(found["rows"]) if found else None
    except KeyError:
        number = None
    if number is None:
        return "–"
    text = f"{number:.3f}" if number >= 0.01 else f"{number:.1e}"
    met = number <= target.goal if target.at_most else number >= target.goal
    return f"**{text}**" if met else text


if __name__ == "__main__":
    print(table())
