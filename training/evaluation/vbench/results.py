"""The official package's results as one table, beside the paper's."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...files import read_json, sha256
from ..intervals import LEVEL
from ..result import keep
from .table import I2V, T2V, Benchmark

_RESAMPLES = 1000
_RESULTS = "*_eval_results.json"


@dataclass(frozen=True)
class Scores:
    """What was found: the official scores, 0-1, and the videos' own, by prompt."""

    values: dict[str, float] = field(default_factory=dict)
    by_prompt: dict[str, list[np.ndarray]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Which file each dimension is from."""


def read_results(paths: Iterable[Path]) -> Scores:
    """The results in files or folders; a later file replaces a dimension of an earlier one only
    where both say the same. Raises ValueError for other files, and for results that disagree."""
    found = Scores()
    for path in _files(paths):
        for name, result in _read(path).items():
            score, videos = _score(path, name, result)
            if found.values.get(name, score) != score:
                raise ValueError(
                    f"{name} is {found.values[name]:.4f} in {found.files[name]} and {score:.4f} in "
                    f"{path}: name the results of one run alone"
                )
            found.values[name], found.files[name] = score, str(path)
            if groups := _by_prompt(score, videos):
                found.by_prompt[name] = groups
    if not found.values:
        raise ValueError("no results in these files: expected dimensions with their scores")
    return found


def _files(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.rglob(_RESULTS))
            if not inside:
                raise ValueError(f"{path} holds no {_RESULTS}, as VBench writes them")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"{path} is not there")
    return found


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path, "results of VBench")
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no table of dimensions: expected results of VBench")
    return values


def _score(path: Path, name: str, result: Any) -> tuple[float, list[Any]]:
    value = result[0] if isinstance(result, list) and result else result
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{path}: {name} is {value!r:.60}: expected a score from 0 to 1")
    videos = result[1] if isinstance(result, list) and len(result) > 1 else []
    return float(value), videos if isinstance(videos, list) else []


def _by_prompt(score: float, videos: list[Any]) -> list[np.ndarray]:
    """The videos' scores, those of one prompt together; none where their mean is not the score.

    Some dimensions score a video in percent; then a hundredth is taken.
    """
    groups: dict[str, list[float]] = {}
    for row in videos:
        value = row.get("video_results") if isinstance(row, dict) else None
        if not isinstance(value, bool | int | float):
            return []
        prompt = Path(str(row.get("video_path", ""))).stem.rpartition("-")[0]
        groups.setdefault(prompt, []).append(float(value))
    numbers = np.array([value for group in groups.values() for value in group])
    if not len(numbers):
        return []
    for scale in (1.0, 0.01):
        if abs(numbers.mean() * scale - score) <= 1e-3:
            return [scale * np.array(group) for group in groups.values()]
    return []


def intervals(scores: Scores, benchmark: Benchmark, seed: int = 0) -> dict[str, tuple]:
    """95 % bootstrap intervals over prompts, 0-1, of every dimension's normalised score and of the
    groups; groups only where every one of their dimensions has the videos' scores."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, np.ndarray] = {}
    for name, groups in scores.by_prompt.items():
        if name not in benchmark.dimensions:
            continue
        sums, counts = (np.array([f(g) for g in groups]) for f in (np.sum, len))
        chosen = rng.integers(len(groups), size=(_RESAMPLES, len(groups)))
        drawn[name] = sums[chosen].sum(1) / counts[chosen].sum(1)
    found = {name: benchmark.dimensions[name].normalised(values) for name, values in drawn.items()}
    rows = [dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)]
    for group in (*benchmark.groups, "total"):
        totals = [benchmark.totals(row)[group] for row in rows]
        if totals and totals[0] is not None:
            found[group] = np.array(totals)
    tail = (1 - LEVEL) / 2
    return {
        name: tuple(map(float, np.quantile(values, (tail, 1 - tail))))
        for name, values in found.items()
    }


def benchmark_of(names: Iterable[str]) -> Benchmark:
    """Which benchmark results with these dimensions are of."""
    own = set(names)
    return I2V if own & (set(I2V.names) - set(T2V.names)) else T2V


def table(
    scores: Mapping[str, float], benchmark: Benchmark, spread: Mapping[str, tuple]
) -> list[str]:
    """Markdown, in percent: ours beside the paper's."""
    lines = [
        f"| {benchmark.title} | score | normalised | 95 % | paper |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, dimension in benchmark.dimensions.items():
        if name in scores:
            value = scores[name]
            cells = [_percent(value), _percent(dimension.normalised(value)), _span(spread, name)]
        else:
            cells = ["missing", "", ""]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | |")
    for name, value in benchmark.totals(scores).items():
        cells = ["", _percent(value), _span(spread, name), f"{benchmark.paper[name]:.1f}"]
        lines.append(f"| **{name}** | {' | '.join(cells)} |")
    return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _span(spread: Mapping[str, Sequence[float]], name: str) -> str:
    return "–".join(f"{100 * value:.1f}" for value in spread[name]) if name in spread else ""


def import_results(args: Namespace) -> None:
    """`eval vbench-import`: print the table, and all of it as JSON in the last line."""
    scores = read_results(args.results)
    benchmark = {"t2v": T2V, "i2v": I2V}.get(args.benchmark) or benchmark_of(scores.values)
    spread = intervals(scores, benchmark, args.seed)
    print(*table(scores.values, benchmark, spread), sep="\n")
    missing = [name for name in benchmark.names if name not in scores.values]
    extra = [name for name in scores.values if name not in benchmark.dimensions]
    if missing:
        print(f"missing: {', '.join(missing)}; the official script would count them as 0")
    if extra:
        print(f"not part of {benchmark.title}'s score: {', '.join(extra)}")
    result = {
        "benchmark": benchmark.title,
        "scores": scores.values,
        "totals": benchmark.totals(scores.values),
        "intervals": spread,
        "paper": dict(benchmark.paper),
        "missing": missing,
        "files": scores.files,
        "sha256": {path: sha256(Path(path)) for path in sorted(set(scores.files.values()))},
        "seed": args.seed,
    }
    if args.json:
        keep(json.dumps(result, indent=1), args.json)
    print(json.dumps(result))
