"""Run a function in several real processes that talk over gloo, on the CPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.prepare import ROOT


def run_ranks(function: Callable[..., Any], world: int, *args: Any, seconds: float = 120) -> list:
    """`function(*args)` in each of `world` processes; what each returned, by rank.

    The function must live in a module (not in a test), its arguments be JSON and its results
    dicts, lists, tuples, numbers, strings and tensors. A rank that raises fails the caller with
    its traceback; ranks that do not end in time are ended.
    """
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    with tempfile.TemporaryDirectory() as folder:
        call = [function.__module__, function.__name__, str(world), folder, json.dumps(args)]
        # In a process group of its own, so that ranks that hang can be ended with their parent.
        parent = subprocess.Popen(
            [sys.executable, "-m", __name__, *call],
            cwd=ROOT,
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        try:
            _, errors = parent.communicate(timeout=seconds)
        except BaseException:
            os.killpg(parent.pid, 9)  # the group made above: this parent and its ranks alone
            parent.wait()
            raise
        assert parent.returncode == 0, errors
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(world)]


def _main(module: str, name: str, world: str, folder: str, args: str) -> int:
    """Import what is slow once, then fork the ranks; the number of those that failed."""
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # noqa: F401

    function = getattr(importlib.import_module(module), name)
    ranks = {}
    for rank in range(int(world)):
        pid = os.fork()
        if not pid:
            os._exit(_rank(function, rank, int(world), Path(folder), json.loads(args)))
        ranks[pid] = rank
    failed = 0
    while ranks:
        pid, status = os.wait()
        del ranks[pid]
        if status:  # the others would wait for it
            failed += 1
            for other in ranks:
                os.kill(other, 15)
    return failed


def _rank(function: Callable, rank: int, world: int, folder: Path, args: list) -> int:
    from torch import distributed

    try:
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo",
            store=distributed.FileStore(str(folder / "store"), world),
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=60),
        )
        torch.save(function(*args), folder / f"{rank}.pt")
        distributed.barrier()  # none leaves while another still reads from it
    except BaseException:
        print(f"rank {rank} of {world}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
