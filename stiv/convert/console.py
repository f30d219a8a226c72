"""What the commands of `python -m stiv.convert` share: output files and progress."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..tensor_file import byte_count
from .weights import Weights

_EVERY = 0.2  # seconds between two lines of progress
_WIDTH = 24


def add_output(
    parser: argparse.ArgumentParser, what: str = "checkpoint", *, required: bool = True
) -> None:
    """The options of every command that writes a file: --out, --overwrite, --dry-run."""
    help_ = f"{what} to write (.safetensors)"
    parser.add_argument("--out", type=Path, required=required, help=help_)
    parser.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything and say what would be written"
    )


def check_output(args: argparse.Namespace) -> None:
    """Raise ValueError, before any work, for a place that cannot or must not be written to."""
    out: Path = args.out
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: expected a name that ends with .safetensors")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ValueError(f"--out {out}: is a folder; name a file in it")
    if out.exists() and not args.overwrite:
        raise ValueError(f"--out {out}: is there already; choose another name or add --overwrite")


def finish(args: argparse.Namespace, weights: Weights) -> None:
    """Write a command's result, or with --dry-run only say what it is."""
    if args.dry_run:
        print(f"would write {args.out}\n{weights.card.summary()}")
        return
    parts = (weights.diffusion_model, weights.text_encoder, weights.vae)
    with writing(args.out, sum(map(byte_count, parts))) as progress:
        card = weights.write(args.out, progress)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:,.1f} MB)\n{card.summary()}")


@contextmanager
def writing(out: Path, size: int) -> Iterator[ProgressLine]:
    """Around the making of a file or folder of `size` bytes, with the progress to tell.

    Raises ValueError, before anything is read, where the disk has no room for it, and for what
    the system says later.
    """
    free = shutil.disk_usage(out.parent).free
    if size > free:
        raise ValueError(
            f"--out {out}: {size / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free: make "
            "room, or choose a place on another disk"
        )
    try:
        with ProgressLine() as progress:
            yield progress
    except OSError as error:
        raise ValueError(f"--out {out}: could not be written: {error.strerror or error}") from error


class ProgressLine:
    """A line of progress on the terminal; nothing where errors go to a file."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._next, self._began, self._what = 0.0, 0.0, ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_shown and self._what:
            print(file=sys.stderr)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `done` of `total` bytes of a work."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._next = what, now, now
        if not self._is_shown or (now < self._next and done < total):
            return
        self._next = now + _EVERY
        share = done / total if total else 1.0
        bar = ("#" * int(share * _WIDTH)).ljust(_WIDTH, ".")
        left = (now - self._began) * (1 - share) / share if share else 0.0
        print(
            f"\r{what:>6} [{bar}] {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {left:.0f} s left ",
            end="",
            file=sys.stderr,
            flush=True,
        )
