"""`python -m training`: from procedural clips to a checkpoint that opens in ComfyUI.

python -m training train  --config training/recipes/nano.yaml
python -m training export --config training/recipes/nano.yaml --vae vae.safetensors --out …
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from .config import load_config
from .evaluation.score import evaluate, report
from .export import export
from .loop import DTYPES, Trainer
from .sampling import Sampler
from .vae import load_vae

BUNDLED = Path(__file__).parents[1] / "models" / "stiv_nano.safetensors"

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """The command line; a bad config or missing file ends in one line, before any work."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("train", _train, "train, or continue a run that was stopped"),
        ("export", _export, "write the averaged weights as a checkpoint"),
        ("score", _score, "score a checkpoint of the shapes domain; the last line is JSON"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        if name == "score":
            continue
        command.add_argument("--config", type=Path, required=True, help="YAML recipe")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting"
        )
    commands.choices["train"].add_argument("--threads", type=int, help="CPU threads")
    commands.choices["train"].add_argument("--until", type=int, help="stop after this step")
    commands.choices["export"].add_argument("--vae", type=Path, required=True)
    commands.choices["export"].add_argument("--out", type=Path, required=True)
    score = commands.choices["score"]
    score.add_argument("--checkpoint", type=Path, default=BUNDLED, help="all-in-one file")
    score.add_argument("--count", type=int, default=256, help="held-out prompts")
    score.add_argument("--steps", type=int, default=20, help="solver steps")
    score.add_argument("--guidance-scale", type=float, default=4.0)
    score.add_argument("--precision", choices=DTYPES, default="bf16")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"python -m training {args.command}: {error}")


def _train(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    trainer = Trainer(load_config(args.config, args.set))
    trainer.start()
    trainer.run(args.until)


def _export(args: argparse.Namespace) -> None:
    trainer = Trainer(load_config(args.config, args.set))
    trainer.load()
    card = export(trainer, load_vae(args.vae), args.out)
    log.info("wrote %s (%.1f MB)\n%s", args.out, args.out.stat().st_size / 1e6, card.summary())


def _score(args: argparse.Namespace) -> None:
    sampler = Sampler.from_checkpoint(
        args.checkpoint,
        dtype=DTYPES[args.precision],
        steps=args.steps,
        guidance_scale=args.guidance_scale,
    )
    report(evaluate(sampler.clips, sampler.codec, count=args.count))


if __name__ == "__main__":
    main()
