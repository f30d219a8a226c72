"""Run a function in several real processes that talk over gloo, on the CPU."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from tests.commands import Command


def run_ranks(function: Callable[..., Any], world: int, *args: Any, seconds: float = 120) -> list:
    """`function(*args)` in each of `world` processes; what each returned, by rank.

    The function must live in a module (not in a test), its arguments be JSON and its results
    dicts, lists, tuples, numbers, strings and tensors. A rank that raises fails the caller with
    its traceback; ranks that do not end in time are ended.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call = [function.__module__, function.__name__, world, folder, json.dumps(args)]
        environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        ranks = [
            Command(__name__, rank, *call, folder=folder / f"rank {rank}", environment=environment)
            for rank in range(world)
        ]
        try:
            _await_all(ranks, time.monotonic() + seconds)
        finally:
            for rank in ranks:
                rank.kill()
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _await_all(ranks: list[Command], deadline: float) -> None:
    """Until all have ended well, or one has failed: the others would wait for it."""
    while any(rank.running for rank in ranks):
        assert time.monotonic() < deadline, "".join(rank.stderr for rank in ranks)
        if any(not rank.running and rank.wait() for rank in ranks):
            break
        time.sleep(0.02)
    for number, rank in enumerate(ranks):
        if not rank.running:
            assert rank.wait() == 0, f"rank {number} of {len(ranks)}:\n{rank.stderr}"


def _main(rank: str, module: str, name: str, world: str, folder: str, args: str) -> None:
    from torch import distributed

    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(f"{folder}/store", int(world)),
        rank=int(rank),
        world_size=int(world),
        timeout=timedelta(seconds=60),
    )
    function = getattr(importlib.import_module(module), name)
    torch.save(function(*json.loads(args)), Path(folder, f"{rank}.pt"))
    distributed.barrier()  # none leaves while another still reads from it


if __name__ == "__main__":
    _main(*sys.argv[1:])
