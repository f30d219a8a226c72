"""The plan panel in both renderers: the plan before a run, the run, and what a click does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from scripts.host import ComfyServer
from stiv.plan import hierarchy as plan_hierarchy
from stiv.plan import rollout
from tests.host.front_end import FrontEnd, front_ends
from tests.host.test_long_video import (
    count_made,
    hierarchy,
    pixels,
    prediction,
    prompt_of,
    saved,
)
from tests.hosting import find_chromium

PLAN, MAKE, SMALL = "1", "2", {"key_frames": 4, "stride": 3, "window": 6}
HOSTILE = "<img src=x onerror='window.attacked = 1'><script>window.attacked = 2</script>"
_PLACES = {PLAN: ([0, 0], [360, 800]), MAKE: ([420, 0], [360, 840])}

_OPEN = """async ([prompt, places]) => {
    await app.loadApiJson(prompt, "plan panel");
    for (const node of app.graph.nodes) {
        const [pos, size] = places[node.id] ?? [[900, 260 * node.order], null];
        node.pos = pos;
        if (size) node.setSize(size);
    }
    app.canvas.ds.scale = 0.9;
    app.canvas.ds.offset = [120, 90];
    app.canvas.setDirty(true, true);
}"""
_SET = """([id, name, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find(each => each.name === name);
    widget.value = value;
    widget.callback?.(value);
}"""
_ROWS = """panel => [...panel.querySelectorAll(".stiv-plan-row")].map(row => ({
    name: row.querySelector("b").textContent,
    frames: row.querySelector(".stiv-plan-dim").textContent,
    prompt: row.querySelector(".stiv-plan-prompt").textContent,
    seed: row.querySelector(".stiv-plan-seed").textContent,
    locked: row.querySelector("[data-act=lock]").ariaPressed === "true",
    state: row.dataset.state ?? null,
    pictured: (row.querySelector("img")?.naturalWidth ?? 0) > 0,
}))"""
_WATCH = """panel => {
    window.seen = new Set();
    new MutationObserver(() => {
        for (const row of panel.querySelectorAll("[data-state]")) seen.add(row.dataset.state);
    }).observe(panel, { subtree: true, childList: true, attributes: true });
}"""

_COMPARE = """async () => {
    const { promptAround } = await import("/extensions/ComfyUI-STIV/plan/graph.mjs");
    const all = graph => graph.nodes.flatMap(
        node => node.subgraph ? all(node.subgraph) : node.isVirtualNode ? [] : [node]);
    const { output } = await app.graphToPrompt();
    for (const node of Object.values(output)) delete node._meta;
    return [output, promptAround(app.rootGraph, all(app.rootGraph)).prompt];
}"""
_INTO_A_SUBGRAPH = """() => {
    const inside = node => node.type.startsWith("STIV") && !node.type.includes("Load");
    app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(inside)));
}"""


class Open:
    """A graph with a plan node and STIV Long Video, and their panels."""

    def __init__(self, browser: FrontEnd, prompt: dict[str, Any]) -> None:
        self.browser, self.page = browser, browser.page
        ids = {"plan": PLAN, "make": MAKE, "load": "3", "save": "4", "told": "5"}
        ids |= {name: str(10 + i) for i, name in enumerate(sorted(prompt.keys() - ids.keys()))}
        text = json.dumps({ids[name]: node for name, node in prompt.items()})
        for name, number in ids.items():
            text = text.replace(f'["{name}", ', f'["{number}", ')
        self.page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait_for_function("app.graph.nodes.length === 0")
        browser.errors.clear()
        self.page.evaluate(_OPEN, [json.loads(text), _PLACES])
        self.plan, self.make = self.panel(plain=True), self.panel(plain=False)

    def panel(self, *, plain: bool) -> Locator:
        found = self.page.locator(".stiv-plan")
        check = self.page.locator(".stiv-plan-check")
        return found.filter(has_not=check) if plain else found.filter(has=check)

    def rows(self, panel: Locator | None = None) -> list[dict[str, Any]]:
        return (panel or self.make).evaluate(_ROWS)

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]

    def wait_until(self, holds: Callable[[], bool]) -> None:
        for _ in range(100):
            if holds():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(self.rows())

    def set(self, id_: str, name: str, value: Any) -> None:
        self.page.evaluate(_SET, [id_, name, value])

    @property
    def seeds(self) -> str:
        return self.browser.prompt()[PLAN]["inputs"]["seeds"]

    def press(self, panel: Locator, act: str, index: int) -> None:
        panel.locator(f"[data-act={act}]").nth(index).click()


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes2"])
def browser(request: pytest.FixtureRequest, server: ComfyServer) -> Iterator[FrontEnd]:
    with front_ends(server, find_chromium()) as new:
        yield new().open(vue_nodes=request.param)


@pytest.fixture
def open_graph(browser: FrontEnd) -> Iterator[Callable[[dict[str, Any]], Open]]:
    """Opens a graph of an API prompt; no error may have been said on the console in the end."""
    yield lambda prompt: Open(browser, prompt)
    # with a new graph the host looks for its default workflow's models, which lie elsewhere
    assert [error for error in browser.errors if "huggingface.co" not in error] == []


def seed_for(browser: FrontEnd, number: int) -> int:
    """Another video in each renderer, as they share the server's store."""
    return 5000 + 100 * number + browser.draws_vue_nodes()


def test_the_plan_shows_before_a_run(
    open_graph: Callable[..., Open], browser: FrontEnd, server: ComfyServer
) -> None:
    node = hierarchy(**SMALL, prompts=f"{HOSTILE}\n1: a green cross", seeds="2: 77\nkey: 5")
    graph, runs = open_graph(prompt_of(node)), len(server.get("/history"))
    (inputs,) = node.values()

    def shows(**changes: Any) -> bool:
        plan = plan_hierarchy(**inputs | changes)
        names = [s.name.replace("key", "key ").replace("seg", "") for s in plan.segments]
        wanted = [(n, s.prompt, str(s.seed)) for n, s in zip(names, plan.segments, strict=True)]
        return all(
            [(row["name"], row["prompt"], row["seed"]) for row in graph.rows(panel)] == wanted
            for panel in (graph.plan, graph.make)
        )

    graph.wait_until(shows)
    assert [row["locked"] for row in graph.rows()] == [True, False, False, True]
    assert [row["frames"] for row in graph.rows()] == ["0–8 by 3", "1–2", "4–5", "7–8"]
    assert "9 frames" in graph.make.inner_text()
    assert set(graph.states()) == {"unknown"}
    graph.set(PLAN, "stride", 4)
    graph.wait_until(lambda: shows(stride=4))
    graph.set(PLAN, "seeds", "9: 1")
    expect(graph.plan.locator(".stiv-plan-error")).to_contain_text("the last one is 2")
    assert graph.seeds == "9: 1"
    assert len(server.get("/history")) == runs
    assert browser.page.evaluate("window.attacked") is None


def test_a_run_arrives_and_one_segment_is_made_again(
    open_graph: Callable[..., Open], browser: FrontEnd, server: ComfyServer, artifacts: Path
) -> None:
    seed = seed_for(browser, 1)
    graph = open_graph(prompt_of(hierarchy(**SMALL, seed=seed), steps=12))
    graph.wait_until(lambda: len(graph.rows()) == 4)
    graph.make.evaluate(_WATCH)
    first = server.wait(browser.press_run())
    graph.wait_until(lambda: all(row["pictured"] for row in graph.rows()))
    assert set(graph.states()) == {"made"}
    assert set(browser.page.evaluate("[...seen]")) >= {"waiting", "making", "made"}
    expect(graph.make.locator(".stiv-plan-seam")).to_have_count(2)
    assert graph.make.locator(".stiv-plan-seam").first.inner_text().startswith("seam at 3")

    graph.press(graph.make, "reroll", 2)
    graph.wait_until(lambda: graph.states() == ["made", "made", "missing", "made"])
    assert re.fullmatch(r"1: \d+", graph.seeds)
    assert [row["locked"] for row in graph.rows(graph.plan)] == [False, False, True, False]
    assert "1 to make" in graph.make.inner_text()
    browser.screenshot(
        artifacts / f"plan_panel_{'nodes2' if browser.draws_vue_nodes() else 'canvas'}.png"
    )
    second = server.wait(browser.press_run())
    graph.wait_until(lambda: graph.states() == ["kept", "kept", "made", "kept"])
    assert [count_made(first, "5"), count_made(second, "5")] == [4, 1]

    server.free()
    headless = server.run(prompt_of(hierarchy(**SMALL, seed=seed, seeds=graph.seeds), steps=12))
    assert count_made(headless) == 0
    assert (pixels(saved(headless)) == pixels(saved(second))).all()

    before = graph.seeds
    graph.press(graph.make, "seam", 0)  # the segment before it: the key frames lead all others
    graph.wait_until(lambda: graph.states() == ["kept", "missing", "made", "kept"])
    assert graph.seeds.startswith(f"{before}\n0: ")


def test_a_lock_survives_the_video_s_seed_a_reload_and_undo(
    open_graph: Callable[..., Open], browser: FrontEnd
) -> None:
    graph = open_graph(prompt_of(hierarchy(**SMALL, seed=40, seeds="2: 9")))
    graph.wait_until(lambda: len(graph.rows(graph.plan)) == 4)
    graph.press(graph.plan, "lock", 1)
    graph.wait_until(lambda: graph.rows(graph.plan)[1]["locked"])
    assert graph.seeds == "2: 9\n0: 1000040"
    graph.set(PLAN, "seed", 90)
    graph.wait_until(lambda: graph.rows(graph.plan)[0]["seed"] == "90")
    assert [row["seed"] for row in graph.rows(graph.plan)] == ["90", "1000040", "1000091", "9"]

    text = graph.page.evaluate("JSON.stringify(app.graph.serialize())")
    graph.page.evaluate("text => app.loadGraphData(JSON.parse(text))", text)
    graph.wait_until(lambda: len(graph.rows(graph.plan)) == 4)
    assert [row["locked"] for row in graph.rows(graph.plan)] == [False, True, False, True]
    graph.press(graph.plan, "lock", 3)
    graph.wait_until(lambda: not graph.rows(graph.plan)[3]["locked"])
    assert graph.seeds == "0: 1000040"
    graph.page.evaluate("app.extensionManager.command.execute('Comfy.Undo')")
    graph.wait_until(lambda: graph.rows(graph.plan)[3:] and graph.rows(graph.plan)[3]["locked"])
    assert graph.seeds == "2: 9\n0: 1000040"


def test_check_finds_out_what_is_kept_and_makes_nothing(
    open_graph: Callable[..., Open], browser: FrontEnd, server: ComfyServer
) -> None:
    seed = seed_for(browser, 2)
    server.run(prompt_of(hierarchy(**SMALL, seed=seed)))
    graph = open_graph(prompt_of(hierarchy(**SMALL, seed=seed, seeds="1: 5")))
    graph.wait_until(lambda: len(graph.rows()) == 4)
    assert set(graph.states()) == {"unknown"}
    graph.make.locator(".stiv-plan-check").click()
    graph.wait_until(lambda: graph.states() == ["kept", "kept", "missing", "kept"])
    expect(graph.make.locator(".stiv-plan-costs")).to_contain_text("3 kept, 1 to make")
    expect(graph.make.locator(".stiv-plan-costs")).to_contain_text("MB of memory")
    expect(graph.make.locator(".stiv-plan-check")).to_be_enabled()
    graph.set(MAKE, "cfg", 5)
    graph.wait_until(lambda: set(graph.states()) == {"unknown"})


def test_a_video_that_the_host_has_in_its_cache_is_kept(
    open_graph: Callable[..., Open], browser: FrontEnd, server: ComfyServer
) -> None:
    graph = open_graph(prompt_of(hierarchy(**SMALL, seed=seed_for(browser, 4)), steps=3))
    graph.wait_until(lambda: len(graph.rows()) == 4)
    server.run(browser.prompt())  # by somebody else: the page is not told
    assert set(graph.states()) == {"unknown"}
    run = server.wait(browser.press_run())
    assert run.executed == []
    graph.wait_until(lambda: set(graph.states()) == {"kept"})


def test_what_is_not_known_is_said(open_graph: Callable[..., Open], browser: FrontEnd) -> None:
    graph = open_graph(prompt_of(prediction(frames=20), {"0": 0x203050}))
    note = graph.make.locator(".stiv-plan-note")
    expect(note).to_contain_text("Pictures are connected")
    assert len(graph.rows()) == 2
    graph.page.evaluate(f"app.graph.getNodeById({MAKE}).disconnectInput(3)")
    expect(note).to_contain_text("No plan is connected")
    expect(graph.make.locator(".stiv-plan-check")).to_be_disabled()
    graph.page.evaluate(f"app.graph.getNodeById({PLAN}).mode = 2; app.graph.change()")
    graph.set(PLAN, "frames", 30)
    expect(graph.plan.locator(".stiv-plan-note")).to_contain_text("off")


@pytest.mark.parametrize("name", ["long_video", "interpolate", "image_to_video"])
def test_the_panel_reads_a_graph_as_the_host_does(name: str, browser: FrontEnd) -> None:
    browser.load(name)
    hosts, panels = browser.page.evaluate(_COMPARE)
    assert panels == hosts
    browser.page.evaluate(_INTO_A_SUBGRAPH)
    hosts, panels = browser.page.evaluate(_COMPARE)
    assert any(":" in id_ for id_ in hosts)
    assert panels == hosts


@pytest.mark.parametrize("event", ["stiv.plan", "stiv.long_video"])
def test_an_odd_event_does_no_harm(
    event: str, open_graph: Callable[..., Open], browser: FrontEnd
) -> None:
    graph = open_graph(prompt_of(hierarchy(**SMALL)))
    graph.wait_until(lambda: len(graph.rows()) == 4)
    odd = [None, 5, {}, {"kind": "start", "node": "2"}, {"node": "2", "plan": None, "prompt": {}}]
    odd += [{"kind": "end", "node": "2", "run": None}, {"kind": "pictures", "node": "2"}]
    odd += [{"kind": "start", "node": "2", "plan": {"segments": []}, "prompt": {"2": None}}]
    graph.page.evaluate(
        """([name, odd]) => {
            const { api } = window.comfyAPI.api;
            for (const detail of odd) api.dispatchEvent(new CustomEvent(name, { detail }));
        }""",
        [event, odd],
    )
    graph.set(PLAN, "seed", 8)
    graph.wait_until(lambda: graph.rows()[0]["seed"] == "8")


def test_hundreds_of_segments_scroll_by_wheel_and_keyboard(
    open_graph: Callable[..., Open], browser: FrontEnd
) -> None:
    graph = open_graph(prompt_of(prediction(frames=5000)))
    segments = rollout(5000, fps=8.0, width=64, height=64).segments
    rows, list_ = graph.make.locator(".stiv-plan-row"), graph.make.locator(".stiv-plan-list")
    expect(rows.first).to_have_attribute("aria-setsize", str(len(segments)))
    assert rows.count() < 40
    lock = graph.make.locator("[data-act=lock]").first
    lock.focus()
    for _ in range(12):
        graph.page.keyboard.press("ArrowDown")
    focused = "document.activeElement.closest('[aria-posinset]').getAttribute('aria-posinset')"
    assert graph.page.evaluate(focused) == "13"
    scale = graph.page.evaluate("app.canvas.ds.scale")
    before = list_.evaluate("list => list.scrollTop")
    list_.hover()
    graph.page.mouse.wheel(0, 400)
    graph.wait_until(lambda: list_.evaluate("list => list.scrollTop") > before)
    assert graph.page.evaluate("app.canvas.ds.scale") == scale
    list_.evaluate("list => { list.scrollTop = list.scrollHeight; }")
    last = graph.make.locator(f"[aria-posinset='{len(segments)}']")
    expect(last).to_contain_text(str(segments[-1].seed))
    assert rows.count() < 40
