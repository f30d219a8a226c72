"""Long clips of the shapes domain, slowed down: their key frames, and the gaps between them.

A clip whose motion takes STRIDE times as long has an ordinary clip as its key frames, STRIDE apart,
and STRIDE - 1 frames more between every two of them. A hierarchy (paper, long video) makes the
former with the stride as micro condition, then the latter from their first and last frame. Gaps
lie in a folder `gaps` beside the clips; key frames are the clips themselves.

    python -m training.shapes.slow --vae vae.safetensors --latents latents --train 6000
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import GAPS, KEYS
from ..data.plan import Sample
from ..encoders.vae import FrameVAE, open_vae
from . import DOMAIN_VERSION
from .cache import encode_shards, normalised, read_shards, read_stats
from .captions import caption
from .dataset import ShapesDataset, latent_space
from .render import render_times
from .scene import Scene, scene_from_seed

STRIDE = 15
"""Frames from one key frame to the next: a gap with both its ends is 16 frames, as every clip."""
STRIDES = (2, 20)
"""Of the key frames, least and most: which it is does not show in them."""
_GAPS = 15  # of a clip of 16 key frames
_VARIANTS = 8


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the gaps of a cache were made with; part of every shard's metadata."""

    vae: str
    domain: int = DOMAIN_VERSION
    size: int = 64
    stride: int = STRIDE


class KeyFrames(ShapesDataset):
    """The clips as key frames of slower ones: the same frames, a larger stride in their micro
    conditions."""

    name = KEYS
    strides = STRIDES

    def load(self, bucket: str, index: int) -> Sample:
        """Clip `index` with a stride that depends on nothing but it."""
        sample = super().load(bucket, index)
        low, high = self.strides
        sample.micro[4] = np.random.default_rng([index, 12]).integers(low, high + 1)
        return sample


class Gaps:
    """The gaps as a `Dataset` of one bucket: 16 frames in which little moves.

    folder: `gaps` below the latents of the clips. Raises ValueError where these or the gaps are
    missing, or were not made with the same VAE and size.
    """

    name = GAPS

    def __init__(self, folder: Path | str, split: str = "train"):
        folder = Path(folder)
        stats = read_stats(folder.parent)
        made_with = stats["provenance"]
        self.provenance: dict[str, Any] = asdict(
            Provenance(vae=made_with["vae"], size=made_with["size"])
        )
        self.split = split
        self.raw, self.seeds = read_shards(folder, split, self.provenance)
        self._shift, self._scale = stats["mean"], [1 / s for s in stats["std"]]
        self.latents = latent_space(self._shift, self._scale)
        self._bucket = "x".join(map(str, self.raw.shape[2:]))
        self.buckets: Mapping[str, int] = {self._bucket: len(self.raw)}

    def load(self, bucket: str, index: int) -> Sample:
        """Gap `index`, with captions that depend on nothing but it."""
        latents = normalised(self.raw[index : index + 1].float(), self._shift, self._scale)[0]
        rng, scene = np.random.default_rng([index, 13]), gap(self.seeds[index], self.split)[0]
        size, frames = self.provenance["size"], latents.shape[1]
        return Sample(
            latents.numpy(),
            tuple(caption(scene, rng) for _ in range(_VARIANTS)),
            np.array([size, size, 0, 0, 1, frames], np.float32),
            f"{GAPS}#{self.seeds[index]}",
        )

    def digest(self) -> str:
        """SHA-256 of the latents."""
        return hashlib.sha256(self.raw.numpy().tobytes()).hexdigest()


def gap(seed: int, split: str) -> tuple[Scene, np.ndarray]:
    """The scene that belongs to a seed, and the 16 times of one of its gaps, both ends included."""
    number = int(np.random.default_rng([seed, 14]).integers(_GAPS))
    return scene_from_seed(seed, split), (number + np.linspace(0, 1, STRIDE + 1)) / _GAPS


def encode_gaps(
    vae: FrameVAE, latents: Path, split: str, count: int, *, size: int = 64, **settings: Any
) -> list[Path]:
    """Renders and encodes a gap of each of the seeds 0 … count - 1 of a split, in `gaps` below the
    folder `latents`; returns the shards' paths.

    settings: of `training.shapes.cache.encode_shards`, which also tells how a stopped run goes on.
    """

    def render(seeds: Sequence[int]) -> np.ndarray:
        return np.stack([render_times(*gap(seed, split), size) for seed in seeds])

    provenance = asdict(Provenance(vae=vae.hash, size=size))
    return encode_shards(vae, latents / GAPS, split, count, render, provenance, **settings)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.shapes.slow", description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--latents", type=Path, required=True, help="of training.shapes.cache")
    parser.add_argument("--train", type=int, default=6000, help="gaps of the training split")
    parser.add_argument("--held-out", type=int, default=256, help="of the held-out split")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae = open_vae(args.vae, frames_at_once=64)
    encode_gaps(vae, args.latents, "held_out", args.held_out)
    encode_gaps(vae, args.latents, "train", args.train)


if __name__ == "__main__":
    main()
