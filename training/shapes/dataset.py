"""The procedural clips as a data set to train on; captions are drawn anew from each scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.plan import Sample
from .cache import LatentCache

_VARIANTS = 8  # captions of a clip each time that it comes up


class ShapesDataset:
    """A latent cache of `python -m training.shapes.cache` as a `Dataset` of one bucket.

    reverse: see `LatentCache`. still: captions say nothing of motion, for single frames.
    Raises ValueError for a missing or inconsistent cache.
    """

    name = "shapes"

    def __init__(self, folder: Path | str, *, reverse: bool = False, still: bool = False):
        self.cache = LatentCache(folder, reverse=reverse)
        self.still = still
        self.provenance: dict[str, Any] = asdict(self.cache.provenance)
        shape = self.cache.raw.shape
        self.buckets: Mapping[str, int] = {"x".join(map(str, shape[2:])): len(self.cache)}
        self.latents = latent_space(self.cache.shift, self.cache.scale)

    def load(self, bucket: str, index: int) -> Sample:
        """Clip `index`, with captions that depend on nothing but it."""
        latents = self.cache.latents([index])[0]
        rng = np.random.default_rng([index, 11])
        captions = tuple(self.cache.caption(index, rng, still=self.still) for _ in range(_VARIANTS))
        size = self.provenance["size"]
        micro = np.array([size, size, 0, 0, 1, latents.shape[1]], np.float32)
        return Sample(latents.numpy(), captions, micro, f"shapes#{index}")

    def digest(self) -> str:
        """SHA-256 of the latents."""
        return self.cache.digest()


def latent_space(shift: list[float], scale: list[float]) -> dict[str, Any]:
    """The space of the nano's latents, as in a checkpoint's card."""
    return {
        "name": "custom", "channels": len(scale), "scale": scale, "shift": shift, "downscale": 8,
    }  # fmt: skip
