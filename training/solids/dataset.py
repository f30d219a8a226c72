"""View sets of solids as VAE latents on disk, and as a data set to train multi-view on.

They lie in a folder `solids` beside the clips of `training.shapes.cache`, in shards of the same
kind: one model learns from both, so they are normalised by the clips' `stats.json`.

    python -m training.solids.dataset --vae vae.safetensors --latents latents --train 10000 \\
        --held-out 256
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stiv.views import ZERO123PLUS

from ..config import SOLIDS
from ..shapes.cache import encode_command
from ..shapes.dataset import BesideClips
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


class SolidsDataset(BesideClips):
    """The view sets: no captions, seven frames."""

    name = SOLIDS
    made_with = Provenance

    @staticmethod
    def draw(seed: int, split: str, size: int) -> np.ndarray:
        """An object from its input view and the six of the rig."""
        return view_set(scene_from_seed(seed, split), size)


if __name__ == "__main__":
    encode_command("training.solids.dataset", __doc__, SolidsDataset.encode, train=10000)
