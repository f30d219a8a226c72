"""The pack's scripts in the browser: always those that are installed.

The host tells browsers not to keep `.js` files, but says nothing of the `.mjs` files that they
import: a browser may keep these for days. After an update of the pack, new scripts would then meet
old ones.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

PACK = Path(__file__).parents[2].name  # as the host calls it, who follows no links


def keep_fresh() -> None:
    """Have browsers ask whether a module of the pack is still the same, where there is a server.

    Called once, before the server starts.
    """
    from server import PromptServer  # the host's; imported late, for it starts the web stack

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.app.on_response_prepare.append(_ask_again)


async def _ask_again(request: web.Request, response: web.StreamResponse) -> None:
    if request.path.startswith(f"/extensions/{PACK}/") and request.path.endswith(".mjs"):
        response.headers.setdefault("Cache-Control", "no-cache")
