"""The options of `python -m training data …`."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import commands
from .language.commands import add_language_commands


def add_commands(names) -> None:
    """Adds `data` and its steps to the commands of `python -m training`."""
    data = names.add_parser(
        "data", help="from raw video to captioned, scored, filtered clips", description=__doc__
    )
    steps = data.add_subparsers(dest="step", required=True)
    scan = steps.add_parser("scan", help="find the files: size, rate, hash, duplicates")
    scan.set_defaults(run=commands.scan)
    scan.add_argument("--format", choices=["folder", "frames", "webdataset"], default="folder")
    scan.add_argument("--shard-files", type=int, default=100, help="files of a shard")
    for command in (scan,):
        _add_running(command)
    scan.add_argument("--media", type=Path, required=True, help="folder with the raw video")
    add_language_commands(steps, _add_running)


def _add_running(command: argparse.ArgumentParser) -> None:
    command.add_argument("--work", type=Path, required=True, help="folder of the engine's rows")
    command.add_argument("--workers", type=int, default=2, help="processes")
    command.add_argument("--time-limit", type=float, default=120.0, help="seconds for a row")
    command.add_argument("--retry", action="store_true", help="also rows that failed before")
