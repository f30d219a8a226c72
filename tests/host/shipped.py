"""The workflows that the pack ships; tests are parametrised on the files that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from scripts.prepare import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NAMES = [path.stem for path in WORKFLOWS]

SAVING = {"SaveVideo": "video", "SaveImage": "images"}


class Asked(NamedTuple):
    """What a workflow's settings promise of the file that it saves."""

    width: int
    height: int
    frames: int
    fps: float | None  # None for a picture


def asked(prompt: Mapping[str, Any]) -> Asked:
    """Read an API-format prompt from its save node back to where the frames are made."""
    scale, fps = 1.0, None
    node = next(node for node in prompt.values() if node["class_type"] in SAVING)
    socket = SAVING[node["class_type"]]
    while node["class_type"] not in ("VAEDecode", "STIVLongVideo", "ImageGrid"):
        node = prompt[node["inputs"][socket][0]]
        match node["class_type"]:
            case "CreateVideo":
                fps, socket = float(node["inputs"]["fps"]), "images"
            case "ImageScaleBy":
                scale, socket = scale * node["inputs"]["scale_by"], "image"
    width, height, frames = _made(prompt, node)
    return Asked(round(width * scale), round(height * scale), frames, fps)


def _made(prompt: Mapping[str, Any], node: Mapping[str, Any]) -> tuple[int, int, int]:
    """Width, height and number of the pictures that a node makes."""
    inputs = node["inputs"]
    match node["class_type"]:
        case "VAEDecode":
            return _sizes(_only(prompt, "STIVEmptyLatent"))
        case "ImageGrid":
            count = _only(prompt, "ImageFromBatch")["length"]
            columns, rows = inputs["columns"], -(-count // inputs["columns"])
            across = columns * inputs["cell_width"] + (columns - 1) * inputs["padding"]
            return across, rows * inputs["cell_height"] + (rows - 1) * inputs["padding"], 1
        case "STIVLongVideo":
            return _made(prompt, prompt[inputs["plan"][0]])
        case "STIVInterpolationPlan":
            width, height, frames = _sizes(_only(prompt, "STIVEmptyLatent"))
            return width, height, int(inputs["factor"]) * frames
        case "STIVPredictionPlan":
            return _sizes(inputs)
        case "STIVLongVideoPlan":
            frames = (inputs["key_frames"] - 1) * inputs["stride"] + inputs["closing"]
            return inputs["width"], inputs["height"], frames
    raise ValueError(f"this test cannot tell what a {node['class_type']} makes")


def _only(prompt: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    (node,) = (node for node in prompt.values() if node["class_type"] == kind)
    return node["inputs"]


def _sizes(inputs: Mapping[str, Any]) -> tuple[int, int, int]:
    return inputs["width"], inputs["height"], inputs["frames"]
