"""What the pack's widgets ask the server: `/stiv/…`, GET only, JSON, nothing is changed by it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .cards import card_of

MAX_NAME = 1024  # characters
_NOT_FOUND, _BAD_REQUEST, _SERVER_ERROR = 404, 400, 500


def add_routes() -> None:
    """Register the routes, where there is a server: scripts that only import the nodes have none.

    Called once, before the server collects its routes.
    """
    from server import PromptServer  # the host's; imported late, for it starts the web stack

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get("/stiv/card")(_card)


async def _card(request: web.Request) -> web.Response:
    """?folder=checkpoints|diffusion_models&name=…: the card of a file that the loaders offer."""
    query = request.query
    folder, name = query.get("folder", ""), query.get("name", "")
    return await _answer(lambda: card_of(folder[:MAX_NAME], name[:MAX_NAME]))


async def _answer(work: Callable[[], Any]) -> web.Response:
    """The result of `work` as JSON, or {"error": one line}; in a thread, as disks can be slow."""
    try:
        return web.json_response(await asyncio.to_thread(work))
    except FileNotFoundError as error:
        return _error(error, _NOT_FOUND)
    except (ValueError, OSError) as error:  # a CheckpointError is a ValueError
        return _error(error, _BAD_REQUEST)
    except Exception as error:
        logging.exception("STIV: a question of the front end could not be answered")
        return _error(error, _SERVER_ERROR)


def _error(error: Exception, status: int) -> web.Response:
    text = str(error) or type(error).__name__
    return web.json_response({"error": " ".join(text.split())[:1000]}, status=status)
