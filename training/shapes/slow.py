"""Long clips of the shapes domain, slowed down: their key frames, and the gaps between them.

A clip whose motion takes STRIDE times as long has an ordinary clip as its key frames, STRIDE apart,
and STRIDE - 1 frames more between every two of them. A hierarchy (paper, long video) makes the
former with the stride as micro condition, then the latter from their first and last frame. Gaps
lie in a folder `gaps` beside the clips; key frames are the clips themselves.

    python -m training.shapes.slow --vae vae.safetensors --latents latents --train 6000
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import GAPS, KEYS
from . import DOMAIN_VERSION
from .cache import encode_command
from .dataset import BesideClips, ShapesDataset, wordings
from .render import render_times
from .scene import Scene, scene_from_seed

STRIDE = 15
"""Frames from one key frame to the next: a gap with both its ends is 16 frames, as every clip."""
STRIDES = (2, 20)
"""Of the key frames, least and most: which it is does not show in them."""
_GAPS = 15  # of a clip of 16 key frames


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

    def stride(self, index: int) -> int:
        """Any of `strides`."""
        low, high = self.strides
        return int(np.random.default_rng([index, 12]).integers(low, high + 1))


class Gaps(BesideClips):
    """The gaps: 16 frames in which little moves."""

    name = GAPS
    made_with = Provenance

    @staticmethod
    def draw(seed: int, split: str, size: int) -> np.ndarray:
        """A gap with both its ends."""
        return render_times(*gap(seed, split), size)

    def captions(self, index: int) -> tuple[str, ...]:
        """Those of the whole clip."""
        return wordings(gap(self.seeds[index], self.split)[0], (index, 13))


def gap(seed: int, split: str) -> tuple[Scene, np.ndarray]:
    """The scene that belongs to a seed, and the 16 times of one of its gaps, both ends included."""
    number = int(np.random.default_rng([seed, 14]).integers(_GAPS))
    return scene_from_seed(seed, split), (number + np.linspace(0, 1, STRIDE + 1)) / _GAPS


if __name__ == "__main__":
    encode_command("training.shapes.slow", __doc__, Gaps.encode, train=6000)
