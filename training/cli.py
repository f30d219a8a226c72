"""`python -m training`: from a folder of clips to a checkpoint that opens in ComfyUI.

    doctor, cache latents, cache text, train, export     with --config recipe.yaml
    sample, score                                        with --checkpoint file.safetensors
    ablations                                            the paper's tables, and how to train a row
    eval                                                 measures, benchmarks and comparisons
    data scan, data segment, data features, …            raw video into clips worth training on

Every command can be stopped and run again. training/README.md tells the whole way.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from . import commands
from .engine.cli import add_commands as add_data_commands
from .evaluation.commands import add_eval
from .options import add_sampler_options


def main(argv: list[str] | None = None) -> None:
    """The command line; a bad config or missing file ends in one line, before any work."""
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("training").setLevel(logging.INFO)  # libraries only warn
    try:
        sys.exit(args.run(args))
    except ModuleNotFoundError as error:
        install = f"{Path(sys.executable).name} -m pip install {error.name}"
        sys.exit(
            f"python -m training {args.command}: the package {error.name} is missing: {install}"
        )
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"python -m training {args.command}: {error}")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = top.add_subparsers(dest="command", required=True)
    _add_recipe_commands(names)
    _add_checkpoint_commands(names)
    _add_ablations(names)
    add_data_commands(names)
    add_eval(names)
    return top


def _add_recipe_commands(names) -> None:
    doctor = names.add_parser("doctor", help="check data, files, memory, and train one step")
    doctor.set_defaults(run=commands.doctor)
    cache = names.add_parser("cache", help="encode clips or captions once, before training")
    cache.set_defaults(run=commands.cache)
    cache.add_argument("what", choices=["latents", "text"])
    cache.add_argument("--part", default="0/1", metavar="I/N", help="one of N writers at once")
    cache.add_argument(
        "--stale",
        choices=["refuse", "rewrite"],
        default="refuse",
        help="shards made by another encoder or from clips cut otherwise",
    )
    cache.add_argument(
        "--prune", action="store_true", help="latents, part 0: drop samples whose clips are gone"
    )
    cache.add_argument("--workers", type=int, default=2, help="decoding processes")
    cache.add_argument("--dump", type=Path, help="write what is trained on here, encode nothing")
    cache.add_argument("--count", type=int, default=16, help="clips of --dump")
    train = names.add_parser("train", help="train, or continue a run that was stopped")
    train.set_defaults(run=commands.train)
    train.add_argument("--threads", type=int, help="CPU threads")
    train.add_argument("--until", type=int, help="stop after this step")
    train.add_argument("--dry-run", action="store_true", help="say what would be done")
    train.add_argument(
        "--allow-changes", action="store_true", help="continue a run with other settings"
    )
    train.add_argument(
        "--help-config", action="store_true", help="print every key of a recipe, and stop"
    )
    export = names.add_parser("export", help="write a run's weights as a checkpoint")
    export.set_defaults(run=commands.export)
    export.add_argument("--vae", type=Path, help="a TAESD file to put inside")
    lora = names.add_parser("lora-export", help="write a LoRA run's adapters")
    lora.set_defaults(run=commands.lora_export)
    for command in (export, lora):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--weights", choices=["ema", "raw"], default="ema")
    for command in (doctor, cache, train, export, lora):
        command.add_argument("--config", type=Path, help="YAML recipe")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting"
        )


def _add_checkpoint_commands(names) -> None:
    sample = names.add_parser("sample", help="render prompts with a checkpoint")
    sample.set_defaults(run=commands.sample)
    sample.add_argument("--prompt", action="append", required=True, help="repeat for several")
    sample.add_argument("--image", type=Path, help="picture that the video starts with")
    sample.add_argument("--frames", type=int, help="default: the most it was trained for")
    sample.add_argument("--height", type=int)
    sample.add_argument("--width", type=int)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--fps", type=float, default=8.0)
    sample.add_argument("--out", type=Path, required=True, help="folder")
    sample.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    score = names.add_parser(
        "score", help="score a checkpoint of the shapes domain; the last line is JSON"
    )
    score.set_defaults(run=commands.score)
    score.add_argument("--count", type=int, default=256, help="held-out prompts")
    for command, scale in ((sample, 7.5), (score, 4.0)):
        add_sampler_options(command, scale)


def _add_ablations(names) -> None:
    ablations = names.add_parser(
        "ablations", help="the paper's ablation tables, with the cost of every row"
    )
    ablations.set_defaults(run=commands.ablations)
    ablations.add_argument("row", nargs="?", help="one row, as t2i/rope")
    how = ablations.add_mutually_exclusive_group()
    how.add_argument("--recipe", action="store_true", help="the command that trains the row")
    how.add_argument("--markdown", action="store_true", help="the tables as docs/ablations.md")
