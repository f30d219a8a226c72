"""Sampling on the training side: the same flow and guidance as in the nodes, without a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from stiv.checkpoint import Card, read_checkpoint
from stiv.flow import euler_sample
from stiv.frames import replace_frames
from stiv.guidance import joint_guidance, renormalize

from .networks import Networks

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Velocity = Callable[..., Tensor]
"""velocity(x (B, C, T, H, W), t (B,), captions) of a model; of one with cross-attention to the
first frame also image (B, C, H, W)."""


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
    null: Literal["noised", "blank", "given"] = "noised"
    """How the unconditional pass sees given frames: noised like all others (JIT-CFG), as zeros
    (multi-view), or given as well, so that guidance is by the text alone (without JIT-CFG)."""
    renorm: bool = False
    """CFG-Renorm (section 3.3)."""
    stride: int | None = None
    """Frames of the original video per frame (micro condition); None: the model's own default."""
    image_attention: Literal["instead", "beside"] | None = None
    """Of a model with cross-attention to the first frame, see the recipe's key of that name."""

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
        try:
            shape = latent_shape(card, size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
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
        settings.setdefault("stride", card.stride)
        settings.setdefault("image_attention", card.image_attention)
        return cls(networks.velocity, codec, shape, device=device, **settings)

    def clips(
        self,
        prompts: Sequence[str],
        clean: Tensor | None,
        frame_mask: Tensor | None,
        seed: int | Sequence[int],
    ) -> np.ndarray:
        """uint8 (B, T, 8 H, 8 W, 3): `latents` decoded."""
        return self.codec.decode(self.latents(prompts, clean, frame_mask, seed))

    @torch.no_grad()
    def latents(
        self,
        prompts: Sequence[str],
        clean: Tensor | None = None,
        frame_mask: Tensor | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Tensor:
        """Model latents (B, C, T, H, W) for B prompts.

        clean (B, C, T, H, W) and frame_mask (B, T): frames that are given; they come back exactly,
        but for a model that sees them in cross-attention instead. seed: of the noise of all, or one
        for each: then a video does not depend on those beside it, but for rounding.
        """
        noise = self._noise(len(prompts), seed)
        if clean is not None:
            clean, frame_mask = clean.to(self.device), frame_mask.to(self.device)
        texts = [""] * len(prompts) + list(prompts)
        more = self._pictures(noise, clean, frame_mask) | self._micro(noise)
        if self.image_attention == "instead":
            clean = frame_mask = None

        def guided(x: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat(self._seen(x, clean, frame_mask))
            null, given = self.velocity(seen, torch.cat([t, t]), texts, **more).chunk(2)
            v = joint_guidance(null, given, self.guidance_scale)
            return renormalize(v, given, frame_mask) if self.renorm else v

        return euler_sample(
            guided, noise, self.steps, shift=self.shift, clean=clean, frame_mask=frame_mask
        )

    def _noise(self, count: int, seed: int | Sequence[int]) -> Tensor:
        if isinstance(seed, int):
            generator = torch.Generator().manual_seed(seed)
            return torch.randn((count, *self.shape), generator=generator).to(self.device)
        generators = (torch.Generator().manual_seed(one) for one in seed)
        rows = [torch.randn(self.shape, generator=generator) for generator in generators]
        return torch.stack(rows).to(self.device)

    def _seen(
        self, x: Tensor, clean: Tensor | None, frame_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the unconditional and the conditional pass see."""
        if clean is None:
            return x, x
        given = replace_frames(x, clean, frame_mask)
        if self.null == "blank":
            return replace_frames(x, torch.zeros_like(x), frame_mask), given
        return given if self.null == "given" else x, given

    def _pictures(
        self, noise: Tensor, clean: Tensor | None, frame_mask: Tensor | None
    ) -> dict[str, Tensor]:
        """The first frames for the cross-attention of both passes, where a model has that."""
        if self.image_attention is None:
            return {}
        picture = torch.zeros_like(noise[:, :, 0])
        if clean is not None:
            picture = clean[:, :, 0] * frame_mask[:, 0].view(-1, 1, 1, 1)
        null = picture if self.null == "given" else torch.zeros_like(picture)
        return {"image": torch.cat([null, picture])}

    def _micro(self, noise: Tensor) -> dict[str, Tensor]:
        if self.stride is None:
            return {}
        T, H, W = self.shape[1:]
        values = [[8 * H, 8 * W, 0, 0, self.stride, T]]
        return {"micro": torch.tensor(values, dtype=torch.float32, device=noise.device)}

    def first_frame(self, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """Pictures, scaled and cropped to the sampler's size, as the first of all frames: clean
        latents (B, C, T, H, W) and which frames are given (B, T), for `latents`."""
        from PIL import Image, ImageOps

        C, T, H, W = self.shape
        fitting = [ImageOps.fit(p, (8 * W, 8 * H), Image.Resampling.LANCZOS) for p in pictures]
        clean = torch.zeros(len(pictures), C, T, H, W)
        clean[:, :, :1] = self.codec.encode(np.stack([np.array(p) for p in fitting])[:, None])
        mask = torch.zeros(len(pictures), T, dtype=torch.bool)
        mask[:, 0] = True
        return clean, mask


def latent_shape(card: Card, size: tuple[int, int, int] | None) -> tuple[int, int, int, int]:
    """(C, T, H, W) of latents for (frames, height, width) in pixels; None: of the card's longest
    task. Raises ValueError for a card that tells none, and for sides that the VAE cannot make."""
    if size is None:
        task = card.longest_task or {}
        if not {"frames", "height", "width"} <= set(task):
            raise ValueError(
                "its card does not say which sizes it was trained for: give --frames, --height "
                "and --width"
            )
        size = (task["frames"][1], task["height"][1], task["width"][1])
    frames, *sides = size
    down = card.latents["downscale"]
    for side in sides:
        if side < down or side % down:
            raise ValueError(f"{side} pixels: expected a multiple of {down}")
    return (card.latents["channels"], frames, *(side // down for side in sides))
