"""docs/evaluation.md: its commands are understood, its links lead somewhere, its numbers hold."""

from __future__ import annotations

import re
import shlex

import pytest

from scripts.prepare import ROOT
from training.cli import parser
from training.evaluation.ablate.comparison import load_comparison
from training.evaluation.ablate.runs import Planner, order

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMPARISONS = sorted((ROOT / "training" / "recipes" / "miniature").glob("*.yaml"))


def test_commands_are_understood_and_links_lead_somewhere() -> None:
    lines = PAGE.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("python -m training ")]
    assert len(commands) >= 10
    for words in commands:
        parser().parse_args(words[3:])
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGE)
    assert links and all((ROOT / "docs" / link).exists() for link in links)


def test_table_names_every_comparison_and_what_all_take(tmp_path) -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) >= {path.stem for path in COMPARISONS}
    runs = {}
    for path in COMPARISONS:
        planner = Planner(load_comparison(path), tmp_path)
        chosen, arms = planner.comparison.seeds, planner.comparison.arms
        for run in order([planner.run(arm, seed) for seed in chosen for arm in arms]):
            runs[run.folder] = run
    trained = [run for run in runs.values() if run.config]
    count, hours = re.search(r"together are (\d+) runs, about (\d+) hours", PAGE).groups()
    assert len(trained) == int(count)
    # 2.9 steps of 8.3 GFLOPs a second, measured on one core
    assert sum(run.flops for run in trained) / 24e9 / 3600 == pytest.approx(int(hours), rel=0.1)
