"""The real front end opens and runs every workflow that the pack ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
def host_errors(browser: FrontEnd) -> set[str]:
    """What the console says in either renderer without this pack's scripts."""
    errors: set[str] = set()
    for vue_nodes in (False, True):
        errors.update(browser.open(vue_nodes=vue_nodes, bare=True).errors)
    return errors


def test_starts_without_an_error_of_the_pack(browser: FrontEnd, host_errors: set[str]) -> None:
    assert set(browser.open().errors) <= host_errors


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["canvas", "nodes2"])
@pytest.mark.parametrize("name", NAMES)
def test_workflow_opens_and_runs(
    name: str,
    vue_nodes: bool,
    browser: FrontEnd,
    host_errors: set[str],
    server: ComfyServer,
    artifacts: Path,
) -> None:
    browser.open(vue_nodes=vue_nodes)
    browser.load(name)
    assert browser.missing_nodes() == []

    # the converter behind `run_workflow` and the front end make the same prompt of this file
    workflow = server.get(f"/api/workflow_templates/{PACK_NAME}/{name}.json")
    assert without_titles(server.to_prompt(workflow)) == without_titles(browser.prompt())

    run = server.wait(browser.press_run())
    assert run.files, "the workflow saved nothing"
    browser.wait_for_preview(run.files[-1].name)
    browser.screenshot(artifacts / f"{name}_{'nodes2' if vue_nodes else 'canvas'}.png")
    assert set(browser.errors) <= host_errors


def without_titles(prompt: dict[str, Any]) -> dict[str, Any]:
    return {
        id_: {key: value for key, value in node.items() if key != "_meta"}
        for id_, node in prompt.items()
    }
