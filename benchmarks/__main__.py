"""`make bench` or `python -m benchmarks [CASE …]`: run the cases, print each as one JSON line.

--record also writes each case to benchmarks/results/<case>.json, which `python -m benchmarks.plots`
draws. What is measured and where it stands is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os

from . import (
    accelerations,
    analytic,
    checkpointing,
    convert,
    data_engine,
    forward,
    forward_image,
    forward_video,
    gpu,
    growth,
    import_time,
    loader,
    long_video,
    low_memory,
    masking,
    memory,
    optimizer,
    record,
    sample,
    timeline_drag,
    train_step,
)

CASES = {
    "accelerations": accelerations.run,
    "analytic": analytic.run,
    "checkpointing": checkpointing.run,
    "convert": convert.run,
    "data_engine": data_engine.run,
    "forward": forward.run,
    "forward_image": forward_image.run,
    "forward_video": forward_video.run,
    "gpu_forward": gpu.run_forward,
    "gpu_training": gpu.run_training,
    "growth": growth.run,
    "import_time": import_time.run,
    "loader": loader.run,
    "long_video": long_video.run,
    "low_memory": low_memory.run,
    "masking": masking.run,
    "memory": memory.run,
    "optimizer": optimizer.run,
    "sample": sample.run,
    "timeline_drag": timeline_drag.run,
    "train_step": train_step.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the results as well")
    options = record.chosen(parser, CASES)
    print(json.dumps(record.machine()), flush=True)
    for name in options.cases:
        before, rows = record.machine(), []
        for row in CASES[name]():
            rows.append({**row, "load": round(os.getloadavg()[0], 1)})
            print(json.dumps({"case": name, **rows[-1]}, ensure_ascii=False), flush=True)
        if options.record:
            record.write(name, before, rows)


if __name__ == "__main__":
    main()
