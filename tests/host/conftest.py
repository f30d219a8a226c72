"""Pages of the real front end, in both renderers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from scripts.host import ComfyServer
from tests.host.front_end import FrontEnd, front_ends
from tests.hosting import find_chromium


@pytest.fixture(scope="module")
def new_page(server: ComfyServer) -> Iterator[Callable[[], FrontEnd]]:
    # one module wide: while it lives, Playwright keeps an event loop running in this thread
    with front_ends(server, find_chromium()) as new:
        yield new


@pytest.fixture(scope="module")
def pages(new_page: Callable[[], FrontEnd]) -> dict[bool, FrontEnd]:
    return {vue_nodes: new_page().open(vue_nodes=vue_nodes) for vue_nodes in (False, True)}


@pytest.fixture(params=[False, True], ids=["canvas", "nodes2"])
def browser(request: pytest.FixtureRequest, pages: dict[bool, FrontEnd]) -> Iterator[FrontEnd]:
    """A page in each renderer; whatever a test does there, the console has no error of it."""
    page = pages[request.param]
    page.errors.clear()
    yield page
    assert page.errors == []
