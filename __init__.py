"""ComfyUI-STIV: the extension's entry point.

ComfyUI imports this folder as a package and reads the two names below. Tools that import it
without ComfyUI (test collection, linters, packagers) get an importable, empty package.
"""

import importlib.util

__all__ = ["WEB_DIRECTORY"]

WEB_DIRECTORY = "./js"

if __package__ and importlib.util.find_spec("comfy_api") is not None:
    from .nodes import comfy_entrypoint

    __all__ += ["comfy_entrypoint"]
