"""The commands `import` and `export`: between PixArt-alpha, Open-Sora 1.0 and STIV checkpoints."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..public import LATENT_SPACES
from ..tensor_file import byte_count, write_tensors
from .console import ProgressLine, add_output, check_output, finish, writing
from .export import diffusers_config, export_tensors
from .foreign import import_weights
from .recognise import Settings
from .source import open_source, write_json
from .weights import Weights

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_commands(names: argparse._SubParsersAction) -> None:
    """`import` and `export`."""
    take = names.add_parser(
        "import",
        help="PixArt-alpha (256, 512 px) or Open-Sora 1.0 to a STIV checkpoint",
        description="Turn released weights into a STIV checkpoint of the same function. Takes the "
        "original .pth, .safetensors (also shards, by their index), or a folder of diffusers.",
    )
    take.set_defaults(run=run_import)
    take.add_argument("source", type=Path, help="file or diffusers folder")
    add_output(take)
    take.add_argument("--size", type=int, help="trained pixels a side, where the file does not say")
    take.add_argument("--frames", type=int, help="trained frames, for the card")
    take.add_argument("--heads", type=int, help="attention heads, for a width other than XL/2's")
    take.add_argument(
        "--weights",
        choices=["auto", "ema", "raw"],
        default="auto",
        help="which, where a training checkpoint holds both; auto: averaged",
    )
    take.add_argument("--dtype", choices=list(DTYPES), help="of the weights; default: as they are")
    take.add_argument("--latents", choices=list(LATENT_SPACES), help="default: sd")
    take.add_argument("--license", help="default: what the file says, else that of the release")
    take.add_argument("--title", help="default: family and size")

    give = names.add_parser(
        "export",
        help="a STIV checkpoint with PixArt-alpha's or Open-Sora's switches, under their names",
    )
    give.set_defaults(run=run_export)
    give.add_argument("source", type=Path, help="STIV checkpoint")
    give.add_argument(
        "--to",
        choices=["original", "diffusers"],
        default="original",
        help="names of the original release (a file), or a folder of diffusers",
    )
    give.add_argument("--out", type=Path, required=True, help=".safetensors file, or new folder")
    give.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    give.add_argument("--dry-run", action="store_true", help="only say what would be written")


def run_import(args: argparse.Namespace) -> None:
    """Import, or say what would be."""
    check_output(args)
    settings = Settings(
        size=args.size,
        frames=args.frames,
        heads=args.heads,
        latents=args.latents,
        dtype=DTYPES.get(args.dtype),
        license=args.license,
        title=args.title,
    )
    source = open_source(args.source, args.weights)
    with ProgressLine() as progress:
        weights = import_weights(source, settings, None if args.dry_run else progress)
    finish(args, weights)


def run_export(args: argparse.Namespace) -> None:
    """Export, or say what would be."""
    is_folder = args.to == "diffusers"
    if not is_folder:
        check_output(args)
    elif args.out.exists() or not args.out.parent.is_dir():
        raise ValueError(f"--out {args.out}: expected a folder that is not there yet")
    weights = Weights.read(args.source)
    tensors = export_tensors(weights, args.to)
    if args.dry_run:
        print(f"would write {args.out} with {len(tensors)} tensors")
        return
    said = {key: weights.card.modelspec.get(key) for key in ("title", "license")}
    metadata = {"format": "pt"} | {f"modelspec.{k}": v for k, v in said.items() if v}
    with writing(args.out, byte_count(tensors)) as progress:
        if not is_folder:
            write_tensors(args.out, metadata, tensors, progress)
        else:
            with _new_folder(args.out) as folder:
                write_json(folder / "config.json", diffusers_config(weights.card))
                path = folder / "diffusion_pytorch_model.safetensors"
                write_tensors(path, metadata, tensors, progress)
    print(f"wrote {args.out} with {len(tensors)} tensors")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that is there whole when the block ends without an error, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
