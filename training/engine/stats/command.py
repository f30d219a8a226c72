"""`data stats`: its options, and what it does."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..work import Work

FOLDER = "report"  # in the work folder


def add_stats_command(steps) -> None:
    """Adds the command to those of `data`."""
    report = steps.add_parser("stats", help="a report on the segments, as a page and as JSON")
    report.set_defaults(run=stats)
    report.add_argument("--work", type=Path, required=True, help="folder of the engine's rows")
    report.add_argument("--media", type=Path, help="folder with the raw video, if it has moved")
    report.add_argument(
        "--rules",
        help="a YAML file, or a preset: what its thresholds would drop, without filtering; "
        "default: those that the segments were filtered by",
    )
    report.add_argument("--against", type=Path, help="stats.json of another run, to compare with")
    report.add_argument("--out", type=Path, help="folder of the report; default: in --work")
    report.add_argument("--name", help="title; default: the work folder's name")
    report.add_argument("--clips", type=int, default=6, help="in a row of a contact sheet")
    report.add_argument("--no-pictures", action="store_true", help="read rows only, no video")
    report.add_argument("--seed", type=int, default=0, help="of the clips drawn at random")
    report.add_argument("--workers", type=int, default=2, help="processes that decode")
    report.add_argument("--time-limit", type=float, default=60.0, help="seconds for a clip")


def stats(args: Namespace) -> None:
    """Write report.html and stats.json."""
    from ..filter import load_filter
    from .compare import read_figures
    from .report import FIGURES, PAGE, filtered_by, write_report

    if not 0 <= args.clips <= 50:
        raise ValueError(f"--clips is {args.clips}: expected 0 to 50")
    against = read_figures(args.against) if args.against else None
    work = Work.open(args.work, args.media, is_read=not args.no_pictures)
    work.need_segments()
    rules = load_filter(args.rules) if args.rules else filtered_by(work.rows())
    out = args.out or args.work / FOLDER
    figures = write_report(
        work.rows(),
        out,
        name=args.name or args.work.resolve().name,
        media=None if args.no_pictures else work.media,
        files=work.rows("files"),
        rules=rules,
        against=against,
        size=args.clips,
        seed=args.seed,
        workers=args.workers,
        limit=args.time_limit,
    )
    totals, drops = figures["totals"], figures["filter"]
    print(f"{totals['rows']} segments, {totals['seconds'] / 3600:.2f} h")
    if drops["rows"]:
        print(f"{drops['kept']} of {drops['rows']} filtered segments are kept")
        if rules is None:
            print("by rules that are no preset of this version: name their file by --rules")
    print(f"{out / PAGE}\n{out / FIGURES}")
