"""What a CLIP of the user's sees: how beautiful a segment is, and whether it stays the same.

`aesthetic` is LAION's predictor on the mean of the frames' features, about 1 to 10 (null without
its weights); `consistency` the mean cosine of neighbouring frames, 1 = the same, as VBench's
background consistency; `drift` that of the first and the last frame.

The predictor is a chain of linear layers without anything between them, on features of length 1
(improved-aesthetic-predictor, for ViT-L/14).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..reader import Frame, Uniform
from ..rows import Row, Section
from ..step import FrameStep, NotReady
from .sampling import FRAMES

_LARGEST_LAYER = 2**24  # weights


@dataclass(frozen=True)
class Clip(FrameStep):
    """folder: a CLIP as transformers saves it. aesthetic: the predictor's .safetensors. frames:
    looked at, spread evenly. device: that torch knows."""

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    packages: ClassVar[dict[str, str]] = {"torch": "torch", "transformers": "transformers"}
    unstamped: ClassVar[tuple[str, ...]] = ("folder", "aesthetic", "device")
    limits: ClassVar[dict[str, tuple[float, float]]] = {"frames": FRAMES}

    folder: str = ""
    aesthetic: str = ""
    frames: int = 4
    device: str = "cpu"

    @property
    def memory(self) -> int | None:  # libraries for GPUs reserve more than they use
        return 2**34 if self.device == "cpu" else None

    @cached_property
    def _digests(self) -> dict[str, str | None]:
        from ...files import sha256

        predictor = sha256(Path(self.aesthetic)) if self.aesthetic else None
        return {"clip": sha256(Path(self.folder) / "model.safetensors"), "aesthetic": predictor}

    def stamp(self) -> dict:
        """With the weights' hashes: where they lie changes nothing."""
        return {**super().stamp(), **self._digests}

    @cached_property
    def model(self):
        from ...evaluation.clip_score import Clip as Model

        return Model(Path(self.folder) if self.folder else None, self.device)

    @cached_property
    def predictor(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return read_predictor(Path(self.aesthetic)) if self.aesthetic else []

    def check(self) -> None:
        super().check()
        try:
            width = self.model.embed(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
            layers = self.predictor
        except (ValueError, OSError) as error:
            raise NotReady(f"clip: {error}") from error
        self.__dict__.pop("model")  # the worker processes load their own
        if layers and layers[0][0].shape[1] != width:
            raise NotReady(
                f"{self.aesthetic} takes {layers[0][0].shape[1]} features, {self.folder} gives "
                f"{width}: give the predictor that was trained on this CLIP"
            )

    def start(self, row: Row) -> _Clip:
        return _Clip(self, Uniform(self.frames, row))


class _Clip:
    def __init__(self, step: Clip, picker: Uniform):
        self.wants = picker.wants
        self._step = step
        self._features: list[np.ndarray] = []

    def add(self, frame: Frame) -> None:
        (features,) = self._step.model.embed(frame.rgb(256)[None])
        self._features.append(features)

    def result(self) -> Section:
        if not self._features:
            raise ValueError("none of the frames to look at could be decoded")
        unit = np.stack(self._features)
        near = [float(a @ b) for a, b in pairwise(unit)]
        mean = unit.mean(0)
        score = predict(self._step.predictor, mean / np.linalg.norm(mean))
        return {
            "aesthetic": None if score is None else round(score, 4),
            "consistency": round(float(np.mean(near)), 5) if near else None,
            "drift": round(float(unit[0] @ unit[-1]), 5) if near else None,
        }


def read_predictor(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a predictor's linear layers, in order, as float32.

    Raises ValueError for a file that is no .safetensors with such layers, one after the other.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix.lower() != ".safetensors":
        raise ValueError(
            f"{path}: expected .safetensors. A .pth can run code when it is opened; torch.load(…, "
            "weights_only=True) does not, and safetensors.torch.save_file writes what it gives"
        )
    try:
        with safe_open(path, "np") as file:
            names = [name for name in file.keys() if name.endswith("weight")]  # noqa: SIM118
            names.sort(key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
            layers = []
            for name in names:
                bias = name.removesuffix("weight") + "bias"
                shape = file.get_slice(name).get_shape()
                if len(shape) != 2 or shape[0] * shape[1] > _LARGEST_LAYER:
                    raise ValueError(f"{name} is {shape}: expected a linear layer")
                weight, offset = file.get_tensor(name), file.get_tensor(bias)
                layers.append((np.float32(weight), np.float32(offset)))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    sizes = [weight.shape for weight, _ in layers]
    fits = all(a[0] == b[1] for a, b in pairwise(sizes))
    if not layers or not fits or sizes[-1][0] != 1:
        raise ValueError(f"{path} has layers of {sizes}: expected a chain that ends in one number")
    return layers


def predict(layers: list[tuple[np.ndarray, np.ndarray]], features: np.ndarray) -> float | None:
    """The predictor's score for features of length 1, (D,); None without layers."""
    if not layers:
        return None
    for weight, bias in layers:
        features = weight @ features + bias
    return float(features[0])
