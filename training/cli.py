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
from .export import export
from .loop import Trainer
from .vae import load_vae

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """The command line; a bad config or missing file ends in one line, before any work."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("train", _train, "train, or continue a run that was stopped"),
        ("export", _export, "write the averaged weights as a checkpoint"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("--config", type=Path, required=True, help="YAML recipe")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting"
        )
    commands.choices["train"].add_argument("--threads", type=int, help="CPU threads")
    commands.choices["train"].add_argument("--until", type=int, help="stop after this step")
    commands.choices["export"].add_argument("--vae", type=Path, required=True)
    commands.choices["export"].add_argument("--out", type=Path, required=True)
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


if __name__ == "__main__":
    main()
