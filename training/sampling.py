"""Sampling on the training side: the same flow and guidance as in the nodes, without a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stiv.checkpoint import Card, read_checkpoint
from stiv.flow import euler_sample
from stiv.frames import replace_frames
from stiv.guidance import joint_guidance

from .networks import Networks

Velocity = Callable[[Tensor, Tensor, list[str]], Tensor]
"""velocity(x (B, C, T, H, W), t (B,), captions) of a model."""


class Codec(Protocol):
    """Clips to the model's latents and back."""

    def encode(self, clips: np.ndarray) -> Tensor:
        """uint8 (B, T, 8H, 8W, 3) to normalised latents (B, C, T, H, W)."""

    def decode(self, latents: Tensor) -> np.ndarray:
        """The other way."""


@dataclass(frozen=True)
class Sampler:
    """Clips from prompts and given frames, by joint guidance (JIT-CFG, section 3.3)."""

    velocity: Velocity
    codec: Codec
    shape: tuple[int, int, int, int]
    """(C, T, H, W) of the latents."""
    steps: int = 20
    guidance_scale: float = 7.5
    shift: float = 1.0
    device: torch.device | str = "cpu"
    null_is_blank: bool = False
    """The unconditional pass sees given frames as zeros, not noised: multi-view (paper)."""

    @classmethod
    def from_checkpoint(
        cls,
        path: Path,
        *,
        vae: Path | None = None,
        text_encoder: Path | None = None,
        tokenizer: Path | None = None,
        prompts: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        size: tuple[int, int, int] | None = None,
        device: torch.device | str = "cpu",
        **settings,
    ) -> Sampler:
        """A sampler of a checkpoint.

        vae, text_encoder: files, for a checkpoint that holds none; tokenizer: a folder, see
        `open_text_encoder`. prompts: with text_encoder, all that will be asked for: they are
        encoded here, so that the encoder is gone before the networks are loaded.
        dtype: in which the networks compute. size: (frames, height, width) in pixels; None: the
        longest that it was trained for.
        Raises ValueError for a model that predicts noise, and for a text encoder or VAE that is
        missing, or of another kind or width than the checkpoint's; nothing was computed then.
        """
        from .codec import open_codec
        from .prompts import check_text_encoder, encode_prompts

        card, parts = read_checkpoint(path)
        if card.prediction == "epsilon":
            raise ValueError(
                f"{path}: predicts noise, and what samples here integrates velocities: sample it "
                "in ComfyUI (STIV Load Model), or start a training from it"
            )
        shape = latent_shape(card, size)
        check_text_encoder(path, card, text_encoder)
        if vae is None and not parts["vae"]:
            raise ValueError(
                f"{path}: its VAE ({card.latents['name']}) is not inside: name the file by --vae"
            )
        codec = open_codec(vae or path, card.latents, device)
        states = None
        if text_encoder is not None:
            states = encode_prompts(prompts, card, text_encoder, tokenizer=tokenizer, device=device)
        networks = Networks.from_checkpoint(path, states).to(device, dtype)
        settings.setdefault("shift", card.sampling["shift"])
        return cls(networks.velocity, codec, shape, device=device, **settings)

    def clips(
        self, prompts: Sequence[str], clean: Tensor | None, frame_mask: Tensor | None, seed: int
    ) -> np.ndarray:
        """uint8 (B, T, 8 H, 8 W, 3): `latents` decoded."""
        return self.codec.decode(self.latents(prompts, clean, frame_mask, seed))

    @torch.no_grad()
    def latents(
        self,
        prompts: Sequence[str],
        clean: Tensor | None = None,
        frame_mask: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Model latents (B, C, T, H, W) for B prompts.

        clean (B, C, T, H, W) and frame_mask (B, T): frames that are given; they come back exactly.
        The unconditional pass sees them noised like every other frame, or blank.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((len(prompts), *self.shape), generator=generator).to(self.device)
        if clean is not None:
            clean, frame_mask = clean.to(self.device), frame_mask.to(self.device)
        texts = [""] * len(prompts) + list(prompts)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            given = null = x
            if clean is not None:
                given = replace_frames(x, clean, frame_mask)
                if self.null_is_blank:
                    null = replace_frames(x, torch.zeros_like(x), frame_mask)
            both = self.velocity(torch.cat([null, given]), torch.cat([t, t]), texts)
            return joint_guidance(*both.chunk(2), self.guidance_scale)

        return euler_sample(
            guided, noise, self.steps, shift=self.shift, clean=clean, frame_mask=frame_mask
        )


def latent_shape(card: Card, size: tuple[int, int, int] | None) -> tuple[int, int, int, int]:
    """(C, T, H, W) of latents for (frames, height, width) in pixels; None: of the card's longest
    task. Raises ValueError for sides that the VAE cannot make."""
    if size is None:
        task = max(card.tasks, key=lambda task: task["frames"][1])
        size = (task["frames"][1], task["height"][1], task["width"][1])
    frames, *sides = size
    down = card.latents["downscale"]
    for side in sides:
        if side < down or side % down:
            raise ValueError(f"{side} pixels: expected a multiple of {down}")
    return (card.latents["channels"], frames, *(side // down for side in sides))
