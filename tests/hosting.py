"""Bring the real ComfyUI and the pack into the test process.

Inside ComfyUI the pack is a package with a name of its own, and the absolute module `nodes` is
ComfyUI's. Both hold here too: tests write `import comfy.samplers`, `import nodes` (ComfyUI's) and
`from ComfyUI_STIV.nodes import frames` (ours); nothing is imported before a test asks for it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from scripts.prepare import ROOT

PACK = "ComfyUI_STIV"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class PackFinder(importlib.abc.MetaPathFinder):
    """Finds the checkout as the package `ComfyUI_STIV`, whatever its folder is called."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != PACK:
            return None
        return importlib.util.spec_from_file_location(
            fullname, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )


def install(comfyui: Path, base: Path) -> None:
    """Make `comfy` and the pack importable, on the CPU, with `base` for models and outputs."""
    sys.path.insert(0, str(comfyui))  # before the checkout, which has a folder `nodes` as well
    sys.meta_path.append(PackFinder())
    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = True
    args.base_directory = str(base)


def find_chromium() -> str | None:
    """The browser for the front-end tests: STIV_CHROMIUM, or an installed Chromium or Chrome."""
    named = os.environ.get("STIV_CHROMIUM")
    return named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
