"""Words for the artist: on the node in the browser, and in the log."""

from __future__ import annotations

import logging


def tell(node: type, text: str) -> None:
    """Show `text` on the running node, if a server is there to ask, and log it."""
    logging.info("STIV: %s", text)
    from server import PromptServer  # the host's; imported late, for it starts the web stack

    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None:
        server.send_progress_text(text, node.hidden.unique_id)
