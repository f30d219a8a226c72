"""The frame timeline as an artist's hands and eyes have it: dropping, dragging, reading."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Locator, expect

from tests.host.front_end import FrontEnd

File = tuple[str, str, bytes]
"""Name, MIME type and content."""

_DROP = """(stage, [files, x, kinds]) => {
    const data = new DataTransfer();
    for (const [name, type, content] of files) {
        const bytes = Uint8Array.from(atob(content), char => char.charCodeAt(0));
        data.items.add(new File([bytes], name, {type}));
    }
    const box = stage.getBoundingClientRect();
    const place = {clientX: box.left + x * box.width, clientY: box.top + box.height / 2};
    for (const kind of kinds) {
        stage.dispatchEvent(new DragEvent(
            kind, {dataTransfer: data, bubbles: true, cancelable: true, ...place}));
    }
}"""
_PASTE = """([files]) => {
    const data = new DataTransfer();
    for (const [name, type, content] of files) {
        const bytes = Uint8Array.from(atob(content), char => char.charCodeAt(0));
        data.items.add(new File([bytes], name, {type}));
    }
    const paste = new ClipboardEvent(
        "paste", {clipboardData: data, bubbles: true, cancelable: true});
    document.activeElement.dispatchEvent(paste);
}"""

_ALONE = """text => {
    const node = LiteGraph.createNode("STIVTimeline");
    node.pos = [0, 0];
    app.graph.add(node);
    const widget = node.widgets.find(widget => widget.name === "timeline");
    widget.value = text;
    widget.callback?.(text);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [240, 180];
    app.canvas.setDirty(true, true);
    app.extensionManager.workflow.activeWorkflow.changeTracker.reset(app.rootGraph.serialize());
}"""
# The shipped workflow with a timeline in place of its picture, saving latents: they are exact.
_IN_WORKFLOW = """() => {
    const node = LiteGraph.createNode("STIVTimeline");
    const save = LiteGraph.createNode("SaveLatent");
    const all = type => app.graph.nodes.filter(node => node.type === type);
    const [sampler] = all("KSampler"), [replacement] = all("STIVFrameReplacement");
    for (const type of ["MarkdownNote", "EmptyImage", "ColorToRGBInt", "ImageCompositeMasked",
        "PreviewImage", "STIVPlaceFrames", "SaveVideo", "CreateVideo", "ImageScaleBy", "VAEDecode"])
        all(type).forEach(node => app.graph.remove(node));
    node.pos = [0, -400];
    app.graph.add(node);
    app.graph.add(save);
    const slot = replacement.inputs.findIndex(input => input.name === "stiv_frames");
    node.connect(0, replacement, slot);
    sampler.connect(0, save, 0);
    for (const widget of sampler.widgets) {
        if (widget.name === "steps") widget.value = 3;
        if (widget.name === "control_after_generate") widget.value = "fixed";
    }
    app.graph.updateExecutionOrder();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [240, 580];
    app.canvas.setDirty(true, true);
    app.extensionManager.workflow.activeWorkflow.changeTracker.reset(app.rootGraph.serialize());
}"""


def picture(colour: str, name: str | None = None, size: tuple[int, int] = (72, 56)) -> File:
    """A picture of one colour, with a corner of another so that it has an up and a left."""
    image = Image.new("RGB", size, colour)
    image.paste("white", (4, 4, 20, 12))
    data = BytesIO()
    image.save(data, "PNG")
    return name or f"{colour}.png", "image/png", data.getvalue()


def clip(name: str = "walk.mp4", frames: int = 12) -> File:
    """A clip of a square that walks to the right."""
    data = BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(frames):
            pixels = np.full((64, 64, 3), (20, 60, 30), np.uint8)
            pixels[20:44, 4 * number : 4 * number + 16] = (250, 200, 60)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return name, "video/mp4", data.getvalue()


class Strip:
    """The first STIV Timeline of the open graph; `nth` of those on the page is looked at."""

    def __init__(self, browser: FrontEnd, nth: int = 0) -> None:
        self.browser, self.page, self.nth = browser, browser.page, nth

    @property
    def stage(self) -> Locator:
        return self.page.locator(".stiv-timeline-stage").nth(self.nth)

    @property
    def alert(self) -> Locator:
        return self.page.locator(".stiv-timeline-alert").first

    @property
    def status(self) -> Locator:
        return self.page.locator(".stiv-timeline-status").first

    def tool(self, name: str) -> Locator:
        return self.page.locator(".stiv-timeline").first.get_by_role("button", name=name)

    def wait_until_drawn(self) -> None:
        """Wait until it has its place on the page, and its canvas a size of its own."""
        self.stage.wait_for()
        canvas = "document.querySelector('.stiv-timeline-stage canvas')"
        self.page.wait_for_function(f"() => ![0, 300].includes({canvas}.width)")

    # -- what it says

    def text(self) -> str:
        """The JSON that the node holds."""
        return self.page.evaluate(
            """() => app.graph.nodes.find(node => node.type === "STIVTimeline")
                .widgets.find(widget => widget.name === "timeline").value"""
        )

    def items(self) -> list[dict[str, Any]]:
        return json.loads(self.text() or '{"items": []}')["items"]

    def places(self) -> dict[int | str, str]:
        """File names by position."""
        return {item["at"]: item["file"].rsplit("/", 1)[-1] for item in self.items()}

    def wait_for(self, places: dict[int | str, str]) -> None:
        for _ in range(200):
            if self.places() == places:
                return
            self.page.wait_for_timeout(50)
        said = f"{self.status.text_content()} {self.alert.text_content()}"
        assert self.places() == places, said

    def spoken(self) -> str:
        """What a screen reader says of the chosen frame."""
        return self.stage.get_attribute("aria-valuetext")

    # -- what is done to it

    def drop(self, *files: File, at: int = 0, frames: int = 16) -> None:
        kinds = ["dragenter", "dragover", "drop"]
        self.stage.evaluate(_DROP, [_portable(files), (at + 0.5) / frames, kinds])

    def paste(self, *files: File) -> None:
        """Paste files where the focus is."""
        self.page.evaluate(_PASTE, [_portable(files)])

    def paste_text(self, text: str) -> None:
        """Paste a text where the focus is."""
        self.page.evaluate(
            """text => {
                const data = new DataTransfer();
                data.setData("text/plain", text);
                const paste = new ClipboardEvent(
                    "paste", {clipboardData: data, bubbles: true, cancelable: true});
                document.activeElement.dispatchEvent(paste);
            }""",
            text,
        )

    def drag(self, start: int, end: int, frames: int = 16, copy: bool = False) -> None:
        if copy:
            self.page.keyboard.down("Alt")
        self.page.mouse.move(*self.point(start, frames))
        self.page.mouse.down()
        self.page.mouse.move(*self.point(end, frames), steps=5)
        self.page.mouse.up()
        if copy:
            self.page.keyboard.up("Alt")

    def click(self, frame: int, frames: int = 16) -> None:
        self.page.mouse.click(*self.point(frame, frames))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def undo(self, places: dict[int | str, str], keys: str = "Control+z") -> None:
        """Press undo, or redo, and wait for what must lie there then."""
        self.page.keyboard.press(keys)
        self.wait_for(places)
        # the host takes no second one before the first is done
        tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
        self.page.wait_for_function(f"() => !{tracker}._restoringState")
        expect(self.stage).to_be_focused()  # whoever works by keyboard goes on where they were

    def point(self, frame: int, frames: int = 16) -> tuple[float, float]:
        box = self.stage.bounding_box()
        return box["x"] + (frame + 0.5) / frames * box["width"], box["y"] + box["height"] / 2


def alone(browser: FrontEnd, text: str = "") -> Strip:
    """One STIV Timeline on an empty graph."""
    browser.page.evaluate("app.graph.clear()")
    strip = Strip(browser)
    expect(strip.stage).to_have_count(0)
    browser.page.evaluate(_ALONE, text)
    strip.wait_until_drawn()
    return strip


def in_workflow(browser: FrontEnd) -> Strip:
    browser.load("image_to_video")
    strip = Strip(browser)
    expect(strip.stage).to_have_count(0)
    browser.errors.clear()
    browser.page.evaluate(_IN_WORKFLOW)
    strip.wait_until_drawn()
    return strip


def _portable(files: tuple[File, ...]) -> list[tuple[str, str, str]]:
    return [(name, type_, base64.b64encode(content).decode()) for name, type_, content in files]
