"""The real front end opens and runs every workflow that the pack ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.host import PACK_NAME, ComfyServer
from tests.host.front_end import FrontEnd, front_end
from tests.host.shipped import NAMES
from tests.hosting import find_chromium


@pytest.fixture(scope="module")
def browser(server: ComfyServer) -> Iterator[FrontEnd]:
    # one module wide: while it lives, Playwright keeps an event loop running in this thread
    with front_end(server, find_chromium()) as page:
        yield page


@pytest.fixture(scope="module")
def tolerated(browser: FrontEnd) -> set[str]:
    """What the front end's console says about an empty graph, in either renderer."""
    for vue_nodes in (False, True):
        browser.open(vue_nodes=vue_nodes)
    return set(browser.errors)


def new_errors(browser: FrontEnd, tolerated: set[str]) -> list[str]:
    return [error for error in browser.errors if error not in tolerated]


def test_starts_without_an_error_of_the_pack(browser: FrontEnd, tolerated: set[str]) -> None:
    assert not [error for error in tolerated if "STIV" in error or "/extensions/" in error]


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["canvas", "nodes2"])
@pytest.mark.parametrize("name", NAMES)
def test_workflow_opens_and_runs(
    name: str,
    vue_nodes: bool,
    browser: FrontEnd,
    tolerated: set[str],
    server: ComfyServer,
    artifacts: Path,
) -> None:
    browser.open(vue_nodes=vue_nodes)
    browser.load(name)
    assert browser.missing_nodes() == []

    run = server.wait(browser.press_run())
    assert run.files, "the workflow saved nothing"
    browser.wait_for_preview(run.files[-1].name)
    browser.screenshot(artifacts / f"{name}_{'nodes2' if vue_nodes else 'canvas'}.png")
    assert new_errors(browser, tolerated) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_front_end_queues_what_the_other_tests_run(
    name: str, browser: FrontEnd, server: ComfyServer
) -> None:
    """The converter of `run_workflow` and the real front end make the same prompt."""
    browser.open()
    browser.load(name)
    shown = browser.prompt()
    workflow = server.get(f"/api/workflow_templates/{PACK_NAME}/{name}.json")
    queued = server.to_prompt(workflow)
    for prompt in (shown, queued):
        for node in prompt.values():
            node.pop("_meta", None)
    assert queued == shown
