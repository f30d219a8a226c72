"""Words for the artist: on the node in the browser, and in the log."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context


def tell(node: type, text: str) -> None:
    """Show `text` on the running node, if a server is there to ask, and log it."""
    logging.info("STIV: %s", text)
    if node.hidden is not None:
        _show(text, node.hidden.unique_id)


def warn(text: str) -> None:
    """Warn on whatever node runs now (a sampler, say), and in the log."""
    logging.warning(text)
    running = get_executing_context()
    if running is not None:
        _show(f"⚠ {text}", running.node_id)


def _show(text: str, node_id: str) -> None:
    from server import PromptServer  # the host's; imported late, for it starts the web stack

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, node_id)
