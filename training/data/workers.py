"""A pool of worker processes that survives whatever a media file does to them.

A decoder may crash on a broken file or never return. So every job runs in a process of its own
(`training.data.worker`) with a time limit; a process that dies or overruns is replaced, its job
fails with the reason, and all others go on. The processes share nothing with this one and get no
pickles; a thread each waits for their answers.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from .worker import MEMORY, receive, send

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 120  # a process may take so long to come up on a busy machine
_STARTS = 3  # attempts, since the machine may have been out of memory
_STOP_SECONDS = 10
_PIPE_BYTES = 2**20
# Processes do the parallel work, not libraries' threads.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}

T = TypeVar("T")
Answer = tuple[dict[str, Any], bytes]


class Workers:
    """`count` worker processes; `limit` is the seconds that one job may take.

    answer: module:function that does the jobs in them; it gets a request and gives an answer.
    memory: bytes of address space of each process; None = any (libraries for GPUs reserve more than
    they use). A context manager. The processes start with the first jobs.
    """

    def __init__(
        self,
        count: int,
        limit: float = 120.0,
        *,
        answer: str = "training.data.worker:answer",
        memory: int | None = MEMORY,
    ):
        if count < 1 or limit <= 0:
            raise ValueError(f"{count} workers, {limit} s: expected at least 1, and some time")
        self.limit = limit
        self._arguments = (answer, str(memory or 0))
        self.replaced = 0  # processes that died or were killed
        self._closed = False
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._running: set[_Process] = set()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: dict[str, Any]) -> Future[Answer]:
        """Queues a job; its `limit` is the pool's, unless the request has one. The result has an
        `error`, and `lost`, where the process crashed or overran; it raises RuntimeError where no
        process can be started."""
        return self._threads.submit(self._run, {"limit": self.limit, **request})

    def ordered(
        self, items: Iterable[T], request: Callable[[T], dict[str, Any]], ahead: int
    ) -> Iterator[tuple[T, Answer]]:
        """Each item with its answer in the order of the items, up to `ahead` jobs in advance."""
        waiting: deque[tuple[T, Future[Answer]]] = deque()
        for item in items:
            waiting.append((item, self.submit(request(item))))
            if len(waiting) > ahead:
                item, future = waiting.popleft()
                yield item, future.result()
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()

    def pids(self) -> list[int]:
        """The processes that run now."""
        with self._lock:
            return [process.pid for process in self._running]

    def close(self) -> None:
        """Ends every process, busy or not."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            process.stop()
        self._threads.shutdown(wait=True)

    def _run(self, request: dict[str, Any]) -> Answer:
        process = self._idle.get()
        try:
            process = process or self._start()
            reply, reason = process.ask(request, request["limit"])
            if reply is None:
                self._discard(process)
                process = None
                return {"error": reason, "lost": True}, b""
            return reply
        finally:
            self._idle.put(process)

    def _start(self) -> _Process:
        for _ in range(_STARTS):
            with self._lock:
                if self._closed:
                    break
                process = _Process(self._arguments)
                self._running.add(process)
            reply, reason = process.wait(_START_SECONDS)
            if reply is not None:
                return process
            reason += f": {process.last_words()}"
            self._discard(process)
        if self._closed:
            raise RuntimeError("the worker processes are closed")
        raise RuntimeError(f"worker processes do not start ({reason})")

    def _discard(self, process: _Process) -> None:
        process.stop()
        with self._lock:
            self._running.discard(process)
            self.replaced += not self._closed


class _Process:
    """One process and its two pipes."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop
        self._process = subprocess.Popen(
            [sys.executable, "-m", "training.data.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self.pid = self._process.pid
        with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux only
            import fcntl

            # A clip is megabytes: with the usual 64 kB the two sides would take turns a lot.
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def ask(self, request: dict[str, Any], limit: float) -> tuple[Answer | None, str]:
        """The answer, or None and the reason why there is none."""
        try:
            send(self._process.stdin, request)
        except OSError:
            return None, self._cause()
        return self.wait(limit)

    def wait(self, limit: float) -> tuple[Answer | None, str]:
        overrun = threading.Event()

        def end() -> None:
            overrun.set()
            self._process.kill()

        timer = threading.Timer(limit, end)
        timer.daemon = True
        timer.start()
        try:
            return receive(self._process.stdout), ""
        except (EOFError, OSError, ValueError):
            if overrun.is_set():
                return None, f"it took more than {limit:g} s (time_limit) and was stopped"
            return None, self._cause()
        finally:
            timer.cancel()

    def _cause(self) -> str:
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process stopped answering"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"exit code {code}"
        return f"its process crashed ({name})"

    def last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read(2**16).decode(errors="replace").strip()[-1000:]

    def stop(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()
        self._process.wait(_STOP_SECONDS)
