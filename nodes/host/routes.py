"""What the pack's widgets ask the server: `/stiv/…`, GET only, JSON, nothing is changed by it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from aiohttp import web

from ...stiv.header import parse_json
from ...stiv.plan_view import plan_view
from ...stiv.prompts import quote
from ..plan import plan_of_inputs
from .cards import card_of
from .pictures import look_up
from .verify import verification_of

MAX_NAME = 1024  # characters
MAX_INPUTS = 400_000  # bytes of JSON, unpacked
MAX_ITEMS = 100_000
INPUTS, MAX_PARTS = "STIV-Inputs-{}", 8
"""Headers that inputs come in, in order: an address could only hold some kilobytes of them."""
_NOT_FOUND, _BAD_REQUEST, _SERVER_ERROR = 404, 400, 500


def add_routes() -> None:
    """Register the routes, where there is a server: scripts that only import the nodes have none.

    Called once, before the server collects its routes.
    """
    from server import PromptServer  # the host's; imported late, for it starts the web stack

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get("/stiv/card")(_card)
        server.routes.get("/stiv/verify")(_verify)
        server.routes.get("/stiv/plan")(_plan)
        server.routes.get("/stiv/picture")(_picture)


async def _card(request: web.Request) -> web.Response:
    """?folder=checkpoints|diffusion_models&name=…: the card of a file that the loaders offer."""
    query = request.query
    folder, name = query.get("folder", ""), query.get("name", "")
    return await _answer(lambda: card_of(folder[:MAX_NAME], name[:MAX_NAME]))


async def _verify(request: web.Request) -> web.Response:
    """?folder=…&name=…, as for /stiv/card: whether the file's tensors are those of its card.

    Answers at once how far it is; ask again while its state is "running".
    """
    query = request.query
    folder, name = query.get("folder", ""), query.get("name", "")
    return await _answer(lambda: verification_of(folder[:MAX_NAME], name[:MAX_NAME]))


async def _plan(request: web.Request) -> web.Response:
    """?node=STIVLongVideoPlan: {"plan": …}, what a plan node would plan with the inputs in the
    headers, or {"error": one line} where they make no plan.

    Inputs are a JSON table by their names, deflated (zlib), in base64 for URLs; plus what the node
    would learn from what is wired to it, see `stiv.plan_view`.
    """
    node = request.query.get("node", "")
    packed = "".join(request.headers.get(INPUTS.format(part), "") for part in range(MAX_PARTS))
    return await _answer(lambda: _planned(node[:MAX_NAME], packed))


_one_at_a_time = threading.Lock()  # a browser that asks often must not slow a run


@lru_cache(maxsize=32)
def _planned(node: str, packed: str) -> dict[str, Any]:
    inputs = parse_json(_unpacked(packed), max_items=MAX_ITEMS)
    if not isinstance(inputs, dict):
        raise ValueError(f"inputs are {quote(inputs)}: expected a table by the inputs' names")
    try:
        with _one_at_a_time:
            return {"plan": plan_view(plan_of_inputs(node, inputs))}
    except ValueError as error:  # an answer too: the artist is told while typing
        return {"error": " ".join(str(error).split())}


def _unpacked(packed: str) -> str:
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(base64.urlsafe_b64decode(packed + "=="), MAX_INPUTS)
        text = data.decode()
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"inputs cannot be unpacked: {error}") from None
    if unpack.unconsumed_tail or not unpack.eof:
        raise ValueError(f"inputs are incomplete, or longer than {MAX_INPUTS:,} bytes")
    return text


async def _picture(request: web.Request) -> web.Response:
    """?file=…: SHA-256 and number of frames of a picture or clip in the input folder, or
    {"error", "missing"}."""
    file = request.query.get("file", "")
    return await _answer(lambda: look_up(file[:MAX_NAME]))


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
