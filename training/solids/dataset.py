"""View sets of solids as VAE latents on disk, and as a data set to train multi-view on.

They lie in a folder `solids` beside the clips of `training.shapes.cache`, in shards of the same
kind: one model learns from both, so they are normalised by the clips' `stats.json`.

    python -m training.solids.dataset --vae vae.safetensors --latents latents --train 10000 \\
        --held-out 256
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

from stiv.views import ZERO123PLUS

from ..config import SOLIDS
from ..data.plan import Sample
from ..encoders.vae import FrameVAE, open_vae
from ..shapes.cache import encode_shards, normalised, read_shards, read_stats
from ..shapes.dataset import latent_space
from . import DOMAIN_VERSION
from .render import view_set
from .scene import scene_from_seed


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the views of a cache were made with; part of every shard's metadata."""

    vae: str
    domain: int = DOMAIN_VERSION
    size: int = 64
    rig: str = str(ZERO123PLUS)


class SolidsDataset:
    """The view sets of a split as a `Dataset` of one bucket: no captions, seven frames.

    folder: `solids` below the latents of the shapes domain. Raises ValueError where these or the
    views are missing, or were not made with the same VAE and size.
    """

    name = SOLIDS

    def __init__(self, folder: Path | str, split: str = "train"):
        folder = Path(folder)
        stats = read_stats(folder.parent)
        made_with = stats["provenance"]
        self.provenance: dict[str, Any] = asdict(
            Provenance(vae=made_with["vae"], size=made_with["size"])
        )
        self.raw, self.seeds = read_shards(folder, split, self.provenance)
        self._shift, self._scale = stats["mean"], [1 / s for s in stats["std"]]
        self.latents = latent_space(self._shift, self._scale)
        self._bucket = "x".join(map(str, self.raw.shape[2:]))
        self.buckets: Mapping[str, int] = {self._bucket: len(self.raw)}

    def load(self, bucket: str, index: int) -> Sample:
        """View set `index`."""
        latents = normalised(self.raw[index : index + 1].float(), self._shift, self._scale)[0]
        size, frames = self.provenance["size"], latents.shape[1]
        micro = np.array([size, size, 0, 0, 1, frames], np.float32)
        return Sample(latents.numpy(), (), micro, f"solids#{self.seeds[index]}")

    def digest(self) -> str:
        """SHA-256 of the latents."""
        return hashlib.sha256(self.raw.numpy().tobytes()).hexdigest()


def encode_views(
    vae: FrameVAE, latents: Path, split: str, count: int, *, size: int = 64, **settings: Any
) -> list[Path]:
    """Renders and encodes the view sets of seeds 0 … count - 1 of a split, in `solids` below the
    folder `latents`; returns the shards' paths.

    settings: of `training.shapes.cache.encode_shards`, which also tells how a stopped run goes on.
    """

    def render(seeds: Sequence[int]) -> np.ndarray:
        return np.stack([view_set(scene_from_seed(seed, split), size) for seed in seeds])

    provenance = asdict(Provenance(vae=vae.hash, size=size))
    return encode_shards(vae, latents / SOLIDS, split, count, render, provenance, **settings)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.solids.dataset", description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--latents", type=Path, required=True, help="of training.shapes.cache")
    parser.add_argument("--train", type=int, default=10000, help="view sets of the training split")
    parser.add_argument("--held-out", type=int, default=256, help="of the held-out split")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae = open_vae(args.vae, frames_at_once=64)
    encode_views(vae, args.latents, "held_out", args.held_out)
    encode_views(vae, args.latents, "train", args.train)


if __name__ == "__main__":
    main()
