"""Numbers of a run: one JSON line per entry in metrics.jsonl, TensorBoard beside it, log lines."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
_LONGEST_LINE = 2**20  # bytes; ours have some hundreds


class Metrics:
    """Appends entries {step, seconds, …}; a run killed anywhere leaves whole lines.

    `seconds` is the time that the run was up, over all its sessions. Numbers that are not finite
    are stored as null. Entries of one step may be added one after another (losses, then held-out
    losses). Only the main process makes one.
    """

    def __init__(self, folder: Path, tensorboard: bool = False, resume_step: int = 0):
        """Continue the file at `resume_step`: what a lost session wrote after it is dropped.

        Raises OSError when the file cannot be written.
        """
        self.path = Path(folder) / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._last = resume_step
        self._before = _keep_prefix(self.path, resume_step)
        self._start = time.monotonic()
        # Unbuffered: a line goes out in one write, and a kill loses nothing that was added.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._board = _open_board(self.path.parent, resume_step) if tensorboard else None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of a step. Raises ValueError for a step before the last one."""
        if step < self._last:
            raise ValueError(
                f"{self.path}: step {step} after step {self._last}: entries are added in order"
            )
        self._last = step
        seconds = round(self._before + time.monotonic() - self._start, 3)
        numbers = {name: _finite(value) for name, value in values.items()}
        line = json.dumps({"step": step, "seconds": seconds, **numbers}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
        if self._board is not None:
            self._board.close()
            self._board = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The entries of a metrics.jsonl up to the first line that is not whole; [] without a file."""
    if not path.exists():
        return []
    return [entry for entry, _ in _entries(path)]


def progress(
    step: int,
    steps: int,
    loss: float,
    rate: float,
    tokens_per_s: float | None = None,
    mfu: float | None = None,
) -> str:
    """One log line. rate: steps per second; mfu: share of the device's peak, 0 to 1, if known."""
    parts = [f"step {step:,}/{steps:,} ({step / steps:.1%})", f"loss {loss:.4f}"]
    if rate >= 1:
        parts.append(f"{rate:.2f} steps/s")
    elif rate > 0:
        parts.append(f"{1 / rate:.2f} s/step")
    if tokens_per_s is not None:
        parts.append(f"{_short(tokens_per_s)} tokens/s")
    if mfu is not None:
        parts.append(f"MFU {mfu:.1%}")
    parts.append(f"ETA {duration((steps - step) / rate) if rate > 0 else 'unknown'}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """h:mm:ss, with the days before it from one day on."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h}:{m:02}:{s:02}" if days else f"{h}:{m:02}:{s:02}"


def _keep_prefix(path: Path, step: int) -> float:
    """Cut the file after its last whole entry up to `step`; the seconds that entry tells."""
    if not path.exists():
        return 0.0
    end, seconds = 0, 0.0
    for entry, position in _entries(path):
        if entry["step"] > step:
            break
        end, seconds = position, float(entry.get("seconds") or 0)
    dropped = path.stat().st_size - end
    if dropped:
        log.info("%s: dropping %d bytes written after step %d", path, dropped, step)
        os.truncate(path, end)
    return seconds


def _entries(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole entries in order, each with the position of its end in the file."""
    position = 0
    with open(path, "rb") as file:
        while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
            position += len(line)
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
                return
            yield entry, position


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("watch.tensorboard is on, but tensorboard is not installed: %s only", FILE)
        return None
    # Events of a lost session after this step are hidden by the new file.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def _finite(value: float) -> float | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _short(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
