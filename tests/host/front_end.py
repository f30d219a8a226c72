"""Drive ComfyUI's real front end in a headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Route, sync_playwright

from scripts.host import PACK_NAME, ComfyServer

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
]
READY = "() => window.app?.extensionManager && app.graph"
SETTLE_MS = 1500  # the front end asks for its last resources a moment after it is usable


class FrontEnd:
    """One page on a server: load workflows, run them, read what the console said.

    `errors` holds console errors and uncaught exceptions, each with the path it came from.
    """

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page, self.server = page, server
        self.errors: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        # From now on, not only when a test waits for one: a busy browser would take that in too
        # late, and open a dialog of its own, which nobody answers.
        page.on("filechooser", lambda chooser: None)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            path = urlsplit(message.location.get("url", ""))
            self.errors.append(f"{message.text} [{path.path}?{path.query}]")

    def open(self, *, vue_nodes: bool = False, bare: bool = False) -> FrontEnd:
        """Open the page on an empty graph, once; it takes seconds.

        `vue_nodes` chooses the Nodes 2.0 renderer, `bare` leaves out the pack's own scripts.
        """
        if bare:
            self.page.route("**/extensions", _without_the_pack)
        settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue_nodes}
        self.server.post("/settings", settings)
        self.page.goto(self.server.url)
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.wait_for_timeout(SETTLE_MS)
        self.page.evaluate("app.graph.clear()")
        return self

    def draws_vue_nodes(self) -> bool:
        """Whether it is the Nodes 2.0 renderer that shows the graph."""
        return self.page.evaluate("Boolean(LiteGraph.vueNodesMode)")

    def load(self, name: str) -> None:
        """Open a workflow of the pack from the server's templates, as the artist does, forgetting
        what the console said before."""
        self.errors.clear()
        self.page.evaluate(
            """async ([pack, name]) => {
                const answer = await fetch(`/api/workflow_templates/${pack}/${name}.json`);
                if (!answer.ok) throw new Error(`${name}.json: HTTP ${answer.status}`);
                await app.loadGraphData(await answer.json(), true, true, name);
            }""",
            [PACK_NAME, name],
        )

    def missing_nodes(self) -> list[str]:
        """Types in the graph, subgraphs included, that the front end does not know."""
        return self.page.evaluate(
            """() => {
                const known = LiteGraph.registered_node_types;
                const walk = graph => graph.nodes.flatMap(
                    node => node.subgraph ? walk(node.subgraph) : [node]);
                return walk(app.graph).filter(n => !known[n.type]).map(n => n.type);
            }"""
        )

    def overlapping_nodes(self) -> list[str]:
        """Pairs of nodes of the open graph that lie on each other, as they are drawn."""
        self.page.wait_for_timeout(300)  # Nodes 2.0 measures what it has drawn
        return self.page.evaluate(
            """() => {
                const title = LiteGraph.NODE_TITLE_HEIGHT;
                const boxes = app.graph.nodes.map(({id, type, pos, size}) => {
                    const drawn = document.querySelector(`[data-node-id="${id}"]`)?.offsetHeight;
                    const height = Math.max(size[1], (drawn ?? 0) - title);
                    const [left, top] = pos;
                    return {id, type, left, top: top - title, right: left + size[0],
                            bottom: top + height};
                });
                return boxes.flatMap((one, index) => boxes.slice(index + 1)
                    .filter(other => one.left < other.right && other.left < one.right
                        && one.top < other.bottom && other.top < one.bottom)
                    .map(other => `${one.type} #${one.id}, ${other.type} #${other.id}`));
            }"""
        )

    def prompt(self) -> dict[str, Any]:
        """The API-format prompt that the front end makes of the open graph."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def press_run(self) -> str:
        """Press the Run button; returns the prompt's id."""
        with self.page.expect_response(
            lambda answer: (
                urlsplit(answer.url).path.endswith("/prompt") and answer.request.method == "POST"
            ),
            timeout=60_000,
        ) as queued:
            self.page.get_by_test_id("queue-button").click()
        answer = queued.value.json()
        assert "prompt_id" in answer, answer
        return answer["prompt_id"]

    def wait_for_preview(self, filename: str) -> None:
        """Wait until a saved file shows in the graph as a loaded picture or video."""
        self.page.wait_for_function(
            """name => [...document.querySelectorAll("video, img")].some(element =>
                   element.src.includes(name) && (element.readyState >= 2 || element.naturalWidth))
               || app.graph.nodes.some(node => node.imgs?.some(
                   image => image.src?.includes(name) && image.naturalWidth))""",
            arg=filename,
            timeout=60_000,
        )

    def screenshot(self, path: Path) -> None:
        self.page.evaluate(
            "app.canvas.ds && app.extensionManager.command.execute('Comfy.Canvas.FitView')"
        )
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=path)


def _without_the_pack(route: Route) -> None:
    answer = route.fetch()
    route.fulfill(response=answer, json=[path for path in answer.json() if PACK_NAME not in path])


@contextmanager
def front_ends(
    server: ComfyServer, chromium: str, *, sharpness: float = 1
) -> Iterator[Callable[[], FrontEnd]]:
    """A browser; each call gives a page that shares nothing with the others. All are closed at the
    end. `sharpness` is pixels of the screen per pixel of a page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            size = {"width": 1600, "height": 900}
            yield lambda: FrontEnd(
                browser.new_context(viewport=size, device_scale_factor=sharpness).new_page(),
                server,
            )
        finally:
            browser.close()
