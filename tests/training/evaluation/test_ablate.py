"""Comparisons: the shipped ones, equal compute, one carried out, stopped and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from scripts.prepare import ROOT
from stiv.checkpoint import read_card
from tests.training.conftest import refused, run
from training.cli import main
from training.evaluation.ablate.command import changed, overview, scored, training_figures
from training.evaluation.ablate.comparison import Comparison, load_comparison
from training.evaluation.ablate.runs import Planner, order, prepare_set, step_flops, train
from training.loop import Trainer
from training.shapes.dataset import ShapesDataset
from training.streams import open_streams, strides_of

FOLDER = ROOT / "training" / "recipes" / "miniature"
SHIPPED = sorted(FOLDER.glob("*.yaml"))
WANTED = {
    *("frame_replacement", "image_dropout", "cfg_renorm", "norms", "joint_init", "rope"),
    *("temporal_patch", "causal", "prediction", "long_video"),
}


def planner(path: Path, cache: Path) -> Planner:
    return Planner(load_comparison(path), cache)


def test_every_comparison_of_the_paper_is_there() -> None:
    assert {path.stem for path in SHIPPED} == WANTED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_comparisons_plan_runs_of_equal_compute(path: Path, tmp_path: Path) -> None:
    plan = planner(path, tmp_path)
    comparison = plan.comparison
    assert len(comparison.seeds) >= 3 and comparison.expect and comparison.paper
    scores = {column.partition(".")[0] for column in comparison.columns}
    assert scores <= {*comparison.scores, "training"}
    runs = [plan.run(arm, 0) for arm in comparison.arms]
    assert all(run.checkpoint.exists() == bool(comparison.checkpoint) for run in runs)
    budgets = [run.flops for run in runs]
    assert max(budgets) == pytest.approx(min(budgets), rel=0.03)
    said = overview(path, plan)
    assert all(arm in said for arm in comparison.arms)


def test_compiled_runs_lie_where_others_do(tmp_path: Path) -> None:
    comparison = load_comparison(FOLDER / "norms.yaml")
    plain, compiled = (Planner(comparison, tmp_path, flag).run("no norms, 3e-2", 1)
                       for flag in (False, True))  # fmt: skip
    assert plain.folder == compiled.folder
    assert not plain.config.engine.compile and compiled.config.engine.compile


def test_runs_are_shared_by_what_they_are_not_by_name(tmp_path: Path) -> None:
    plans = {path.stem: planner(path, tmp_path) for path in SHIPPED}
    shared = [
        plans["causal"].run("not causal", 1),
        plans["temporal_patch"].run("patch 2", 1),
        plans["prediction"].run("text to video", 1),
        plans["joint_init"].stage("video", 1),
    ]
    assert len({run.folder for run in shared}) == 1
    others = [
        plans["causal"].run("not causal", 2),
        plans["causal"].run("causal", 1),
        plans["prediction"].run("prediction", 1),
    ]
    assert len({run.folder for run in (shared[0], *others)}) == 4
    dropout = plans["image_dropout"]
    assert dropout.run("dropout alone", 0) is dropout.run("dropout and JIT-CFG", 0)
    joint = plans["joint_init"].run("joint", 0)
    assert [run.name for run in order([joint])] == [
        "stage image, seed 0", "stage video, seed 0", "joint, seed 0",
    ]  # fmt: skip
    assert joint.config.init.weights == joint.parents[0].checkpoint
    assert joint.config.init.temporal == joint.parents[1].checkpoint


def test_flops_are_of_the_streams_as_they_are(tmp_path: Path) -> None:
    plan = planner(FOLDER / "rope.yaml", tmp_path)
    found = plan.comparison.sets["clips"]
    short, whole = plan.stage("short", 0).config, plan.run("extrapolated", 0).config
    assert 1.7 < step_flops(whole, found) / step_flops(short, found) < 2.1


# --- one carried out ------------------------------------------------------------------------------

BASE = {
    "name": "tiny",
    "steps": 1,
    "run": "unused",
    "model": {"size": "nano", "changes": {"width": 16, "depth": 1, "heads": 2}},
    "text": {"width": 128, "depth": 3, "heads": 4, "max_tokens": 40},
    "data": {"kind": "shapes", "latents": "unused", "streams": [{"batch": 4}]},
    "optimizer": {"lr": 1e-3, "warmup": 1, "ema": 0.5},
    "save": {"steps": 1, "keep": 1},
    "watch": {"log_every": 1},
}
SMALL = {
    "title": "Small",
    "paper": "nothing",
    "base": "base.yaml",
    "steps": 2,
    "seeds": [0, 1],
    "sets": {"clips": {"size": 32, "frames": 4, "clips": 8}},
    "stages": {"first": {"steps": 1, "train": {"data.tasks": {"t2v": 1.0}}}},
    "sample": {"steps": 1, "guidance_scale": 2.0},
    "arms": {
        "plain": {"train": {"data.tasks": {"ti2v": 1.0}}},
        "renormed": {"train": {"data.tasks": {"ti2v": 1.0}}, "sample": {"renorm": True}},
        "from first": {"train": {"init.weights": "@first", "data.tasks": {"ti2v": 1.0}}},
    },
    "scores": {
        "ti2v": {"given": "ti2v", "clips": 2},
        "loss": {"loss": True, "clips": 2},
    },
    "columns": ["ti2v.first_frame", "loss.loss", "training.loss"],
    "expect": [{"figure": "ti2v.first_frame", "of": "plain", "above": "from first"}],
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return path


def carried_out(capsys, *words: object) -> tuple[str, dict]:
    capsys.readouterr()
    run("eval", "ablate", *words)
    said = capsys.readouterr().out
    return said, json.loads(said.splitlines()[-1])


def test_a_comparison_is_trained_scored_and_told_and_only_once(small, tmp_path, capsys) -> None:
    cache, page = tmp_path / "cache", tmp_path / "tables.md"
    said, found = carried_out(capsys, small, "--cache", cache, "--markdown", page)
    assert list(found["arms"]) == ["plain", "renormed", "from first"]
    first_frame = found["arms"]["plain"]["ti2v.first_frame"]
    assert first_frame["seeds"] == pytest.approx([first_frame["mean"]] * 2)  # given, so exact
    assert first_frame["mean"] > 60
    assert len(found["arms"]["plain"]["loss.loss"]["seeds"]) == 2
    facts = found["runs"]["plain"]
    assert (facts["steps"], facts["skipped"]) == (2, 0) and 1.5 < facts["loss"] < 2.5
    assert "| plain | " in said and "95 % by Student's t over seeds" in said
    assert "- ti2v.first_frame of plain above from first: **not decided**" in said
    assert page.read_text().strip() in said
    runs = sorted((cache / "runs").iterdir())
    assert len(runs) == 2 * 3  # a stage and two trainings for each seed; two arms share one
    assert not list(cache.glob("runs/*/states/*"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    _, again = carried_out(capsys, small, "--cache", cache)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")} == before
    said, one = carried_out(capsys, small, "--cache", cache, "--seeds", 1, "--arm", "plain",
                            "--arm", "from first")  # fmt: skip
    assert list(one["arms"]) == ["plain", "from first"]
    assert "not decided**, one seed" in said and "bootstrap over clips" in said
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")} == before


def test_results_in_a_file_need_no_training(small, tmp_path, capsys) -> None:
    words, known = ("--seeds", 0, "--arm", "plain"), tmp_path / "results.json"
    _, made = carried_out(capsys, small, "--cache", tmp_path / "a", *words, "--record", known)
    _, again = carried_out(capsys, small, "--cache", tmp_path / "b", *words, "--known", known)
    assert again == made
    assert not list(tmp_path.glob("b/runs/*/*.safetensors"))
    found = json.loads(known.read_text())
    assert {len(found["runs"]), len(found["scores"])} == {1, 2}
    plan = planner(small, tmp_path / "b")  # a stage is known without its network: made again
    first, after = plan.stage("first", 0), plan.run("from first", 0)
    first.folder.mkdir(parents=True)
    (first.folder / "facts.json").write_text("{}")
    prepare_set(plan.cache, plan.comparison.sets["clips"])
    assert train(first) and not first.checkpoint.exists()
    assert train(after) and first.checkpoint.exists() and after.facts["steps"] == 2
    known.write_text(json.dumps({"runs": {"../../escaped": {}}, "scores": {}}))
    line = refused("eval", "ablate", small, "--cache", tmp_path / "c", "--known", known)
    assert "'../../escaped' in runs is no digest" in line
    assert not (tmp_path / "escaped").exists()
    known.write_text(json.dumps({"runs": {"0" * 16: 3}, "scores": {}}))
    line = refused("eval", "ablate", small, "--cache", tmp_path / "c", "--known", known)
    assert "0000 in runs is 3: expected a table" in line
    known.write_text("[]")
    line = refused("eval", "ablate", small, "--cache", tmp_path / "c", "--known", known)
    assert "results.json: no results of comparisons" in line


def test_the_readme_shows_the_results_that_are_kept(tmp_path, capsys) -> None:
    """And --no-training tells of them what there is, without making anything."""
    known = ("--known", FOLDER / "results.json", "--no-training")
    said, _ = carried_out(capsys, *SHIPPED, "--cache", tmp_path, *known)
    table = said[said.rindex("|  | figure |") : said.rindex("\n[")].strip()
    assert table.count("\n") > 20
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "sets").exists() and not list(tmp_path.glob("runs/*/*.safetensors"))


@pytest.mark.slow
def test_several_workers_make_the_same_tables(small, tmp_path, capsys) -> None:
    tables = []
    for name, words in (("one", ()), ("two", ("--workers", 2))):
        carried_out(capsys, small, "--cache", tmp_path / name, *words)
        _, found = carried_out(capsys, small, "--cache", tmp_path / name)
        for arm in found["arms"].values():
            del arm["training.seconds"], arm["training.cpu_seconds"]
        tables.append(found["arms"])
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_workers_end_with_their_parent(small, tmp_path) -> None:
    command = [sys.executable, "-m", "training", "eval", "ablate", str(small), "--workers", "2"]
    command += ["--cache", str(tmp_path / "cache"), "--steps", "100000"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
        workers = set()
        for line in parent.stderr:
            if "step " in line:
                workers.add(int(line.split()[2]))
            if len(workers) == 2:
                parent.kill()
                break
        for _ in range(60):
            if not any(Path(f"/proc/{worker}").exists() for worker in workers):
                break
            time.sleep(0.5)
    assert len(workers) == 2 and not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert list(tmp_path.glob("cache/runs/*/states/*"))  # they saved what they had


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_model(small, tmp_path) -> None:
    comparison = load_comparison(small)
    models = []
    for cache, stops in (("whole", ()), ("stopped", (1,))):
        plan = Planner(comparison, tmp_path / cache)
        prepare_set(plan.cache, comparison.sets["clips"])
        one = plan.run("plain", 3)
        for step in stops:
            assert not train(one, until=step) and one.facts is None
        assert train(one) and train(one)
        models.append(read_card(one.checkpoint).tensor_hash)
        assert one.facts["steps"] == 2
    assert models[0] == models[1]


def test_ctrl_c_ends_all_comparisons(small, tmp_path, monkeypatch) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(small.read_text().replace("Small", "Other"))
    step, begun = Trainer.train_step, []

    def pressed(trainer: Trainer) -> dict:
        begun.append(trainer.config.run)
        signal.raise_signal(signal.SIGINT)
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", pressed)
    with pytest.raises(SystemExit) as end:
        main([*map(str, ("eval", "ablate", small, other, "--cache", tmp_path / "cache"))])
    assert end.value.code == 1 and len(begun) == 1


def test_ctrl_c_after_the_last_step_of_a_run_counts(small, tmp_path, monkeypatch) -> None:
    comparison = load_comparison(small)
    plan = Planner(comparison, tmp_path / "cache")
    prepare_set(plan.cache, comparison.sets["clips"])
    one, save = plan.run("plain", 0), Trainer.save

    def pressed(trainer: Trainer) -> Path:
        if trainer.progress.step == trainer.config.steps:
            signal.raise_signal(signal.SIGINT)
        return save(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", pressed)
        assert not train(one) and one.facts is None
    assert train(one) and one.facts["steps"] == 2


def one_arm(small: Path, steps: int, **train: object) -> Comparison:
    values = load_comparison(small).model_dump(mode="json")
    own = {"steps": steps, "arms": {"wild": {"train": train}}, "expect": []}
    return Comparison.model_validate({**values, **own})


def test_a_run_without_finite_gradients_is_an_outcome(small, tmp_path) -> None:
    comparison = one_arm(small, 9, **{"engine.max_bad_steps": 2, "save.steps": 1000})
    plan = Planner(comparison, tmp_path / "cache")
    folder = prepare_set(plan.cache, comparison.sets["clips"])
    (shard,) = folder.glob("train-*.safetensors")
    with safe_open(shard, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["latents"][:] = float("inf")
    save_file(tensors, shard, metadata)
    one = plan.run("wild", 0)
    assert train(one)
    facts = one.facts
    assert (facts["diverged"], facts["skipped"], facts["steps"]) == (True, 2, 2)
    assert facts["loss"] is None and not one.checkpoint.exists()
    assert scored(plan, "wild", one) == {}
    assert training_figures(one)["training.diverged"] == 1


def test_a_loss_above_that_of_predicting_nothing_counts_as_diverged(small, tmp_path) -> None:
    norms = {"model.changes.qk_norm": False, "model.changes.sandwich_norm": False}
    wild = {"optimizer.kind": "adamw", "optimizer.lr": 0.1, "optimizer.warmup": 0}
    comparison = one_arm(small, 8, **norms, **wild, **{"save.steps": 1000, "optimizer.clip": 1e9})
    plan = Planner(comparison, tmp_path / "cache")
    prepare_set(plan.cache, comparison.sets["clips"])
    one = plan.run("wild", 0)
    assert train(one)
    assert one.facts["diverged"] and one.facts["skipped"] == 0 and one.facts["loss"] > 2
    assert one.facts["worst_loss"] > one.facts["loss"]
    assert one.checkpoint.exists()


# --- what cannot be -------------------------------------------------------------------------------


def test_command_line_changes_steps_in_proportion(small) -> None:
    class Args:
        seeds, steps, clips, set_clips, arm = [5], 20, 3, 4, None

    new = changed(load_comparison(small), Args)
    assert (new.steps, new.stages["first"].steps, new.seeds) == (20, 10, [5])
    assert new.scores["ti2v"].clips == 2 and new.sets["clips"].clips == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": "none.yaml"}, "none.yaml is not there"),
        ({"checkpoint": "nano"}, "name a base recipe or a checkpoint"),
        (
            {"arms": {"a": {"train": {"init.weights": "@second"}}}, "expect": []},
            "no stage 'second'",
        ),
        ({"arms": {"a": {"train": {"optimizer.lrr": 1}}}, "expect": []}, "optimizer.lrr"),
        ({"arms": {"a": {"set": "large"}}, "expect": []}, "no set 'large'"),
        ({"arms": {"a": {"sample": {"null": "gone"}}}, "expect": []}, "null"),
        ({"expect": [{"figure": "x", "of": "plain", "above": "other"}]}, "no arm 'other'"),
        ({"expect": [{"figure": "x", "of": "plain"}]}, "above or below"),
        ({"seeds": [1, 1]}, "each may be named once"),
        ({"colums": []}, "colums"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_is_made(changes, said, small, tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    assert said in refused("eval", "ablate", path, "--cache", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_unknown_arms_are_named(small, tmp_path) -> None:
    line = refused("eval", "ablate", small, "--arm", "fancy", "--cache", tmp_path)
    assert "there is no arm 'fancy': expected plain" in line


def test_results_are_numbers_of_json() -> None:
    from training.evaluation.ablate.figures import from_json, to_json

    figures = {"a": np.array([1.0, np.nan]), "b": np.array(2.5)}
    back = from_json(json.loads(json.dumps(to_json(figures))))
    assert np.array_equal(back["a"], figures["a"], equal_nan=True) and back["b"] == 2.5


def test_a_stream_may_take_every_second_frame(tiny, tiny_latents) -> None:
    """What a model of twice the stride is trained on, for RoPE over twice the frames."""
    whole, half = ShapesDataset(tiny_latents), ShapesDataset(tiny_latents, every=2)
    assert (whole.buckets, half.buckets) == ({"4x4x4": 12}, {"2x4x4": 12})
    one, other = whole.load("4x4x4", 3), half.load("2x4x4", 3)
    assert np.array_equal(other.latents, one.latents[:, ::2])
    assert (one.micro[4:].tolist(), other.micro[4:].tolist()) == ([1, 4], [2, 2])
    config = tiny(**{"data.streams": [{"batch": 4, "every": 2}]})
    streams = open_streams(config)
    assert strides_of(streams.specs[0].dataset) == (2, 2)
    assert streams.digests != open_streams(tiny()).digests
    with pytest.raises(ValueError, match="every` is of plain shapes"):
        tiny(**{"data.streams": [{"batch": 4, "every": 2, "set": "keys"}]})
