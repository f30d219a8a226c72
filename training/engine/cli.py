"""The options of `python -m training data …`.

scan, segment, features, caption, categorize, dsg     add to the rows, in this order
filter, stats, export                                 as often as one likes
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import commands
from .export import CAPTIONS
from .features import FEATURES
from .language.commands import add_language_commands
from .stats.command import add_stats_command

EXECUTORS = ("local", "datatrove", "slurm", "ray")


def add_commands(names) -> None:
    """Adds `data` and its steps to the commands of `python -m training`."""
    data = names.add_parser(
        "data",
        help="from raw video to captioned, scored, filtered clips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = data.add_subparsers(dest="step", required=True)
    _add_scan(steps)
    _add_segment(steps)
    _add_features(steps)
    add_language_commands(steps, add_running, _add_media)
    _add_rest(steps)
    add_stats_command(steps)


def _add_scan(steps) -> None:
    scan = steps.add_parser("scan", help="find the files: size, rate, hash, duplicates")
    scan.set_defaults(run=commands.scan)
    scan.add_argument("--format", choices=["folder", "frames", "webdataset"], default="folder")
    scan.add_argument("--shard-files", type=int, default=100, help="files that one task works on")
    add_running(scan)
    _add_media(scan, required=True)


def _add_segment(steps) -> None:
    segment = steps.add_parser("segment", help="cut the files at cuts, fades and dissolves")
    segment.set_defaults(run=commands.segment)
    segment.add_argument("--min-seconds", type=float, help="default: 2")
    segment.add_argument("--max-seconds", type=float, help="default: 10")
    add_running(segment)
    _add_media(segment)


def _add_features(steps) -> None:
    features = steps.add_parser("features", help="motion, clarity, text, picture, aesthetic")
    features.set_defaults(run=commands.features)
    features.add_argument("--only", nargs="+", choices=FEATURES, default=[*FEATURES])
    features.add_argument("--clip", type=Path, help="folder of a CLIP, as transformers saves it")
    features.add_argument("--aesthetic", type=Path, help="LAION's predictor, .safetensors")
    features.add_argument("--device", default="cpu", help="of the CLIP; default: cpu")
    add_running(features)
    _add_media(features)


def _add_rest(steps) -> None:
    chosen = steps.add_parser("filter", help="which segments are kept, and why others are not")
    chosen.set_defaults(run=commands.filter_rows)
    chosen.add_argument("rules", help="a YAML file, or a preset: pretrain, sft20k")
    _add_work(chosen)
    export = steps.add_parser("export", help="list the kept segments for the trainer")
    export.set_defaults(run=commands.export)
    export.add_argument("--out", type=Path, required=True, help="metadata.jsonl to write")
    export.add_argument(
        "--captions", nargs="+", choices=CAPTIONS, default=[*CAPTIONS], help="in this order"
    )
    _add_work(export)
    _add_media(export)
    merge = steps.add_parser("merge", help="bring the rows of several runs together")
    merge.set_defaults(run=commands.merge)
    merge.add_argument("rows", nargs="+", type=Path, help="work folders, or files of rows")
    where = merge.add_mutually_exclusive_group(required=True)
    where.add_argument("--into", type=Path, help="work folder that gets the others' sections")
    where.add_argument("--out", type=Path, help="file of all rows of the files named")
    status = steps.add_parser("status", help="how far each step is")
    status.set_defaults(run=commands.status)
    _add_work(status)


def _add_work(command: argparse.ArgumentParser) -> None:
    command.add_argument("--work", type=Path, required=True, help="folder of the engine's rows")


def _add_media(command: argparse.ArgumentParser, required: bool = False) -> None:
    where = "folder with the raw video" + ("" if required else ", where it is not as scanned")
    command.add_argument("--media", type=Path, required=required, help=where)


def add_running(command: argparse.ArgumentParser) -> None:
    """The options of every step that runs over rows."""
    _add_work(command)
    command.add_argument("--workers", type=int, default=2, help="processes, of each task")
    command.add_argument("--time-limit", type=float, default=120.0, help="seconds for a row")
    command.add_argument("--retry", action="store_true", help="also rows that failed before")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.KEY=VALUE",
        help="change a setting of a step, as motion.rate=12",
    )
    command.add_argument(
        "--executor", choices=EXECUTORS, default="local", help="what runs the shards (datatrove)"
    )
    command.add_argument("--tasks", type=int, default=1, help="that share the shards")
    command.add_argument(
        "--at-once", type=int, default=-1, help="tasks that run at a time; default: all"
    )
    command.add_argument("--partition", help="of Slurm")
    command.add_argument("--task-time", default="24:00:00", help="of Slurm, for a task")
    command.add_argument("--task-memory", type=int, default=4, help="GB for each worker of a task")
    command.add_argument("--task-gpus", type=int, default=0, help="GPUs of a task")
