"""A loaded checkpoint, and all that a sampler node takes for an image-to-video workflow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.nodes import tiny


@dataclass(frozen=True)
class Scene:
    """Everything that a sampler node takes, for one workflow."""

    model: Any
    positive: Any
    negative: Any
    latent: dict[str, Any]
    clean: Tensor | None = None
    mask: Tensor | None = None

    def sample(self, **settings: Any) -> Tensor:
        return tiny.sample(self.model, self.positive, self.negative, self.latent, **settings)

    def but(self, **changes: Any) -> Scene:
        return replace(self, **changes)


@dataclass(frozen=True)
class Loaded:
    path: Path
    model: Any
    clip: Any
    vae: Any

    def text(self, text: str, **settings: Any) -> Any:
        return tiny.run("STIVTextEncode", clip=self.clip, text=text, **settings)

    def scene(self, positions: str = "", batch: int = 1, frames: int = tiny.FRAMES) -> Scene:
        """A red circle; with `positions`, random pictures are given there."""
        positive, negative = self.text("a red circle moves left"), self.text("")
        side = tiny.SIDE * 8
        latent = tiny.run(
            "STIVEmptyLatent", width=side, height=side, frames=frames, batch_size=batch
        )
        if not positions:
            return Scene(self.model, positive, negative, latent)
        count = len(positions.split(","))
        pictures = torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(5))
        placed = tiny.run("STIVPlaceFrames", frames=pictures, positions=positions)
        positive, negative, latent = tiny.run(
            "STIVFrameReplacement",
            positive=positive,
            negative=negative,
            vae=self.vae,
            latent=latent,
            stiv_frames=placed,
        )
        given = positive[0][1]["stiv_frames"]
        return Scene(self.model, positive, negative, latent, given.latents, given.mask)


def load(path: Path) -> Loaded:
    """A checkpoint in the host's folder, through STIV Load Checkpoint."""
    return Loaded(path, *tiny.run("STIVLoadCheckpoint", ckpt_name=path.name))
