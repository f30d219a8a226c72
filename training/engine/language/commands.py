"""`data caption`, `data categorize`, `data dsg`: their options, and what they do."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..work import Work

KINDS = ("short", "dense", "motion")
_ANSWERS = "answers"  # folder in the work folder


def add_language_commands(steps, *add_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the three commands. add_options: each adds options that every step has."""
    captions = steps.add_parser("caption", help="captions of the segments, by a model that sees")
    captions.set_defaults(run=caption)
    captions.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=["dense"], help="default: dense"
    )
    category = steps.add_parser("categorize", help="a category of each segment, by its caption")
    category.set_defaults(run=categorize)
    dsg = steps.add_parser(
        "dsg", help="DSG-Video: the share of objects in the captions that are not in the clips"
    )
    dsg.set_defaults(run=dsg_video)
    dsg.add_argument("--question-model", type=Path, help="its YAML file; default: --model")
    dsg.add_argument("--question-prompt", type=Path, help="a file in place of dsg_questions.yaml")
    for command in (category, dsg):
        command.add_argument(
            "--caption",
            choices=[*KINDS, "source"],
            default="dense",
            help="which caption (source: that the data set had); default: dense",
        )
    for command in (captions, dsg):
        command.add_argument("--frames", type=int, default=8, help="frames that the model sees")
        command.add_argument("--side", type=int, default=448, help="pixels of their shorter side")
    for command in (captions, category, dsg):
        command.add_argument("--model", type=Path, help="YAML file: which model, and where it is")
        command.add_argument("--prompt", type=Path, help="a file in place of ours, see prompts/")
        command.add_argument("--answers", type=Path, help="kept answers; default: in --work")
        for add in add_options:
            add(command)


def caption(args: Namespace) -> None:
    """Caption every segment."""
    settings = {"frames": args.frames, "side": args.side}
    _run(args, [f"captions_{kind}" for kind in args.kinds], settings)


def categorize(args: Namespace) -> None:
    """Sort every segment into a category."""
    _run(args, ["categorize"], {"caption": args.caption})


def dsg_video(args: Namespace) -> None:
    """Look for what the captions mention, and print DSG-Video of the set."""
    from ..dsg import summary

    settings = {"frames": args.frames, "side": args.side}
    if args.question_model:
        settings["question_model"] = _model(args.question_model)
    if args.question_prompt:
        settings["question_prompt"] = str(args.question_prompt.absolute())
    work, has_ended = _run(args, [f"dsg_{args.caption}"], settings)
    if has_ended:
        print(summary(work.rows(), args.caption))
    else:
        print("when it has ended, the same command without --executor prints DSG-Video of the set")


def _model(path: Path) -> dict[str, Any]:
    from .settings import ModelSettings

    settings = ModelSettings.load(path)
    if settings.folder:  # engines for clusters work in folders of their own
        settings = settings.model_copy(update={"folder": settings.folder.absolute()})
    return settings.model_dump(mode="json")


def _run(args: Namespace, names: Sequence[str], settings: dict[str, Any]) -> tuple[Work, bool]:
    """The work folder, and whether the steps have ended: Slurm's job is only submitted."""
    from ..commands import run_steps
    from ..step import Unavailable
    from .answers import Answers

    work = Work.open(args.work, args.media)
    answers = Answers(args.answers or work.folder / _ANSWERS)
    settings = {**settings, "answers": str(answers.folder.absolute())}
    if args.model:
        settings["model"] = _model(args.model)
    if args.prompt:
        if len(names) > 1:
            raise ValueError(f"--prompt is of one kind of caption, and {len(names)} are asked for")
        settings["prompt"] = str(args.prompt.absolute())
    mark, job = answers.mark(), None
    try:
        job = run_steps(args, work, list(names), settings)
    except Unavailable as error:
        sys.exit(f"python -m training data {args.step}: {error}")
    finally:
        if job is None:
            print(answers.spent(mark).summary())
    return work, job is None
