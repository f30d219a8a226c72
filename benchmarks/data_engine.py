"""What the data engine costs per second of video, step by step, and what it holds in memory.

Each step runs in a process of its own with one thread, as a worker does, on footage made here: a
texture that moves, with the grain of a camera, in H.264 of 24 frames per second. Times are of the
processor: what another process on the same core takes does not count. Decoding is shared by the
features that run together, so it is told by itself, too.

The peak of memory is that of a process that does all steps on a clip of 4K; a clip four times as
long must not take more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FPS = 24
SIZES = {"360p": (360, 640), "1080p": (1080, 1920), "4k": (2160, 3840)}
SECONDS = {"360p": 10, "1080p": 10, "4k": 4}
LONG = 4  # times as long a clip of 4K
FEATURES = ("motion", "clarity", "picture", "text")
ALONE = (("probe",), ("fingerprint",), ("segments",), *((name,) for name in FEATURES), FEATURES)
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}


def run() -> Iterator[dict]:
    """A row for each size and step, one for each clip of 4K, one for 90 million clips."""
    with tempfile.TemporaryDirectory(prefix="stiv-bench-engine-") as name:
        folder = Path(name)
        for size, seconds in SECONDS.items():
            write_clip(folder / f"{size}.mp4", *SIZES[size], seconds)
        write_clip(folder / "4k-long.mp4", *SIZES["4k"], LONG * SECONDS["4k"])
        costs = {}
        for size in ("360p", "1080p"):
            for row in _measure(folder / f"{size}.mp4", "steps"):
                costs[size, row["steps"]] = row["cpu_s_per_s"]
                yield {"what": "step", "size": size, **row}
        for clip in ("4k", "4k-long"):
            for row in _measure(folder / f"{clip}.mp4", "memory"):
                yield {"what": "memory", "clip": clip, **row}
        yield _plan(costs)


def write_clip(path: Path, height: int, width: int, seconds: float) -> None:
    """A texture that moves by a hundredth of the width per second, with grain."""
    import av
    from scipy.ndimage import zoom

    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 226, (height // 8 + 2, width // 8 + 2, 3)).astype(np.float32)
    wide = zoom(coarse, (8, 8, 1), order=1)[:, : width + 8]
    grain = rng.normal(0, 3, (4, height, width, 1)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = 2 * FPS
        stream.options = {"preset": "veryfast", "crf": "23"}
        for index in range(round(seconds * FPS)):
            moved = np.roll(wide, -round(index * width / 100 / FPS), axis=1)[:height, :width]
            pixels = (moved + grain[index % 4]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _measure(path: Path, what: str) -> Iterator[dict]:
    command = [sys.executable, "-m", "benchmarks.data_engine", str(path), what]
    environment = {**os.environ, **_ENVIRONMENT}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    yield from map(json.loads, result.stdout.splitlines())


def measure(path: Path, what: str) -> Iterator[dict]:
    """In a process of its own: the cost of every step, or the peak of memory of all of them."""
    from training.engine import job
    from training.engine.step import make_step

    def done(names: tuple[str, ...], row: dict) -> dict:
        steps = [make_step(name) for name in names]
        reply, _ = job.answer(job.request(steps, row, path.parent, 600.0))
        for name in names:
            if "error" in reply["sections"][name]:
                raise RuntimeError(f"{path.name}: {name}: {reply['sections'][name]['error']}")
        return reply

    row = {"id": "a", "source": {"path": path.name, "size": path.stat().st_size}}
    before = _peak()
    for names in ALONE:
        reply = done(names, row)  # models are loaded
        if what == "steps":
            began = time.process_time()
            reply = done(names, row)
            spent = time.process_time() - began
            clock = reply["clock"]
            length = row.get("probe", reply["sections"].get("probe"))["seconds"]
            yield {
                "steps": "+".join(names),
                "cpu_s_per_s": round(spent / length, 4),
                "times_real_time": round(length / spent, 1),
                "decoding_share": round(clock["decoding"] / clock["seconds"], 3),
                "converting_share": round(clock["converting"] / clock["seconds"], 3),
                "frames": clock["frames"],
            }
        if names == ("probe",):
            row = {**row, **reply["sections"]}
    if what == "memory":
        yield {"frames": row["probe"]["frames"], "before_mib": before, "peak_mib": _peak()}


def _peak() -> int:
    """MiB, from Linux's /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024)
    raise RuntimeError("no VmHWM in /proc/self/status: measure on Linux")


def _plan(costs: dict[tuple[str, str], float]) -> dict:
    """Core hours for 90 million clips of 1080p, of 5 seconds each, from what was measured."""
    hours = 90e6 * 5 / 3600
    steps = {name: costs["1080p", name] for name in ("probe", "segments", "+".join(FEATURES))}
    return {
        "what": "90 million clips of 5 s, 1080p",
        "hours_of_video": round(hours),
        **{f"{name}_core_hours": round(cost * hours) for name, cost in steps.items()},
    }


if __name__ == "__main__":
    for found in measure(Path(sys.argv[1]), sys.argv[2]):
        print(json.dumps(found))
