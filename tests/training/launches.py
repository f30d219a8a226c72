"""Runs on one or several processes, as tests start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.host import free_port
from scripts.prepare import ROOT
from tests.commands import Command

Sharing = Mapping[str, str]
"""What a launch says through the environment of how processes share."""

ON_CPUS = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
ALONE: Sharing = {}
"""Whole weights in every process: DDP where there are several."""
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


class Ranks:
    """A run on one or several processes, as the launcher starts them."""

    def __init__(
        self, recipe: dict[str, Any], folder: Path, processes: int, *words: str, sharing: Sharing
    ) -> None:
        config, shared = written(recipe, folder), {**ON_CPUS, **sharing}
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


def train(recipe, folder: Path, processes: int = 1, *words: str, sharing: Sharing = ALONE) -> None:
    """Run a recipe in `folder`/run to its end."""
    Ranks(recipe, folder, processes, *words, sharing=sharing).succeed()


def launch(recipe, folder: Path, processes: int, *words: str, sharing: Sharing) -> None:
    """The same by the command that a person types."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", "-m", "training", "train"),
            *("--config", str(written(recipe, folder)), *words),
        ],
        cwd=ROOT,
        env={**os.environ, **ON_CPUS, **sharing},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def launched(name: str, *more: str) -> tuple[Namespace, Sharing]:
    """What `accelerate launch` makes of training/accelerate/<name>.yaml and more words: its
    arguments, and what it tells every process."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = str(ROOT / "training" / "accelerate" / f"{name}.yaml")
    options = ["--config_file", file, "--main_process_port", "0", *more]
    words = [*options, "-m", "training", "train", "--config", "recipe.yaml"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    before = dict(os.environ)
    try:
        environment = prepare_multi_gpu_env(args)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return args, {k: v for k, v in environment.items() if before.get(k) != v}


def losses(folder: Path) -> list[float]:
    """Of every step of the run in `folder`/run."""
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in line]
