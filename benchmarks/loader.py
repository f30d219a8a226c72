"""Loading from a cache of 90 million clips: memory, the first batch, resuming anywhere.

The index is as large as such a cache's: 175 782 shards of 512 clips, 90 million entries. The
shards are hard links to a few real ones, so what is not measured is a disk with cold data. What a
training process would do is measured in a fresh process; its imports are told apart from what the
loader adds to them: torch, which nothing that trains is without and a worker process does not
import, and the others.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

CLIPS = 90_000_000
ROWS = 512  # clips of a shard
SHAPES = ((20, 32, 32), (5, 32, 32), (1, 32, 32))  # 20 and 5 frames and images of 256^2
CHANNELS = 4
COPIES = 4  # of each real shard: file systems limit the links to one
BATCH, WORLD = 512, 64  # global batch and ranks: 8 clips per rank
STEPS = 1_000_000
CAPTION = "a person walks along the shore while the camera follows them from the side; " * 5


def run() -> Iterator[dict]:
    """One row for writing the index, one per way of loading."""
    with tempfile.TemporaryDirectory(prefix="stiv-bench-loader-") as name:
        folder = Path(name)
        yield _make(folder)
        for workers in (0, 2):
            command = [sys.executable, "-m", "benchmarks.loader", str(folder), str(workers)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            yield json.loads(result.stdout.splitlines()[-1])


def _make(folder: Path) -> dict:
    """Writes shards, links and index; tells their sizes, and how fast headers are read."""
    from training.data.index import describe_shard, survey, write_index

    real = [folder / f"real-{n}-{i}" for i in range(COPIES) for n in range(len(SHAPES))]
    for number, path in enumerate(real):
        _write_shard(path, SHAPES[number % len(SHAPES)])
    began = time.perf_counter()
    infos = {path.stat().st_ino: describe_shard(path) for path in real}
    described = (time.perf_counter() - began) / len(real)
    for number in range(-(-CLIPS // ROWS)):
        target = folder / f"latents-{number:07d}.safetensors"
        os.link(real[number % len(real)], target)
    names, sizes, path = survey(folder)
    began = time.perf_counter()
    write_index(path, names, sizes, [infos[(folder / name).stat().st_ino] for name in names])
    return {
        "what": "index",
        "clips": len(names) * ROWS,
        "shards": len(names),
        "write_s": round(time.perf_counter() - began, 2),
        "entries_mib": round(path.with_suffix(".npy").stat().st_size / 2**20),
        "names_mib": round(path.stat().st_size / 2**20, 1),
        "header_ms_per_shard": round(described * 1e3, 2),
    }


def _write_shard(path: Path, shape: tuple[int, int, int]) -> None:
    from safetensors.numpy import save_file

    space = {"channels": CHANNELS, "scale": 0.13025, "shift": 0.0}
    samples = [
        {
            "key": f"{path.name}/{i:05d}.mp4#0",
            "content": f"{i:064x}",
            "captions": [CAPTION, CAPTION, CAPTION],
            "fps": 24.0,
        }
        for i in range(ROWS)
    ]
    metadata = {
        "stiv.cache": "1",
        "provenance": json.dumps({"encoder": "synthetic", "latents": space, "spec": {}}),
        "samples": json.dumps(samples),
    }
    latents = np.zeros((ROWS, CHANNELS, *shape), np.float16)
    save_file({"latents": latents, "micro": np.zeros((ROWS, 6), np.float32)}, path, metadata)


def measure(folder: str, workers: int) -> dict:
    """In a process of its own: seconds from its first line to a batch, and what it holds."""
    began = time.perf_counter()
    import torch  # noqa: F401 (what the loader imports when a batch is made)

    torch_memory = _resident()
    import grain  # noqa: F401 (what the loader imports when it is made)

    from training.data.loader import CacheDataset, Loader
    from training.data.plan import Plan, StreamSpec

    imported, memory = time.perf_counter() - began, _resident()
    imported_cpu = time.process_time()
    data = CacheDataset(folder)
    opened = time.perf_counter() - began
    plan = Plan([StreamSpec(data, BATCH, 2), StreamSpec(data, BATCH, 1, still=True)], 0, STEPS)

    def start(step: int, batches: int = 0) -> dict:
        """Seconds to the first batch and clips/s of the following, MiB of the largest worker."""
        clock = time.perf_counter()
        with Loader(plan, 0, world=WORLD, start_step=step, workers=workers) as loader:
            next(loader)
            first = time.perf_counter()
            for _ in range(batches):
                next(loader)
            rate = batches * BATCH / WORLD / (time.perf_counter() - first)
            peaks = [_resident("VmHWM", child.pid) for child in multiprocessing.active_children()]
        return {"first": first - clock, "rate": rate, "worker": max(peaks, default=0)}

    first = start(0)["first"]
    first_cpu = time.process_time() - imported_cpu
    row = {
        "what": f"load, {workers} workers",
        "imports_s": round(imported, 2),
        "open_s": round(opened - imported, 2),
        "first_batch_s": round(opened - imported + first, 2),
        "first_batch_cpu_s": round(first_cpu, 2),
        "with_imports_s": round(opened + first, 2),
    }
    if not workers:
        steps = np.random.default_rng(0).integers(STEPS - 1000, size=20)
        resumes = [start(int(step))["first"] for step in steps]
        row["resume_median_s"] = round(median(resumes), 3)
        row["resume_worst_s"] = round(max(resumes), 3)
    busy = time.process_time()
    later = start(STEPS // 2, 100)
    busy = time.process_time() - busy
    peak = _resident("VmHWM")
    return {
        **row,
        "clips_per_s": round(later["rate"], 1),
        "cpu_ms_per_clip": round(busy / (101 * BATCH / WORLD) * 1e3, 2),
        "torch_mib": round(torch_memory),
        "imports_mib": round(memory),
        "peak_mib": round(peak),
        "added_mib": round(peak - memory),
        "worker_peak_mib": round(later["worker"]),
    }


def _resident(what: str = "VmRSS", process: int | str = "self") -> float:
    """MiB of a process, from Linux's /proc."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {what} in /proc/{process}/status: measure on Linux")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
