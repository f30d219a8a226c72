"""What every test may use: the real server, the real front end, the host in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.host import ComfyServer
from scripts.prepare import PrepareError, find_host
from tests import hosting

ARTIFACTS = Path(__file__).parent / "artifacts"

try:
    HOST = find_host()
except PrepareError as error:
    raise pytest.UsageError(str(error)) from None

# Modules of these folders import comfy, so without a host they cannot even be collected.
NEED_HOST = ("host", "nodes")
collect_ignore = [] if HOST else list(NEED_HOST)
NO_HOST = f"ComfyUI is not prepared, left out: tests/{', tests/'.join(NEED_HOST)} (run make test)"


def pytest_configure(config: pytest.Config) -> None:
    if HOST:
        base = tempfile.TemporaryDirectory(prefix="stiv-tests-")
        config.add_cleanup(base.cleanup)
        hosting.install(HOST, Path(base.name))


def pytest_report_header() -> str:
    browser = hosting.find_chromium() or "not installed"
    return f"ComfyUI: {HOST}\nChromium: {browser}" if HOST else NO_HOST


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by what they use; without Chromium leave its tests out, by name."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for fixture, marker in (("server", "server"), ("browser", "browser")):
            if fixture in fixtures:
                item.add_marker(marker)
    if not hosting.find_chromium():
        config.stash[LEFT_OUT] = [item for item in items if item.get_closest_marker("browser")]
        for item in config.stash[LEFT_OUT]:
            item.add_marker(pytest.mark.skip(reason="Chromium is not installed"))


LEFT_OUT = pytest.StashKey[list[pytest.Item]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left_out = config.stash.get(LEFT_OUT, [])
    if left_out:
        terminalreporter.section("left out: Chromium is not installed")
        for item in left_out:
            terminalreporter.write_line(item.nodeid)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """The real ComfyUI server with this pack as its only custom node, on the CPU."""
    if HOST is None:
        pytest.skip(NO_HOST)
    with ComfyServer(HOST, base=tmp_path_factory.mktemp("comfyui"), cpu=True) as running:
        yield running


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where tests leave what a person may want to look at; never committed."""
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS
