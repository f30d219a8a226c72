"""Draw the picture of every node for its help page, in ComfyUI's own front end.

make pictures
python3 scripts/prepare.py run -m scripts.pictures STIVTimeline

Each node stands in a small graph (`EXAMPLES`); the picture is cut out around it, with the ends of
its wires.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.host import ComfyServer, HostError
from scripts.prepare import ROOT, PrepareError, need_host

if TYPE_CHECKING:
    from tests.host.front_end import FrontEnd

PICTURES = ROOT / "js" / "docs" / "pictures"
PLACED = ("square_small.png", "square_larger.png", "square_large.png")  # for nodes that load some
LARGEST = 60_000  # bytes
MARGIN = 48  # pixels around the node, in which its wires end
SHARPNESS = 2  # pixels of the picture per pixel of the page
SETTLE_MS = 700


@dataclass(frozen=True)
class Example:
    """A node among others.

    before: what feeds its inputs, "Type.output" by input, "Type#2" being another of that type.
    after: what its outputs feed, "Type.input" by output. widgets: values; feeders: those of the
    others. run: press Run first, for which `more` has wires between the others.
    """

    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    widgets: Mapping[str, Any] = field(default_factory=dict)
    feeders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    more: Sequence[tuple[str, str]] = ()
    run: bool = False


_PROMPTS = {"positive": "STIVTextEncode.conditioning", "negative": "STIVTextEncode#2.conditioning"}
_VAE, _MODEL = "STIVLoadCheckpoint.vae", "STIVLoadCheckpoint.model"
_TO_SAMPLER = {
    "positive": "KSampler.positive",
    "negative": "KSampler.negative",
    "latent": "KSampler.latent_image",
}
_PLAN = "STIVLongVideoPlan.plan"
_BY_HAND = {
    "latent": "STIVFrameReplacement.latent",
    "stiv_frames": "STIVFrameReplacement.stiv_frames",
    "prompt": "STIVTextEncode.text",
    "seed": "KSampler.seed",
}

EXAMPLES = {
    "STIVLoadModel": Example(after={"model": "STIVGuidance.model"}),
    "STIVLoadCheckpoint": Example(
        after={
            "model": "STIVGuidance.model",
            "clip": "STIVTextEncode.clip",
            "vae": "STIVFrameReplacement.vae",
        }
    ),
    "STIVVideoVAE": Example({"vae": "VAELoader.VAE"}, {"vae": "VAEDecode.vae"}),
    "STIVTextEncode": Example(
        {"clip": "STIVLoadCheckpoint.clip"},
        {"conditioning": "STIVFrameReplacement.positive"},
        {"text": "a yellow square bounces up and down on a navy background"},
    ),
    "STIVEmptyLatent": Example(after={"latent": "STIVFrameReplacement.latent"}),
    "STIVPlaceFrames": Example(
        {"frames": "LoadImage.IMAGE"}, {"stiv_frames": "STIVFrameReplacement.stiv_frames"}
    ),
    "STIVTimeline": Example(
        after={"stiv_frames": "STIVFrameReplacement.stiv_frames"},
        widgets={
            "frames": 10,
            "timeline": json.dumps(
                {
                    "version": 1,
                    "items": [
                        {"at": at, "file": file}
                        for at, file in zip((0, 5, "last"), PLACED, strict=True)
                    ],
                }
            ),
        },
    ),
    "STIVFrameReplacement": Example(
        {
            **_PROMPTS,
            "vae": _VAE,
            "latent": "STIVEmptyLatent.latent",
            "stiv_frames": "STIVPlaceFrames.stiv_frames",
        },
        _TO_SAMPLER,
    ),
    "STIVMultiView": Example(
        {**_PROMPTS, "vae": _VAE, "image": "LoadImage.IMAGE"},
        _TO_SAMPLER,
        {"size": 64},
        {"LoadImage": {"image": PLACED[-1]}, "KSampler": {"steps": 1}},
        [
            ("STIVLoadCheckpoint.clip", "STIVTextEncode.clip"),
            ("STIVLoadCheckpoint.clip", "STIVTextEncode#2.clip"),
            (_MODEL, "KSampler.model"),
            ("KSampler.LATENT", "VAEDecode.samples"),
            (_VAE, "VAEDecode.vae"),
            ("VAEDecode.IMAGE", "PreviewImage.images"),
        ],
        run=True,
    ),
    "STIVGuidance": Example(
        {"model": _MODEL}, {"model": "KSampler.model"}, {"mode": "separate", "image_scale": 1.5}
    ),
    "STIVGuider": Example(
        {
            "model": _MODEL,
            "positive": "STIVFrameReplacement.positive",
            "negative": "STIVFrameReplacement.negative",
        },
        {"guider": "SamplerCustomAdvanced.guider"},
        {"mode": "separate", "cfg": 7.5},
    ),
    "STIVGuidanceInterval": Example({"model": "STIVGuidance.model"}, {"model": "KSampler.model"}),
    "STIVCompile": Example({"model": _MODEL}, {"model": "KSampler.model"}),
    "STIVFasterCPU": Example({"model": _MODEL}, {"model": "KSampler.model"}),
    "STIVLongVideoPlan": Example(
        after={"plan": "STIVLongVideo.plan"},
        widgets={
            "prompts": "a green circle orbits the center on a black background",
            "key_frames": 5,
        },
    ),
    "STIVPredictionPlan": Example(
        {"clip": "LoadImage.IMAGE"},
        {"plan": "STIVLongVideo.plan"},
        {"prompts": "a red cross moves left on a beige background"},
    ),
    "STIVInterpolationPlan": Example({"clip": "LoadImage.IMAGE"}, {"plan": "STIVLongVideo.plan"}),
    "STIVLongVideo": Example(
        {"model": _MODEL, "clip": "STIVLoadCheckpoint.clip", "vae": _VAE, "plan": _PLAN},
        {"video": "SaveVideo.video"},
        {"steps": 20, "cfg": 4},
        {
            "STIVLongVideoPlan": {
                "prompts": "a green circle orbits the center on a black background",
                "key_frames": 4,
                "stride": 7,
                "window": 16,
            }
        },
        run=True,
    ),
    "STIVKeyFrames": Example({"plan": _PLAN}, _BY_HAND),
    "STIVSegment": Example({"plan": _PLAN, "made": "KSampler#2.LATENT"}, _BY_HAND),
    "STIVJoinSegments": Example(
        {"segments.segment0": "VAEDecode.IMAGE", "segments.segment1": "VAEDecode#2.IMAGE"},
        {"video": "SaveVideo.video"},
    ),
    "STIVModelInfo": Example({"model": _MODEL}, run=True),
    "STIVSaveCheckpoint": Example(
        {"model": _MODEL, "clip": "STIVLoadCheckpoint.clip", "vae": _VAE},
        widgets={"title": "My model"},
    ),
}

# Makes the graph: the node in the middle, the others beside it in the order of its sockets.
_MAKE = """async ([type, example]) => {
    const made = {};
    const make = (name, column) => made[name] ??= Object.assign(
        LiteGraph.createNode(name.split("#")[0]), {stivColumn: column});
    const named = (slots, name) => slots.findIndex(slot => slot.name === name);
    const set = (node, values) => Object.entries(values).forEach(([name, value]) => {
        const widget = node.widgets.find(widget => widget.name === name);
        widget.value = value;
        widget.callback?.(value);
    });
    // without either the front end takes the nodes for those before: their values, their pictures
    await app.extensionManager.command.execute("Comfy.NewBlankWorkflow");
    app.graph.id = crypto.randomUUID();
    const middle = LiteGraph.createNode(type);
    app.graph.add(middle);
    set(middle, example.widgets);
    const wires = [];
    for (const [input, source] of Object.entries(example.before)) {
        const [name, output] = source.split(".");
        wires.push([make(name, -1), output, middle, input]);
    }
    for (const [output, target] of Object.entries(example.after)) {
        const [name, input] = target.split(".");
        wires.push([middle, output, make(name, 1), input]);
    }
    for (const [source, target] of example.more) {
        const [[from, output], [to, input]] = [source.split("."), target.split(".")];
        wires.push([make(from, 1), output, make(to, 1), input]);
    }
    for (const [name, node] of Object.entries(made)) {
        app.graph.add(node);
        set(node, example.feeders[name] ?? {});
    }
    for (const [from, output, to, input] of wires) {
        const [source, target] = [named(from.outputs, output), named(to.inputs, input)];
        if (source < 0 || target < 0)
            throw new Error(`${from.type}.${output} to ${to.type}.${input}: no such socket`);
        from.connect(source, to, target);
    }
    window.stivExample = {middle, others: Object.values(made)};
}"""

# Once sizes are known: the node in the middle of the page, the others at its sides, far enough.
_ARRANGE = """() => {
    const {middle, others} = window.stivExample;
    const [width, height] = middle.size;
    const [gap, {ds}] = [140, app.canvas];
    ds.scale = 1;
    ds.offset = [innerWidth / 2 - width / 2, innerHeight / 2 - height / 2];
    middle.pos = [0, 0];
    const next = {"-1": 0, "1": 0};
    for (const node of others) {
        const column = node.stivColumn;
        node.pos = [column < 0 ? -gap - node.size[0] : width + gap, next[column]];
        next[column] += node.size[1] + 60;
    }
    app.canvas.deselectAll?.();
    app.canvas.setDirty(true, true);
}"""

_BOX = """() => {
    const {middle} = window.stivExample;
    const [left, top, width, height] = middle.boundingRect;
    const {offset, scale} = app.canvas.ds;
    return {x: (left + offset[0]) * scale, y: (top + offset[1]) * scale,
            width: width * scale, height: height * scale};
}"""


def draw(browser: FrontEnd, node: str) -> bytes:
    """The node in its example graph, as WebP."""
    page, example = browser.page, EXAMPLES[node]
    page.evaluate(
        _MAKE,
        [
            node,
            {
                "before": dict(example.before),
                "after": dict(example.after),
                "widgets": dict(example.widgets),
                "feeders": {name: dict(values) for name, values in example.feeders.items()},
                "more": list(example.more),
            },
        ],
    )
    page.wait_for_timeout(SETTLE_MS)
    if example.run:
        browser.server.wait(browser.press_run())
        page.wait_for_timeout(SETTLE_MS)
    page.evaluate(_ARRANGE)
    page.mouse.move(2, 2)
    page.wait_for_timeout(SETTLE_MS)
    box = page.evaluate(_BOX)
    clip = {
        "x": box["x"] - MARGIN,
        "y": box["y"] - MARGIN / 2,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + MARGIN,
    }
    return webp(page.screenshot(clip=clip))


def put_pictures(folder: Path) -> None:
    """Draw what the nodes load in their examples: a square that grows."""
    from PIL import Image

    for name, side in zip(PLACED, (32, 64, 96), strict=True):
        picture = Image.new("RGB", (256, 256), "#121858")
        corner = (picture.width - side) // 2
        picture.paste("#fae12d", (corner, corner, corner + side, corner + side))
        picture.save(folder / name)


def webp(png: bytes, largest: int = LARGEST) -> bytes:
    """A picture as WebP in the best quality that takes at most `largest` bytes."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        for quality in range(90, 20, -10):
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=quality, method=6)
            if buffer.tell() <= largest:
                break
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    from tests.host.front_end import front_ends
    from tests.hosting import find_chromium

    parser = argparse.ArgumentParser(prog="scripts.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("nodes", nargs="*", metavar="node", help="ids; all, if left out")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.nodes) - set(EXAMPLES))
    if unknown:
        parser.error(f"there is no node {unknown[0]!r}: choose of {', '.join(EXAMPLES)}")
    chromium = find_chromium()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    try:
        if chromium is None:
            raise PrepareError("Chromium is not installed: it shows ComfyUI's front end")
        with (
            tempfile.TemporaryDirectory(prefix="stiv-pictures-") as base,
            ComfyServer(need_host(), base=Path(base), cpu=True) as server,
            front_ends(server, chromium, sharpness=SHARPNESS) as new,
        ):
            put_pictures(server.input_dir)
            browser = new().open(vue_nodes=True)
            PICTURES.mkdir(exist_ok=True)
            for node in options.nodes or EXAMPLES:
                path = PICTURES / f"{node}.webp"
                path.write_bytes(draw(browser, node))
                print(f"{path} ({path.stat().st_size / 1000:.0f} kB)", flush=True)
    except (HostError, PrepareError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
