"""The panels on STIV Empty Latent, the guidance nodes and the loaders, in both renderers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from scripts.host import ComfyServer
from stiv import STIVConfig
from stiv.card import Card
from stiv.checkpoint import write_checkpoint
from stiv.public import LATENT_SPACES, TEXT_ENCODERS
from tests.host.front_end import FrontEnd, front_ends
from tests.hosting import find_chromium
from tests.models import random_model

HOSTILE = "<img src=x onerror='window.attacked = 1'><script>window.attacked = 2</script>"
SMALL = STIVConfig(
    latent_channels=4, patch=2, width=32, heads=2, depth=1, text_width=1280, pooled_width=1280
)

_ADD = """([type, values, at]) => {
    const node = LiteGraph.createNode(type);
    node.pos = at;
    app.graph.add(node);
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(widget => widget.name === name);
        widget.value = value;
        widget.callback?.(value);
    }
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [120, 120];
    app.canvas.setDirty(true, true);
    return node.id;
}"""
_CONNECT = """([from, output, to, input]) => {
    const [source, target] = [app.graph.getNodeById(from), app.graph.getNodeById(to)];
    source.connect(source.outputs.findIndex(slot => slot.type === output), target,
        target.inputs.findIndex(slot => slot.name === input));
}"""


class Graph:
    """The open graph, edited as the front end does it."""

    def __init__(self, browser: FrontEnd) -> None:
        self.browser, self.page = browser, browser.page
        self.page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait_for_function("app.graph.nodes.length === 0")
        browser.errors.clear()

    def add(self, type_: str, x: int = 0, y: int = 0, **values: Any) -> int:
        return self.page.evaluate(_ADD, [type_, values, [x, y]])

    def connect(self, from_: int, output: str, to: int, input_: str) -> None:
        self.page.evaluate(_CONNECT, [from_, output, to, input_])

    def inputs(self, id_: int) -> dict[str, Any]:
        return self.browser.prompt()[str(id_)]["inputs"]

    def saved(self) -> dict[str, Any]:
        return self.page.evaluate("app.graph.serialize()")

    def saved_values(self, id_: int) -> list[Any]:
        (found,) = (node for node in self.saved()["nodes"] if str(node["id"]) == str(id_))
        return found["widgets_values"]

    def reload(self) -> None:
        """Save the graph and open what was saved."""
        text = json.dumps(self.saved())
        self.page.evaluate("text => app.loadGraphData(JSON.parse(text))", text)

    def remember(self) -> None:
        """Let the host's undo see what a script did, sizes that nodes take on being drawn too."""
        self.page.wait_for_timeout(300)
        self.page.evaluate(
            """() => {
                const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
                (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
            }"""
        )

    def copy(self, id_: int) -> int:
        """Copy a node and paste it; returns the id of the new one."""
        ids = "app.graph.nodes.map(node => node.id)"
        before = self.page.evaluate(ids)
        self.page.evaluate(
            """id => {
                app.canvas.deselectAll();
                app.canvas.select(app.graph.getNodeById(id));
                app.canvas.copyToClipboard();
                app.canvas.deselectAll();
                app.canvas.pasteFromClipboard({ position: [0, 500] });
            }""",
            id_,
        )
        (new,) = set(self.page.evaluate(ids)) - set(before)
        return new


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes2"])
def browser(request: pytest.FixtureRequest, server: ComfyServer) -> Iterator[FrontEnd]:
    with front_ends(server, find_chromium()) as new:
        yield new().open(vue_nodes=request.param)


@pytest.fixture
def graph(browser: FrontEnd) -> Iterator[Graph]:
    """An empty graph; no error may have been said on the console in the end."""
    made = Graph(browser)
    yield made
    # with a new graph the host looks for its default workflow's models, which lie elsewhere
    assert [error for error in browser.errors if "huggingface.co" not in error] == []


# --- frame rule ---


def test_shapes_and_seconds_write_the_ordinary_widgets(graph: Graph, artifacts: Path) -> None:
    node = graph.add("STIVEmptyLatent", width=512, height=512)
    panel = graph.page.locator(".stiv-frames")
    panel.get_by_role("button", name="16:9").click()
    panel.get_by_role("button", name="Turn").click()
    panel.get_by_label("Frames per second").fill("10")
    panel.get_by_label("Frames per second").press("Enter")
    panel.get_by_label("Seconds").fill("2.42")
    panel.get_by_label("Seconds").press("Enter")
    typed = {"width": 384, "height": 688, "frames": 24, "batch_size": 1}
    assert graph.inputs(node) == typed  # no fps: the prompt is as if typed by hand
    assert graph.saved_values(node) == list(typed.values())
    expect(panel.get_by_role("status")).to_have_text("24 frames asked, 24 made: 384 × 688")
    expect(panel.get_by_label("Seconds")).to_have_value("2.4")
    graph.browser.page.screenshot(path=artifacts / f"frame_rule_{name_of(graph)}.png")

    copy = graph.copy(node)
    assert graph.inputs(copy) == typed
    graph.reload()
    assert graph.inputs(node) == typed
    for label in ("10", "10"):  # both nodes remember the rate
        expect(panel.get_by_label("Frames per second").first).to_have_value(label)


def test_a_side_from_a_file_that_cannot_be_made_is_corrected_by_one_click(graph: Graph) -> None:
    node = graph.add("STIVEmptyLatent")
    saved = graph.saved()
    saved["nodes"][0]["widgets_values"] = [100, 64, 1, 1]
    graph.page.evaluate("text => app.loadGraphData(JSON.parse(text))", json.dumps(saved))
    status = graph.page.locator(".stiv-frames").get_by_role("status")
    expect(status).to_contain_text("width is 100, not a multiple of 16")
    assert graph.inputs(node)["width"] == 100  # nothing changes by itself
    status.get_by_role("button", name="112").click()
    assert graph.inputs(node)["width"] == 112
    expect(status).to_have_text("1 frame, a picture: 112 × 64")


def test_what_comes_by_wire_is_said_to(graph: Graph) -> None:
    node, number = graph.add("STIVEmptyLatent", x=300), graph.add("PrimitiveInt")
    graph.connect(number, "INT", node, "width")
    panel = graph.page.locator(".stiv-frames")
    expect(panel.get_by_role("status")).to_have_text("16 frames asked, 16 made: by wire × 64")
    expect(panel.get_by_role("button", name="16:9")).to_be_disabled()
    expect(panel.get_by_label("Seconds")).to_be_enabled()


# --- guidance pad ---


def test_dragging_the_pad_writes_image_scale_and_the_samplers_cfg(
    graph: Graph, artifacts: Path
) -> None:
    guidance = graph.add("STIVGuidance", mode="separate")
    sampler = graph.add("KSampler", x=320)
    graph.connect(guidance, "MODEL", sampler, "model")
    page, pad = graph.page, graph.page.locator(".stiv-pad")
    expect(pad).to_contain_text(f"cfg of KSampler #{sampler}")
    graph.remember()
    drag(graph, 0.8, 0.4)
    assert graph.inputs(guidance)["image_scale"] == pytest.approx(2, abs=0.06)
    assert graph.inputs(sampler)["cfg"] == pytest.approx(12, abs=0.06)
    position = page.evaluate("id => [...app.graph.getNodeById(id).pos]", guidance)
    assert position == [0, 0]  # the pad was dragged, not the node

    handle = pad.get_by_role("slider")
    expect(handle).to_be_focused()
    before = graph.inputs(guidance)["image_scale"], graph.inputs(sampler)["cfg"]
    for key in ("ArrowUp", "Shift+ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    after = graph.inputs(guidance)["image_scale"], graph.inputs(sampler)["cfg"]
    assert after == pytest.approx((before[0] + 1.1, before[1] - 0.1))
    text = f"prompt {after[1]:g}, frames {after[0]:g}"
    expect(handle).to_have_attribute("aria-valuetext", text)
    assert graph.saved_values(guidance) == ["separate", pytest.approx(after[0]), False]
    page.screenshot(path=artifacts / f"guidance_pad_{name_of(graph)}.png")


def test_drags_and_keys_are_undone_by_the_hosts_undo(graph: Graph) -> None:
    guider = graph.add("STIVGuider", mode="separate", cfg=3.0)
    graph.remember()
    drag(graph, 0.6, 0.6)
    assert graph.inputs(guider)["cfg"] == pytest.approx(9, abs=0.06)
    graph.page.keyboard.press("Control+z")
    handle = graph.page.get_by_role("slider")
    expect(handle).to_have_attribute("aria-valuetext", "prompt 3, frames 1.5")
    assert graph.inputs(guider)["cfg"] == 3
    handle.focus()
    graph.page.keyboard.press("ArrowRight")
    expect(handle).to_have_attribute("aria-valuetext", "prompt 3.1, frames 1.5")
    graph.page.keyboard.press("Control+z")
    expect(handle).to_have_attribute("aria-valuetext", "prompt 3, frames 1.5")


def test_the_pad_leaves_alone_what_is_not_its_to_set(graph: Graph) -> None:
    guidance = graph.add("STIVGuidance")
    samplers = [graph.add("KSampler", x=320), graph.add("KSampler", x=640)]
    pad = graph.page.locator(".stiv-pad")
    expect(pad).to_contain_text("no sampler connected")
    for sampler in samplers:
        graph.connect(guidance, "MODEL", sampler, "model")
    expect(pad).to_contain_text("several samplers use it")
    drag(graph, 0.9, 0.9)
    assert [graph.inputs(sampler)["cfg"] for sampler in samplers] == [8, 8]
    assert graph.inputs(guidance)["image_scale"] == 1.5  # joint: it has no effect
    pad.get_by_role("button").click()
    assert graph.inputs(guidance)["mode"] == "separate"
    drag(graph, 0.9, 0.6)
    assert graph.inputs(guidance)["image_scale"] == pytest.approx(3, abs=0.06)
    assert [graph.inputs(sampler)["cfg"] for sampler in samplers] == [8, 8]


# --- model card ---


def test_the_card_shows_and_warns_of_what_was_not_trained(graph: Graph, artifacts: Path) -> None:
    loader = graph.add("STIVLoadCheckpoint")
    sampler = graph.add("KSampler", x=320)
    latent = graph.add("STIVEmptyLatent", x=640)
    graph.connect(loader, "MODEL", sampler, "model")
    graph.connect(latent, "LATENT", sampler, "latent_image")
    card = graph.page.locator(".stiv-card")
    expect(card).to_contain_text("STIV nano")
    for text in ("5.3 M parameters", "first and last", "64 × 64, 16 frames", "Apache-2.0"):
        expect(card).to_contain_text(text)
    doubts = card.locator(".stiv-card-doubts")
    expect(doubts).to_be_empty()
    panel = graph.page.locator(".stiv-frames")
    panel.get_by_label("Seconds").fill("3")
    panel.get_by_label("Seconds").press("Enter")
    expect(doubts).to_have_text(f"⚠ KSampler #{sampler}: 48 frames, trained: 16")
    graph.page.screenshot(path=artifacts / f"card_{name_of(graph)}.png")
    number = graph.add("PrimitiveInt", y=500)
    graph.connect(number, "INT", latent, "frames")
    expect(doubts).to_be_empty()  # nobody knows before the run

    card.get_by_role("button", name="Compare").click()
    expect(card).to_contain_text("as the card says")
    assert graph.saved_values(loader) == ["stiv_nano (bundled)"]


@pytest.fixture(scope="module")
def hostile_model(server: ComfyServer) -> Path:
    """A model whose metadata attacks those who show it, and whose last byte was changed."""
    path = server.base / "models" / "diffusion_models" / "hostile.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    card = Card(
        config=SMALL,
        latents=LATENT_SPACES["sd"],
        text=TEXT_ENCODERS["clip_g"],
        tasks=[{"task": "ti2v", "width": [256, 256], "height": [256, 256], "frames": [8, 8]}],
        training={"assumed": [HOSTILE]},
        modelspec={"title": HOSTILE, "license": HOSTILE},
    )
    write_checkpoint(path, card, random_model(SMALL).state_dict())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


def test_a_hostile_card_is_text_and_other_tensors_are_found_out(
    graph: Graph, hostile_model: Path
) -> None:
    graph.page.evaluate("app.refreshComboInNodes()")
    loader = graph.add("STIVLoadModel", model_name=hostile_model.name)
    sampler, latent = graph.add("KSampler", x=320), graph.add("STIVEmptyLatent", x=640)
    graph.connect(loader, "MODEL", sampler, "model")
    graph.connect(latent, "LATENT", sampler, "latent_image")
    card = graph.page.locator(".stiv-card")
    expect(card.locator(".stiv-card-title")).to_have_text(HOSTILE)
    expect(card).to_contain_text(f"licence {HOSTILE}")
    expect(card).to_contain_text("clip_g: Load CLIP")
    expect(card.locator(".stiv-card-doubts")).to_contain_text("not trained for text to video")
    card.get_by_role("button", name="Compare").click()
    expect(card).to_contain_text("other tensors than the card's")
    assert card.locator("img, script").count() == 0
    assert graph.page.evaluate("window.attacked") is None


def test_a_file_that_is_no_model_or_not_there_is_said_to_be(
    graph: Graph, server: ComfyServer
) -> None:
    loader = graph.add("STIVLoadCheckpoint", ckpt_name="broken.safetensors")
    card = graph.page.locator(".stiv-card")
    expect(card).to_contain_text("broken.safetensors is not among the files here")
    path = server.base / "models" / "checkpoints" / "broken.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"<b>no</b>")
    graph.page.evaluate("app.refreshComboInNodes()")
    expect(card).to_contain_text("No card: broken.safetensors")
    graph.page.evaluate(_CHOOSE, [loader, "stiv_nano (bundled)"])
    expect(card).to_contain_text("STIV nano")
    path.unlink()
    # the browser itself says what the server refused
    graph.browser.errors[:] = [each for each in graph.browser.errors if "/stiv/card" not in each]


_CHOOSE = """([id, name]) => {
    const [widget] = app.graph.getNodeById(id).widgets;
    widget.value = name;
    widget.callback?.(name);
}"""


def drag(graph: Graph, x: float, y: float) -> None:
    """Drag from the middle of the pad to a place in it; y counts upwards."""
    box = graph.page.locator(".stiv-pad-square").bounding_box()
    assert box is not None
    mouse = graph.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mouse.down()
    mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * (1 - y), steps=4)
    mouse.up()


def name_of(graph: Graph) -> str:
    return "nodes2" if graph.browser.draws_vue_nodes() else "canvas"
