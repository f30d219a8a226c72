"""`python -m training eval ablate`: plan, train what is missing, look, print the table."""

from __future__ import annotations

import json
import logging
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import atomic
from ...networks import best_device
from ...sampling import Sampler
from ...watch.metrics import duration
from ..result import keep
from .comparison import Comparison, SetSection, load_comparison
from .figures import Figures, from_json, look, to_json
from .record import read_known, write_known
from .runs import Planner, Run, digest_of, order, prepare_set, train
from .table import as_json, markdown, summary, summary_table

log = logging.getLogger(__name__)


def ablate(args: Namespace) -> int:
    """Every comparison that was named; 1 where one was stopped before its end."""
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    cache, stopped, found = args.cache.expanduser(), False, []
    planners = {
        path: Planner(changed(load_comparison(path), args), cache, args.compile)
        for path in args.comparison
    }
    if args.known:
        log.info("%d results from %s", read_known(args.known, cache), args.known)
    if args.dry_run:
        print("\n".join(overview(path, planner) for path, planner in planners.items()))
        return 0
    if args.workers > 1 and not args.no_training:
        from .workers import work_ahead

        how = {"workers": args.workers, "threads": args.threads or 1, "only": args.arm}
        if not work_ahead(list(planners.values()), **how):
            return 1
    rows: list[str] = []
    for path, planner in planners.items():
        results = carry_out(planner, only=args.arm, new=not args.no_training)
        if stopped := results is None:  # by a signal, which is meant for all that would follow
            break
        found.append(publish(path, planner, results, args))
        rows += summary(planner.comparison, results)
    if args.record:
        write_known(args.record, cache)
    if rows:
        print(summary_table(rows))
    if found:
        text = json.dumps(found if len(found) > 1 else found[0])
        if args.json:
            keep(text, args.json)
        print(text)
    return int(stopped)


def changed(comparison: Comparison, args: Namespace) -> Comparison:
    """With what the command line says instead: seeds, steps, clips. ValueError for bad ones."""
    values = comparison.model_dump(mode="json")
    if args.seeds:
        values["seeds"] = args.seeds
    if args.steps:
        scale = args.steps / comparison.steps
        values["steps"] = args.steps
        for section in (*values["stages"].values(), *values["arms"].values()):
            if section.get("steps"):
                section["steps"] = max(1, round(scale * section["steps"]))
    if args.clips:
        for score in values["scores"].values():
            score["clips"] = min(args.clips, score["clips"])
    if args.set_clips:
        for one in values["sets"].values():
            one["clips"] = min(args.set_clips, one["clips"])
            one["gaps"] = min(args.set_clips, one["gaps"])
    if args.arm and (unknown := sorted(set(args.arm) - set(comparison.arms))):
        raise ValueError(f"there is no arm {unknown[0]!r}: expected {', '.join(comparison.arms)}")
    return Comparison.model_validate(values)


# --- carrying out ---------------------------------------------------------------------------------


def carry_out(
    planner: Planner, *, only: Sequence[str] | None = None, new: bool = True
) -> dict | None:
    """Train and look at everything that is not in the cache; None where a run was stopped.

    Seed by seed, so that what is there at any time compares all arms. new: else only what is in
    the cache counts, and seeds of which it lacks the training are left out.
    """
    comparison = planner.comparison
    arms = [arm for arm in comparison.arms if not only or arm in only]
    plans = {(arm, seed): planner.run(arm, seed) for seed in comparison.seeds for arm in arms}
    if not new:
        plans = {key: run for key, run in plans.items() if run.facts is not None}
    if any(one.facts is None for one in order(list(plans.values())) if new):
        for found in needed_sets(comparison, arms):
            prepare_set(planner.cache, found)
    results: dict[str, dict[int, Figures]] = {arm: {} for arm in arms}
    for (arm, seed), run in plans.items():
        for one in order([run]):
            if new and one.facts is None:
                log.info("training %s: %s", one.name, one.folder)
                if not train(one):
                    return None
        results[arm][seed] = training_figures(run) | scored(planner, arm, run, new=new)
    return results


def needed_sets(comparison: Comparison, only: Sequence[str] | None = None) -> list[SetSection]:
    """The sets that some arms and all stages are trained on; only: the arms, None for all."""
    if not comparison.base:
        return []
    sections = [section for arm, section in comparison.arms.items() if not only or arm in only]
    used = {comparison.set_of(section) for section in (*sections, *comparison.stages.values())}
    return [comparison.sets[name] for name in sorted(used)]


def training_figures(run: Run) -> Figures:
    """What the training itself came to, as training.loss and so on; see `runs.train`."""
    facts = run.facts or {}
    names = ("loss", "worst_loss", "skipped", "diverged", "seconds", "cpu_seconds")
    return {
        f"training.{name}": np.array(float(facts[name]))
        for name in names
        if facts.get(name) is not None
    }


def scored(planner: Planner, arm: str, run: Run, *, new: bool = True) -> Figures:
    """Every score's figures of an arm, from the cache where they are there; none where they are not
    and are not to be made (new), or nothing was saved of the run, as of one that diverged early."""
    comparison, figures = planner.comparison, {}
    for name, score in comparison.scores.items():
        given = comparison.arms[arm].given.get(name, score.given)
        how = comparison.sampling(arm)
        decides = [_model(run), score.model_dump(), given, how, run.seed]
        path = planner.cache / "scores" / f"{digest_of(decides)}.json"
        if path.exists():
            found = from_json(json.loads(path.read_text(encoding="utf-8")))
        elif not new or not run.checkpoint.exists():
            continue
        else:
            log.info("looking at %s: %s", run.name, name)
            rows = to_json(look(_sampler(run, how), score, given, how["plan"], run.seed))
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as part:
                part.write_text(json.dumps(rows), encoding="utf-8")
            found = from_json(rows)  # rounded, as later calls read it
        figures |= {f"{name}.{figure}": values for figure, values in found.items()}
    return figures


def _model(run: Run) -> str:
    if run.config is not None:
        return run.folder.name
    from stiv.checkpoint import read_card

    return read_card(run.checkpoint).tensor_hash


def _sampler(run: Run, how: dict[str, Any]) -> Sampler:
    settings = {key: how[key] for key in ("steps", "guidance_scale", "renorm", "null")}
    T, h, w = run.shape
    size, device = (T, 8 * h, 8 * w), best_device()
    return Sampler.from_checkpoint(run.checkpoint, size=size, device=device, **settings)


# --- what is said ---------------------------------------------------------------------------------


def overview(path: Path, planner: Planner) -> str:
    """What would be done: runs, steps, FLOPs, and the time by what runs took before."""
    comparison = planner.comparison
    runs = [planner.run(arm, seed) for seed in comparison.seeds for arm in comparison.arms]
    trained = [run for run in order(runs) if run.config]
    lines = [f"{path}: {comparison.title}"]
    for arm in comparison.arms:
        run = planner.run(arm, comparison.seeds[0])
        lines.append(f"  {arm}: {_about(run)}")
    for name in comparison.stages:
        run = planner.stage(name, comparison.seeds[0])
        lines.append(f"  (stage {name}: {_about(run)})")
    missing = [run for run in trained if run.facts is None]
    total = sum(run.flops for run in missing)
    said = f"{len(comparison.seeds)} seeds, {len(trained)} runs, {len(missing)} to train"
    speed = measured_speed(planner.cache)
    if missing and speed:
        left = duration(total / speed)
        said += f": about {left} at the {speed / 1e9:.0f} GFLOP/s of the runs before"
    elif missing:
        said += f": {total / 1e15:.2f} PFLOPs"
    return "\n".join([*lines, f"  {said}"])


def _about(run: Run) -> str:
    if run.config is None:
        return "sampled only"
    return f"{run.config.steps} steps, {run.flops / 1e12:.1f} TFLOPs"


def measured_speed(cache: Path) -> float | None:
    """FLOP/s of the finished runs in a cache together; None where there is none."""
    done, seconds = 0.0, 0.0
    for path in cache.glob("runs/*/facts.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        done, seconds = done + facts["flops"], seconds + facts["seconds"]
    return done / seconds if seconds else None


def publish(path: Path, planner: Planner, results: dict, args: Namespace) -> dict[str, Any]:
    """Print the table, write it where the command line says, and return it as JSON."""
    comparison = planner.comparison
    runs = {arm: planner.run(arm, comparison.seeds[0]) for arm in results}
    facts = {arm: _trained(run) for arm, run in runs.items()}
    text = markdown(comparison, results, facts)
    print(text)
    if args.markdown:
        with open(args.markdown, "a", encoding="utf-8") as file:
            file.write(text + "\n")
    return {
        "comparison": str(path),
        "seeds": comparison.seeds,
        "settings": comparison.model_dump(mode="json", exclude={"title", "paper"}),
        "runs": {arm: run.facts for arm, run in runs.items()},
        "at": time.strftime("%Y-%m-%d"),
        **as_json(comparison, results),
    }


def _trained(run: Run) -> str:
    facts = run.facts or {}
    if not facts:
        return "none"
    return f"{facts['steps']} steps, {facts['flops'] / 1e12:.1f} TFLOPs"
