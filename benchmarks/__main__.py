"""`make bench` or `python -m benchmarks [CASE …]`: run the cases, print each as one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import platform

import torch

from . import (
    analytic,
    convert,
    data_engine,
    forward,
    gpu,
    import_time,
    loader,
    long_video,
    low_memory,
    optimizer,
    timeline_drag,
)

CASES = {
    "analytic": analytic.run,
    "convert": convert.run,
    "data_engine": data_engine.run,
    "forward": forward.run,
    "gpu_forward": gpu.run_forward,
    "gpu_training": gpu.run_training,
    "import_time": import_time.run,
    "loader": loader.run,
    "long_video": long_video.run,
    "low_memory": low_memory.run,
    "optimizer": optimizer.run,
    "timeline_drag": timeline_drag.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES], help="default: all")
    names = parser.parse_args().cases or list(CASES)
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(machine), flush=True)
    for name in names:
        for row in CASES[name]():
            print(json.dumps({"case": name, **row}), flush=True)


if __name__ == "__main__":
    main()
