"""Real processes: the same run on one or several, sharded or not, and killed at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml

from scripts.prepare import ROOT
from training.state import states

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "STIVBlock",
}


def command(recipe: dict[str, Any], folder: Path, processes: int, **changes: Any) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe, "run": str(folder / "run")}))
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc-per-node={processes}"]
    sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    return [*launch, "-m", "training", "train", "--config", str(file), *sets]


def environment(sharded: bool) -> dict[str, str]:
    plain = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **plain, **(FSDP2 if sharded else {})}


def train(recipe, folder: Path, processes: int = 1, *more: str, sharded: bool = False) -> None:
    done = subprocess.run(
        [*command(recipe, folder, processes), *more],
        cwd=ROOT,
        env=environment(sharded),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder: Path) -> list[float]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in line]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last state, whole, whoever saved them."""
    state = states(folder / "run")[-1]
    metadata = dcp.FileSystemReader(state).read_metadata().state_dict_metadata
    tensors = {n: torch.empty(m.size, dtype=m.properties.dtype) for n, m in metadata.items()}
    dcp.load(tensors, checkpoint_id=state, no_dist=True)
    return tensors


def shapes_of(folder: Path) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in stored(folder).items()}


@pytest.mark.parametrize(
    "engine", [{}, {"precision": "bf16", "checkpointing": "selective"}], ids=["fp32", "bf16"]
)
def test_processes_and_shards_give_the_losses_of_one(recipe, tmp_path: Path, engine: dict) -> None:
    recipe = {**recipe, "steps": 4, "engine": engine}
    train(recipe, tmp_path / "one")
    train(recipe, tmp_path / "ddp", 2)
    train(recipe, tmp_path / "fsdp", 2, sharded=True)
    expected, shapes = losses(tmp_path / "one"), shapes_of(tmp_path / "one")
    assert len(expected) == 4
    for name in ("ddp", "fsdp"):
        assert losses(tmp_path / name) == pytest.approx(expected, rel=2e-4), name
        assert shapes_of(tmp_path / name) == shapes


def test_a_sharded_state_opens_on_one_process(recipe, tmp_path: Path) -> None:
    recipe = {**recipe, "steps": 4}
    train(recipe, tmp_path / "one")
    folder = tmp_path / "mixed"
    train(recipe, folder, 2, "--until", "2", sharded=True)
    assert len(losses(folder)) == 2
    train(recipe, folder)
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=2e-4)


@pytest.mark.parametrize(("processes", "sharded"), [(1, False), (2, True)])
def test_a_run_killed_anywhere_continues_bit_for_bit(
    recipe, tmp_path: Path, processes: int, sharded: bool
) -> None:
    recipe = {**recipe, "steps": 30, "save": {"steps": 1}}
    train(recipe, tmp_path / "whole", processes, sharded=sharded)
    folder, rng = tmp_path / "killed", random.Random(processes)
    kills = 0
    while kills < 3:
        process = subprocess.Popen(
            command(recipe, folder, processes),
            cwd=ROOT,
            env=environment(sharded),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        begun = len(losses_so_far(folder))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(losses_so_far(folder)) >= begun + 3 + kills:
                time.sleep(rng.random() * 0.1)  # in a step, or in the middle of a save
                break
            time.sleep(0.01)
        finished = process.poll() is not None
        if not finished:
            kill_all(folder)
        process.wait()
        if finished:
            break
        kills += 1
    assert kills
    train(recipe, folder, processes, sharded=sharded)
    assert losses(folder) == losses(tmp_path / "whole")
    expected, got = stored(tmp_path / "whole"), stored(folder)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def kill_all(folder: Path) -> None:
    """SIGKILL for every process of a run: a launcher's workers are no children of its group."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder) in (entry / "cmdline").read_text():
                os.kill(int(entry.name), signal.SIGKILL)


def losses_so_far(folder: Path) -> list[str]:
    file = folder / "run" / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_sigterm_saves_before_it_ends(recipe, tmp_path: Path) -> None:
    recipe = {**recipe, "steps": 100_000, "save": {"steps": 100_000}}
    process = subprocess.Popen(
        command(recipe, tmp_path, 1), cwd=ROOT, env=environment(False), stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(losses_so_far(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "stopped by SIGTERM" in stderr
    (state,) = states(tmp_path / "run")
    assert f"step {int(state.name[5:])}, saved" in stderr


def test_a_batch_that_does_not_divide_is_refused(recipe, tmp_path: Path) -> None:
    done = subprocess.run(
        command(recipe, tmp_path, 2, **{"data.streams": "[{batch: 3}]"}),
        cwd=ROOT,
        env=environment(False),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode
    assert "a global batch of 3 does not divide by 2 ranks" in done.stderr
