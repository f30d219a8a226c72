"""Peak memory and speed of the commands of `python -m stiv.convert` on a file of 4 GB.

Each command is a process of its own, whose peak the operating system tells; `bare_mib` is a
process that only imports the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

WIDTH, DEPTH, TEXT = 1152, 46, 4096  # PixArt-alpha's width; as deep as makes 4 GB in float32
MIB = 2**20


def run() -> Iterator[dict]:
    """A row per command, in order: each takes what the one before wrote."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _in_child(_write_pickle, folder / "a.pth")
        bare = _measured(["import", "--help"])[1]
        common = {"bare_mib": round(bare / MIB), "largest_tensor_mib": _largest()}
        taken = ["import", folder / "a.pth", "--out", folder / "b.safetensors"]
        yield _row("import a pickle", taken, folder / "a.pth", common)
        (folder / "a.pth").unlink()
        given = ["export", folder / "b.safetensors", "--out", folder / "c.safetensors"]
        yield _row("export", given, folder / "b.safetensors", common)
        (folder / "b.safetensors").unlink()
        again = ["import", folder / "c.safetensors", "--out", folder / "d.safetensors"]
        yield _row("import safetensors", again, folder / "c.safetensors", common)
        (folder / "c.safetensors").unlink()
        source, out = folder / "d.safetensors", folder / "e.safetensors"
        yield _row("dtype", ["dtype", source, "--to", "bf16", "--out", out], source, common)
        yield _row("verify", ["verify", source], source, common)


def _largest() -> int:
    return round(4 * max(6 * WIDTH * WIDTH, WIDTH * TEXT) / MIB)


def _row(what: str, command: list[str | Path], source: Path, common: dict) -> dict:
    size = source.stat().st_size
    seconds, peak = _measured(command)
    return {
        "what": what,
        "file_mib": round(size / MIB),
        "peak_mib": round(peak / MIB),
        **common,
        "seconds": round(seconds, 1),
        "mib_per_s": round(size / MIB / seconds),
    }


def _measured(command: list[str | Path]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "stiv.convert", *map(str, command)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, usage.ru_maxrss * unit


def _in_child(function, path: Path) -> None:
    """Run it in a process whose memory ends with it."""
    code = f"from benchmarks.convert import {function.__name__} as f; f({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


def _write_pickle(path: str) -> None:
    """PixArt-alpha's tensors, deeper than any that was released."""
    from tests.stiv.convert.releases import pixart

    state = pixart(512, width=WIDTH, depth=DEPTH, text=TEXT, tokens=120)
    torch.save({"state_dict": state}, path)
