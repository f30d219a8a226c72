"""A comparison's table: means with intervals, differences, and whether it came out as in the paper.

Values of one arm are one per seed. With several seeds the interval is Student's over seeds, of
differences that of the differences seed by seed; with one it is the bootstrap's over clips, which
knows nothing of what another training would have come to, and the table says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..intervals import Interval, over_clips, over_runs
from .comparison import Comparison, Expectation
from .figures import Figures

#: arm -> seed -> figures by "score.figure"; a seed without figures had nothing to be scored
Results = Mapping[str, Mapping[int, Figures]]

VERDICTS = {
    True: "as in the paper",
    False: "the other way round",
    None: "not decided",
}


@dataclass(frozen=True)
class Cell:
    """A figure of an arm."""

    mean: float
    interval: Interval | None
    values: tuple[float, ...]
    """By seed."""

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "–"
        if self.interval is None:
            return _short(self.mean)
        return f"{_short(self.mean)} [{_short(self.interval[0])}, {_short(self.interval[1])}]"


def cell(by_seed: Mapping[int, Figures], figure: str, seed: int = 0) -> Cell:
    """A figure over the seeds of an arm that have it."""
    found = [figures[figure] for figures in by_seed.values() if figure in figures]
    return _cell([value[~np.isnan(value)] if value.ndim else value for value in found], seed)


def difference(one: Mapping[int, Figures], other: Mapping[int, Figures], figure: str) -> Cell:
    """One arm's figure less another's, over the seeds that both have."""
    pairs = [(one[seed][figure], other[seed][figure]) for seed in shared(one, other, figure)]
    found = []
    for a, b in pairs:
        if a.ndim and a.shape == b.shape:
            apart = a - b
            found.append(apart[~np.isnan(apart)])
        else:
            found.append(np.array(np.nanmean(a) - np.nanmean(b)))
    return _cell(found, 0)


def shared(one: Mapping[int, Figures], other: Mapping[int, Figures], figure: str) -> list[int]:
    """The seeds of which both arms have a figure."""
    return [seed for seed in one if figure in one[seed] and figure in other.get(seed, {})]


def _cell(found: Sequence[np.ndarray], seed: int) -> Cell:
    values = tuple(float(np.mean(value)) for value in found if value.size)
    if not values:
        return Cell(float("nan"), None, ())
    interval = over_runs(values)
    if len(values) == 1 and found[0].ndim:
        interval = over_clips(found[0], seed=seed)
    return Cell(float(np.mean(values)), interval, values)


def verdict(expectation: Expectation, results: Results) -> tuple[bool | None, Cell]:
    """Whether the difference has the sign that the paper found: True, False (the other one), or
    None where its interval holds zero, and for fewer than two seeds."""
    apart = difference(results[expectation.of], results[expectation.other], expectation.figure)
    if apart.interval is None or len(apart.values) < 2:
        return None, apart
    low, high = apart.interval
    if expectation.below:
        low, high = -high, -low
    return (True if low > 0 else False if high < 0 else None), apart


def markdown(comparison: Comparison, results: Results, facts: Mapping[str, Any]) -> str:
    """The table with what it is about, as it goes into a README. facts: a line for each arm of
    what it was trained for."""
    columns = comparison.columns
    lines = [f"### {comparison.title}", "", f"Paper: {comparison.paper}", ""]
    lines.append(_row(["", *(c.replace("_", " ").replace(".", ": ") for c in columns), "training"]))
    lines.append(_row(["---"] * (len(columns) + 2)))
    for arm, by_seed in results.items():
        cells = [str(cell(by_seed, column)) for column in columns]
        lines.append(_row([arm, *cells, facts.get(arm, "")]))
    lines += ["", _about(comparison, results), ""]
    lines += [_sentence(expectation, results) for expectation in _decidable(comparison, results)]
    return "\n".join(lines).rstrip() + "\n"


SUMMARY_HEAD = ["", "figure", "better in the paper", "the other", "seeds", "here"]


def summary(comparison: Comparison, results: Results) -> list[str]:
    """A row of Markdown for each finding, under `SUMMARY_HEAD`."""
    rows = []
    for expectation in _decidable(comparison, results):
        sign, apart = verdict(expectation, results)
        arms = [expectation.of, expectation.other]
        seeds = shared(*(results[arm] for arm in arms), expectation.figure)
        values = []
        for arm in arms:  # of the seeds that are compared; where there are none, of its own
            found = {s: results[arm][s] for s in seeds} or results[arm]
            values.append(_short(cell(found, expectation.figure).mean))
        named = [f"{arm}: {value}" for arm, value in zip(arms, values, strict=True)]
        figure = expectation.figure.replace("_", " ").replace(".", ": ")
        said = f"**{VERDICTS[sign]}**" if sign is not None else VERDICTS[sign]
        if sign is None and len(apart.values) == 1:
            right = (apart.mean < 0) if expectation.below else (apart.mean > 0)
            said = "one seed, " + ("with the paper" if right else "not with the paper")
        rows.append(_row([comparison.title, figure, *named, str(len(apart.values)), said]))
    return rows


def summary_table(rows: Sequence[str]) -> str:
    """The rows of `summary` of several comparisons as one table."""
    return "\n".join([_row(SUMMARY_HEAD), _row(["---"] * len(SUMMARY_HEAD)), *rows])


def _decidable(comparison: Comparison, results: Results) -> list[Expectation]:
    """The expectations whose arms are both there."""
    return [e for e in comparison.expect if e.of in results and e.other in results]


def _about(comparison: Comparison, results: Results) -> str:
    count = max((len(by_seed) for by_seed in results.values()), default=0)
    if count > 1:
        how = f"mean of {count} seeds [95 % by Student's t over seeds]"
    else:
        how = "one seed [95 % by the bootstrap over clips: another training may come to another]"
    if comparison.checkpoint:
        return f"Figures: {how}; seeds are of sampling, the model is one."
    equal = "FLOPs of training" if comparison.equal == "compute" else "training steps"
    return f"Figures: {how}; all arms have the same {equal}."


def _sentence(expectation: Expectation, results: Results) -> str:
    sign, apart = verdict(expectation, results)
    word = "above" if expectation.above else "below"
    said = f"{expectation.figure} of {expectation.of} {word} {expectation.other}"
    reason = ", one seed" if len(apart.values) == 1 else ""
    return f"- {said}: **{VERDICTS[sign]}**{reason}, difference {apart}"


def as_json(comparison: Comparison, results: Results) -> dict[str, Any]:
    """All of it: cells of every figure, and the verdicts."""
    names = sorted({name for seeds in results.values() for f in seeds.values() for name in f})
    return {
        "title": comparison.title,
        "arms": {
            arm: {name: _plain(cell(by_seed, name)) for name in names}
            for arm, by_seed in results.items()
        },
        "expect": [
            {
                **expectation.model_dump(exclude_none=True),
                "holds": verdict(expectation, results)[0],
                "difference": _plain(verdict(expectation, results)[1]),
            }
            for expectation in _decidable(comparison, results)
        ],
    }


def _plain(found: Cell) -> dict[str, Any]:
    if np.isnan(found.mean):
        return {"mean": None}
    return {"mean": found.mean, "interval": found.interval, "seeds": list(found.values)}


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
