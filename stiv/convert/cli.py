"""`python -m stiv.convert`: other models' weights to STIV checkpoints, and from one STIV
checkpoint to the next. Every command has --help, writes its file whole or not at all, and with
--dry-run only says what it would write."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

from ..header import printable
from . import card, casting, compare, exchange, init, soup, verify
from .lora import commands as lora

COMMANDS: tuple[ModuleType, ...] = (exchange, init, lora, casting, soup, compare, verify, card)
"""Modules with `add_commands(names)`, in the order of the help."""

_LONGEST = 2000  # characters of an error's line


def main(argv: list[str] | None = None) -> None:
    """The command line; what is wrong with a file or an option ends in one line."""
    args = parser().parse_args(argv)
    try:
        code = args.run(args)
    except (ValueError, OSError) as error:
        sys.exit(printable(f"python -m stiv.convert {args.command}: {error}", _LONGEST))
    except KeyboardInterrupt:
        sys.exit("\nstopped: nothing was written")
    if code:
        sys.exit(code)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="python -m stiv.convert", description=__doc__)
    names = top.add_subparsers(dest="command", required=True)
    for module in COMMANDS:
        module.add_commands(names)
    return top
