"""Drawn sets as data sets to train on: latents are read from shards, captions are drawn anew."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data.plan import Sample
from ..encoders.vae import FrameVAE
from .cache import encode_shards, normalised, read_shards, read_stats
from .captions import caption
from .scene import Scene, scene_from_seed

_VARIANTS = 8  # captions of a clip each time that it comes up


class DrawnSet:
    """The shards of a split as a `Dataset` of one bucket. A subclass tells what is its own.

    stats: of the clips, see `training.shapes.cache.write_stats`: one model learns from all drawn
    sets, so all are normalised alike. provenance: what the shards must have been made with.
    Raises ValueError where they are missing or were made with anything else.
    """

    name: str

    def __init__(self, folder: Path, split: str, stats: Mapping[str, Any], provenance: dict):
        self.split, self.provenance = split, provenance
        #: (N, C, T, H, W) float16, as the VAE gave them
        self.raw: Tensor
        self.raw, self.seeds = read_shards(folder, split, provenance)
        self.shift: list[float] = stats["mean"]
        self.scale: list[float] = [1 / s for s in stats["std"]]
        self.latents = latent_space(self.shift, self.scale)

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def buckets(self) -> Mapping[str, int]:
        """The one bucket, and how many samples there are."""
        return {"x".join(map(str, self.raw.shape[2:])): len(self)}

    def load(self, bucket: str, index: int) -> Sample:
        """Sample `index`, a function of nothing but it."""
        raw = self.raw_latents(index)
        size, frames = self.provenance["size"], raw.shape[1]
        return Sample(
            normalised(raw.float(), self.shift, self.scale).numpy(),
            self.captions(index),
            np.array([size, size, 0, 0, self.stride(index), frames], np.float32),
            self.key(index),
        )

    def digest(self) -> str:
        """SHA-256 over the latents as they are stored: what a model was trained on."""
        return hashlib.sha256(self.raw.numpy().tobytes()).hexdigest()

    def raw_latents(self, index: int) -> Tensor:
        """(C, T, H, W) of a sample, as the VAE gave them."""
        return self.raw[index]

    def captions(self, index: int) -> tuple[str, ...]:
        """Variants; none where nothing is said of what is seen."""
        return ()

    def stride(self, index: int) -> int:
        """Frames of the clip from one that is shown to the next (micro condition)."""
        return 1

    def key(self, index: int) -> str:
        """A sample's name."""
        return f"{self.name}#{self.seeds[index]}"


class BesideClips(DrawnSet, ABC):
    """A drawn set of its own, in a folder `name` beside the clips' shards.

    folder: that folder. Raises ValueError where the clips or the set are missing, or were not made
    with the same VAE and size.
    """

    made_with: type
    """A dataclass of vae, size and what else decides the latents; part of every shard's metadata:
    its fields keep their order."""

    def __init__(self, folder: Path | str, split: str = "train"):
        folder = Path(folder)
        stats = read_stats(folder.parent)
        clips = stats["provenance"]
        made_with = self.made_with(vae=clips["vae"], size=clips["size"])
        super().__init__(folder, split, stats, asdict(made_with))

    @staticmethod
    @abstractmethod
    def draw(seed: int, split: str, size: int) -> np.ndarray:
        """The frames of a seed, uint8 (T, size, size, 3)."""

    @classmethod
    def encode(
        cls,
        vae: FrameVAE,
        latents: Path,
        split: str,
        count: int,
        *,
        size: int = 64,
        **settings: Any,
    ) -> list[Path]:
        """Draws and encodes seeds 0 … count - 1 of a split, in `name` below the clips' folder
        `latents`; returns the shards' paths.

        settings: of `encode_shards`, which also tells how a stopped run goes on.
        """

        def render(seeds: Sequence[int]) -> np.ndarray:
            return np.stack([cls.draw(seed, split, size) for seed in seeds])

        provenance = asdict(cls.made_with(vae=vae.hash, size=size))
        return encode_shards(vae, latents / cls.name, split, count, render, provenance, **settings)


class ShapesDataset(DrawnSet):
    """The clips of `python -m training.shapes.cache`.

    The latents are per frame, so playing a clip backwards is exact: with `reverse`, clips follow
    that are another's reversal, captioned as what they then show. A reversal that no motion
    describes (growing) or whose combination is held out is left out. still: captions say nothing
    of motion, for single frames. every: one frame of so many, from the first on.
    """

    name = "shapes"

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        *,
        reverse: bool = False,
        still: bool = False,
        every: int = 1,
    ):
        folder = Path(folder)
        stats = read_stats(folder)
        super().__init__(folder, split, stats, stats["provenance"])
        self.still, self.every = still, every
        self.raw = self.raw[:, :, ::every]
        if every > 1:
            self.strides = (every, every)  # of a card, see `training.streams.strides_of`
        rows = range(len(self.raw))
        self._clips = [(row, False) for row in rows]
        if reverse:
            self._clips += [(row, True) for row in rows if self._is_reversible(row)]

    def __len__(self) -> int:
        return len(self._clips)

    def raw_latents(self, index: int) -> Tensor:
        """Those of the clip, backwards for a reversal."""
        row, is_reversed = self._clips[index]
        return self.raw[row].flip(1) if is_reversed else self.raw[row]

    def stride(self, index: int) -> int:
        """The same for all clips."""
        return self.every

    def captions(self, index: int) -> tuple[str, ...]:
        """What the clip shows, in several wordings."""
        return wordings(self.scene(index), (index, 11), still=self.still)

    def key(self, index: int) -> str:
        """By number: a reversal has its clip's seed."""
        return f"shapes#{index}"

    def scene(self, index: int) -> Scene:
        """The scene that a clip shows."""
        row, is_reversed = self._clips[index]
        scene = scene_from_seed(self.seeds[row], self.split)
        return scene.reverse() if is_reversed else scene

    def _is_reversible(self, row: int) -> bool:
        scene = scene_from_seed(self.seeds[row], self.split).reverse()
        return scene is not None and scene.is_held_out() == (self.split == "held_out")


def wordings(scene: Scene, seed: Sequence[int], *, still: bool = False) -> tuple[str, ...]:
    """Captions of a scene, a function of the seed."""
    rng = np.random.default_rng(seed)
    return tuple(caption(scene, rng, still=still) for _ in range(_VARIANTS))


def latent_space(shift: list[float], scale: list[float]) -> dict[str, Any]:
    """The space of the nano's latents, as in a checkpoint's card."""
    return {
        "name": "custom", "channels": len(scale), "scale": scale, "shift": shift, "downscale": 8,
    }  # fmt: skip
