"""Packages that only some commands need: imported where used, named where missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

PACKAGES = {"cv2": "opencv-python-headless"}
"""What pip calls a module that has another name."""


def need(module: str) -> ModuleType:
    """The module. Raises ModuleNotFoundError whose name is what to give to pip."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        name = PACKAGES.get(missing, missing)
        raise ModuleNotFoundError(f"the package {name} is missing", name=name) from error
