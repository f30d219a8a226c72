"""Real processes: the same run on one or several, sharded or not, and killed at any moment."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml

from scripts.host import free_port
from scripts.prepare import ROOT
from tests.commands import Command
from training.state import states

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "STIVBlock",
}


def written(recipe: dict[str, Any], folder: Path) -> Path:
    """The recipe as a file in a folder, which its run goes to."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe, "run": str(folder / "run")}))
    return file


def environment(sharded: bool) -> dict[str, str]:
    plain = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return {**plain, **(FSDP2 if sharded else {})}


class Ranks:
    """A run on one or several processes, as the launcher starts them."""

    def __init__(
        self, recipe: dict[str, Any], folder: Path, processes: int, *words: str, sharded: bool
    ) -> None:
        config, shared = written(recipe, folder), environment(sharded)
        if processes > 1:
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.commands = []
        for rank in range(processes):
            own = {"RANK": rank, "LOCAL_RANK": rank}
            own |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            own = {name: str(value) for name, value in own.items()} if processes > 1 else {}
            self.commands.append(
                Command(
                    "training", "train", "--config", config, *words,
                    folder=folder / f"rank {rank}", environment={**shared, **own},
                )
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return any(command.running for command in self.commands)

    def kill(self) -> None:
        for command in self.commands:
            command.kill()

    def succeed(self) -> None:
        """Wait for the end of all; a rank that fails fails the test."""
        try:
            for command in self.commands:
                assert command.wait() == 0, command.stderr[-3000:]
        finally:
            self.kill()


def train(recipe, folder: Path, processes: int = 1, *words: str, sharded: bool = False) -> None:
    Ranks(recipe, folder, processes, *words, sharded=sharded).succeed()


def launch(recipe, folder: Path, processes: int, *words: str, sharded: bool) -> None:
    """The same by the command that a person types."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", "-m", "training", "train"),
            *("--config", str(written(recipe, folder)), *words),
        ],
        cwd=ROOT,
        env={**os.environ, **environment(sharded)},
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
    launch(recipe, folder, 2, "--until", "2", sharded=True)
    assert len(losses(folder)) == 2
    train(recipe, folder)
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=2e-4)


@pytest.mark.parametrize(("processes", "sharded"), [(1, False), (2, True)])
def test_a_run_killed_anywhere_continues_bit_for_bit(
    recipe, tmp_path: Path, processes: int, sharded: bool
) -> None:
    recipe = {**recipe, "steps": 20, "save": {"steps": 1}}
    train(recipe, tmp_path / "whole", processes, sharded=sharded)
    folder, rng = tmp_path / "killed", random.Random(processes)
    kills = 0
    while kills < 3:
        ranks = Ranks(recipe, folder, processes, sharded=sharded)
        begun = len(losses_so_far(folder))
        deadline = time.monotonic() + 120
        while ranks.running and time.monotonic() < deadline:
            if len(losses_so_far(folder)) >= begun + 3 + kills:
                time.sleep(rng.random() * 0.1)  # in a step, or in the middle of a save
                break
            time.sleep(0.01)
        finished = not ranks.running
        ranks.kill()
        if finished:
            break
        kills += 1
    assert kills
    train(recipe, folder, processes, sharded=sharded)
    assert losses(folder) == losses(tmp_path / "whole")
    expected, got = stored(tmp_path / "whole"), stored(folder)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def losses_so_far(folder: Path) -> list[str]:
    file = folder / "run" / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_sigterm_saves_before_it_ends(recipe, tmp_path: Path) -> None:
    recipe = {**recipe, "steps": 100_000, "save": {"steps": 100_000}}
    ranks = Ranks(recipe, tmp_path, 1, sharded=False)
    (process,) = ranks.commands
    deadline = time.monotonic() + 120
    while len(losses_so_far(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    ranks.succeed()
    assert "stopped by SIGTERM" in process.stderr
    (state,) = states(tmp_path / "run")
    assert f"step {int(state.name[5:])}, saved" in process.stderr


def test_a_batch_that_does_not_divide_is_refused(recipe, tmp_path: Path) -> None:
    words = ("--set", "data.streams=[{batch: 3}]")
    for rank in Ranks(recipe, tmp_path, 2, *words, sharded=False).commands:
        assert rank.wait(seconds=120) == 1
        assert "a global batch of 3 does not divide by 2 ranks" in rank.stderr
