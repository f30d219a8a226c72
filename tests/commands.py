"""Commands of this checkout as real processes that start at once.

`python -m training` spends most of a short run on importing torch. Here the standard library's
fork server imports it once, and every command is a fork of that: a process of its own, with its
own environment, output and exit code, to be waited for or killed. Where there is no fork, it is
an ordinary process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import active_children, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import numpy as np

from scripts.prepare import ROOT

_METHODS = multiprocessing.get_all_start_methods()
_FORKS = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
_FORKS.set_forkserver_preload(
    [
        __name__,
        "torch._dynamo.backends.debugging",
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "accelerate",
        "training.cli",
        "training.loop",
        "training.export",
    ]
)


class Command:
    """A running `python -m module words …`, started in this checkout."""

    def __init__(
        self,
        module: str,
        *words: object,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it. folder: where its output goes. environment: what is added to this one."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        added = {**os.environ, **(environment or {})}
        arguments = (module, [str(word) for word in words], added, str(folder))
        self._process = _FORKS.Process(target=_run, args=arguments)
        # As `python -m` has it; ComfyUI, which the tests have first, has a module `tests` too.
        with mock.patch.object(sys, "path", [str(ROOT), *sys.path]):
            self._process.start()

    def wait(self, seconds: float = 300) -> int:
        """Its exit code, -9 after SIGKILL. One that does not end in time is killed, and
        subprocess.TimeoutExpired raised."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, seconds, stderr=self.stderr)
        return self._process.exitcode

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout.txt").read_text()

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr.txt").read_text()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.join()

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()


def _run(module: str, words: list[str], environment: Mapping[str, str], folder: str) -> None:
    for descriptor, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    # Whoever started it may be killed: then it ends too.
    threading.Thread(target=_end_with, args=[parent_process()], daemon=True).start()
    np.random.seed()  # a fork has the state of the process that it is a fork of
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:  # read when torch was imported: that was before
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@atexit.register
def _kill_all() -> None:
    """What a failed test has left running would keep the interpreter from ending."""
    for child in active_children():
        child.kill()
