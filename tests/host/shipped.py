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
    latent = next(n["inputs"] for n in prompt.values() if n["class_type"] == "STIVEmptyLatent")
    scale, fps = 1.0, None
    node = next(node for node in prompt.values() if node["class_type"] in SAVING)
    socket = SAVING[node["class_type"]]
    while node["class_type"] not in ("VAEDecode", "STIVLongVideo"):
        node = prompt[node["inputs"][socket][0]]
        match node["class_type"]:
            case "CreateVideo":
                fps, socket = float(node["inputs"]["fps"]), "images"
            case "ImageScaleBy":
                scale, socket = scale * node["inputs"]["scale_by"], "image"
    width, height = (round(latent[side] * scale) for side in ("width", "height"))
    frames = latent["frames"]
    if node["class_type"] == "STIVLongVideo":
        frames = _planned(prompt[node["inputs"]["plan"][0]], frames)
    return Asked(width, height, frames, fps)


def _planned(plan: Mapping[str, Any], clip: int) -> int:
    inputs = plan["inputs"]
    match plan["class_type"]:
        case "STIVInterpolationPlan":
            return int(inputs["factor"]) * clip
        case "STIVPredictionPlan":
            return inputs["frames"]
    raise ValueError(f"this test cannot tell how many frames a {plan['class_type']} asks for")
