"""ComfyUI-STIV: the extension's entry point.

ComfyUI reads the two names below. Nothing is imported before it asks for the nodes, so that tools
without a ComfyUI (test collection, linters, packagers) can import this folder as well.
"""

import logging

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    """The ComfyExtension with every node of the pack."""
    try:
        from .nodes import comfy_entrypoint as entrypoint
    except Exception:
        # the host reports the message alone; a report from a user needs the traceback
        logging.exception("ComfyUI-STIV could not be imported")
        raise
    return await entrypoint()
