"""From what the loader gives to what a step trains on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from stiv.config import STIVConfig
from stiv.flow import interpolate, velocity_target
from stiv.frames import replace_frames

from .config import TrainConfig
from .data.loader import RawBatch
from .dropout import sample_seeds
from .estimate import Grid
from .tasks import Draws, draw


@dataclass(frozen=True)
class Batch:
    """The samples of one process in one step.

    Legend: B samples, C channels, T frames, H, W latent size, K kept tokens.
    """

    x: Tensor
    """(B, C, T, H, W) noised latents with the given frames replaced by clean ones."""
    t: Tensor
    """(B,) time in (0, 1), 1 = data."""
    target: Tensor
    """(B, C, T, H, W) velocity."""
    frame_mask: Tensor
    """(B, T) bool, frames given clean; they carry no loss."""
    micro: Tensor
    """(B, 6), see `stiv.model.MICRO_CONDITIONS`."""
    keep: Tensor | None
    """(B, K) spatial tokens that masking leaves."""
    captions: list[str]
    keys: list[str]
    image: Tensor | None = None
    """(B, C, H, W) first frame for cross-attention, zeros where it is not given."""
    dropout: Tensor | None = None
    """(B,) seeds of a LoRA's dropout."""

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def split(self, parts: int) -> Iterator[Batch]:
        """`parts` micro-batches of equal size."""
        size = len(self) // parts
        for start in range(0, len(self), size):
            cut = slice(start, start + size)
            yield Batch(
                **{
                    f.name: v if (v := getattr(self, f.name)) is None else v[cut]
                    for f in fields(self)
                }
            )


def make_batch(raw: RawBatch, config: TrainConfig, model: STIVConfig) -> Batch:
    """Draw tasks, dropouts, noise and times (paper sections 3.1 and 3.2) for a loaded batch."""
    size = tuple(raw.latents.shape[2:])
    draws = draws_of(config, raw.step, shift_at(config, model, size), raw.stream)
    drawn = [
        draw(
            draws,
            config.seed,
            raw.step,
            int(position),
            shape=tuple(raw.latents.shape[1:]),
            captions=captions,
            tokens=Grid.of(model, size).S,
        )
        for position, captions in zip(raw.positions, raw.captions, strict=True)
    ]
    noise, t = torch.stack([d.noise for d in drawn]), torch.stack([d.t for d in drawn])
    mask = torch.stack([d.frame_mask for d in drawn])
    blank = torch.tensor([d.is_blank for d in drawn]).view(-1, 1, 1, 1, 1)
    given = raw.latents.masked_fill(blank, 0)
    image = None
    if config.data.image_attention:
        image = given[:, :, 0] * mask[:, 0].view(-1, 1, 1, 1)
    if config.data.image_attention == "instead":
        mask = torch.zeros_like(mask)
    drops = config.lora is not None and config.lora.dropout
    return Batch(
        x=replace_frames(interpolate(raw.latents, noise, t), given, mask),
        t=t,
        target=velocity_target(raw.latents, noise),
        frame_mask=mask,
        micro=raw.micro,
        keep=torch.stack([d.keep for d in drawn]) if draws.mask_ratio else None,
        captions=[d.caption for d in drawn],
        keys=list(raw.keys),
        image=image,
        dropout=sample_seeds(config.seed, raw.step, raw.positions) if drops else None,
    )


def shift_at(config: TrainConfig, model: STIVConfig, size: tuple[int, int, int]) -> float:
    """How far times are shifted towards noise for latents (T, H, W); see `stiv.flow.shift_time`."""
    if config.shift_tokens is None:
        return config.shift
    grid = Grid.of(model, size)
    return config.shift * (grid.T * grid.S / config.shift_tokens) ** 0.5


def draws_of(config: TrainConfig, step: int, shift: float, stream: int = 0) -> Draws:
    """The chances at a step, for samples of a stream."""
    is_masked = step < config.steps - config.masking.unmasked_steps
    return Draws(
        tasks=config.data.tasks_of(stream),
        text_dropout=config.text.dropout,
        image_dropout=config.data.image_dropout,
        timesteps=config.timesteps,
        shift=shift,
        mask_ratio=config.masking.ratio if is_masked else 0.0,
    )
