"""Multi-view on the real server: nested settings, the preview, the warning, the contact sheet."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts.host import ComfyServer, HostError

_TEXT = 3  # kind of the binary messages that put text on a node


def prompt(views: int = 2) -> dict[str, Any]:
    """Two views of the picture that every ComfyUI has, and a contact sheet of all three."""
    nodes = {
        "load": ("STIVLoadCheckpoint", {"ckpt_name": "stiv_nano (bundled)"}),
        "text": ("STIVTextEncode", {"clip": ["load", 1], "text": ""}),
        "image": ("LoadImage", {"image": "example.png"}),
        "views": (
            "STIVMultiView",
            {
                "positive": ["text", 0], "negative": ["text", 0], "vae": ["load", 2],
                "image": ["image", 0], "mask": ["image", 1], "size": 64,
                "rig": "turntable", "rig.views": views, "rig.elevation": 20.0,
            },
        ),
        "sampler": (
            "KSampler",
            {
                "model": ["load", 0], "positive": ["views", 0], "negative": ["views", 1],
                "latent_image": ["views", 2], "seed": 1, "steps": 1, "cfg": 3.5,
                "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["load", 2]}),
        "sheet": (
            "ImageGrid",
            {
                "images": ["decode", 0], "columns": 3, "cell_width": 64, "cell_height": 64,
                "padding": 0,
            },
        ),
        "show": ("PreviewImage", {"images": ["sheet", 0]}),
    }  # fmt: skip
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def texts(server: ComfyServer, start: int) -> list[tuple[str, str]]:
    """(node, text) of what was put on nodes since message `start`."""
    found = []
    for message in server.previews[start:]:
        kind, length = struct.unpack(">II", message[:8])
        if kind == _TEXT:
            found.append((message[8 : 8 + length].decode(), message[8 + length :].decode()))
    return found


def test_views_from_a_picture_to_a_contact_sheet(server: ComfyServer) -> None:
    start = len(server.previews)
    run = server.run(prompt())
    shown = {name: output["images"] for name, output in run.outputs.items() if "images" in output}
    assert [len(shown[name]) for name in ("views", "show")] == [2, 1]
    (sheet,) = (Path(file) for file in run.files[2:])
    with Image.open(sheet) as opened:
        assert opened.size == (3 * 64, 64)

    told = texts(server, start)
    (report,) = [text for node, text in told if node == "views"]
    assert report.startswith("turntable: 2 views; subject")
    # Whatever the bundled model was trained for, it was not trained for two views.
    (warning,) = [text for node, text in told if node == "sampler"]
    assert warning.startswith("⚠ STIV Multi-View: this model") and warning[2:] in server.log


def test_the_host_refuses_settings_out_of_range(server: ComfyServer) -> None:
    with pytest.raises(HostError, match=r"STIVMultiView #views: Value 0 smaller than min"):
        server.run(prompt(views=0))
