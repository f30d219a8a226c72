"""What the commands of `python -m training data` do. Each imports only what it needs."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from .work import Work


def scan(args: Namespace) -> None:
    """List, probe and fingerprint the files; mark duplicates."""
    from .duplicates import mark_duplicates
    from .scan import list_files

    work = Work.create(args.work, args.media)
    print(f"{list_files(work, args.format, shard_files=args.shard_files)} files new or changed")
    run_steps(args, work, ["probe"])
    run_steps(args, work, ["fingerprint"])
    print(f"{mark_duplicates(work)} files show what another shows")


def run_steps(
    args: Namespace, work: Work, names: list[str], settings: dict[str, Any] | None = None
) -> None:
    """Run steps with the options that every step has. settings: of each of them."""
    from .run import run
    from .step import make_step

    report = run(
        work,
        [make_step(name, settings) for name in names],
        workers=args.workers,
        limit=args.time_limit,
        retry=args.retry,
    )
    print(report.summary())
