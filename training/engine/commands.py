"""What the commands of `python -m training data` do. Each imports only what it needs."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .step import Step, make_step
from .work import Work

log = logging.getLogger(__name__)

CLIP = (
    "clip is left out: name a CLIP by --clip (openai/clip-vit-large-patch14 as transformers saves "
    "it) and LAION's predictor for it by --aesthetic (improved-aesthetic-predictor, as "
    ".safetensors); all other features work without"
)


def scan(args: Namespace) -> None:
    """List, probe and fingerprint the files; mark duplicates."""
    from .executors import mark
    from .scan import list_files

    probe, fingerprint = _steps(args, ["probe", "fingerprint"])
    fingerprint.check()  # before the files are read, which takes long
    work = Work.create(args.work, args.media)
    changed = list_files(work, args.format, shard_files=args.shard_files)
    print(f"{changed} files are new or have changed")
    probing = _execute(args, work, [probe])
    mark(args, work, after=_execute(args, work, [fingerprint], after=probing))


def segment(args: Namespace) -> None:
    """Cut the files into segments."""
    given = {"min_seconds": args.min_seconds, "max_seconds": args.max_seconds}
    settings = {name: value for name, value in given.items() if value is not None}
    work = Work.open(args.work, args.media)
    if _execute(args, work, _steps(args, ["segments"], {"segments": settings})) is None:
        print(f"{sum(1 for _ in work.rows())} segments")


def features(args: Namespace) -> None:
    """Measure the segments."""
    names = [name for name in args.only if name != "clip"]
    settings = {}
    if args.clip:
        names += ["clip"] if "clip" in args.only else []
        settings["clip"] = {
            "folder": str(args.clip.absolute()),
            "aesthetic": str(args.aesthetic.absolute()) if args.aesthetic else "",
            "device": args.device,
        }
    elif "clip" in args.only:
        log.warning(CLIP)
    if names:
        _execute(args, Work.open(args.work, args.media), _steps(args, names, settings))


def filter_rows(args: Namespace) -> None:
    """Say of every segment whether it is kept, and why not."""
    from .filter import load_filter, run_filter

    name, rules = load_filter(args.rules)
    work = Work.open(args.work, is_read=False)
    work.need_segments()
    print(run_filter(work, name, rules).summary())


def export(args: Namespace) -> None:
    """List the kept segments for the trainer."""
    from .export import export as write

    work = Work.open(args.work, args.media, is_read=False)
    work.need_segments()
    done = write(work, args.out, args.captions)
    print(f"{args.out}: {done.kept} clips; in the recipe's data.sets their media is {work.media}")
    if done.uncaptioned:
        print(f"{done.uncaptioned} of them have no caption")
    if done.in_tars:
        print(f"{done.in_tars} kept clips lie in tars, which a list cannot name: left out")
    if done.unfiltered:
        print(f"{done.unfiltered} segments were not filtered yet: left out")


def merge(args: Namespace) -> None:
    """Bring the rows of several runs together."""
    from .rows import merge_files

    if args.into:
        _merge_into(Work.open(args.into, is_read=False), args.rows)
        return
    print(f"{args.out}: {merge_files(args.rows, args.out)} rows")


def _merge_into(work: Work, others: Sequence[Path]) -> None:
    from .merging import merge_work

    work.need_segments()
    for folder in others:
        done = merge_work(work, Work.open(folder, is_read=False))
        print(f"{folder}: the sections of {done.taken} segments are in {work.folder}")
        if done.busy:
            print(
                f"another process works on {', '.join(done.busy)}: what it has not finished is "
                "left out. Merge again when it has ended"
            )
        if done.unknown:
            print(
                f"{done.unknown} segments are in no shard of the same number there: left out. Scan "
                "the same files with the same --shard-files and cut them alike"
            )


def status(args: Namespace) -> None:
    """Say how far each step is."""
    from .status import progress

    print(progress(Work.open(args.work, is_read=False)))


def run_steps(
    args: Namespace, work: Work, names: Sequence[str], settings: Mapping[str, Any] | None = None
) -> str | None:
    """Run steps with the options that every step has. settings: of each of them.

    Returns None where they have ended, else the job that was submitted, see `executors.execute`.
    """
    each = {name: dict(settings or {}) for name in names}
    return _execute(args, work, _steps(args, names, each))


def _steps(
    args: Namespace, names: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Step]:
    """The steps, with what `--set` changes of them."""
    from .options import parse_settings

    changed = parse_settings(args.set, names)
    return [
        make_step(name, {**(settings or {}).get(name, {}), **changed.get(name, {})})
        for name in names
    ]


def _execute(
    args: Namespace, work: Work, steps: Sequence[Step], after: str | None = None
) -> str | None:
    from .executors import execute

    return execute(args, work, steps, after)
