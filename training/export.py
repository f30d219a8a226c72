"""From a training state to the checkpoint that the nodes open."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from stiv.checkpoint import Card, write_checkpoint

from .loop import Trainer
from .networks import Networks
from .vae import TinyVAE, encoder_hash

# The names that tasks have in a checkpoint's card are those of training; still images are one more.
_STILL = "t2i"


def export(trainer: Trainer, vae: TinyVAE, path: Path) -> Card:
    """Write the averaged weights, the text encoder and the VAE as one float16 file.

    Returns the card with its tensor hash. Raises ValueError for a VAE that the latents are not of.
    """
    if encoder_hash(vae) != trainer.data.provenance.vae:
        raise ValueError(
            "the VAE is not the one whose latents were trained on: give the file that the latent "
            "cache was encoded with"
        )
    networks = trainer.averaged()
    half = {name: tensor.half() for name, tensor in vae.export().items()}
    return write_checkpoint(
        path,
        card(trainer, networks, vae),
        _half(networks["diffusion_model"]),
        text_encoder=_half(networks["text_encoder"]),
        vae=half,
    )


def card(trainer: Trainer, networks: Networks, vae: TinyVAE) -> Card:
    """The card of a run: what it was trained on, how, and what it needs."""
    config, data = trainer.config, trainer.data
    text = networks["text_encoder"].config
    size, frames = data.provenance.size, data.provenance.frames
    tasks = [_task(_STILL, size, 1)] if config.data.image_steps else []
    tasks += [_task(name, size, frames) for name, share in config.data.tasks.items() if share]
    latent_channels = networks["diffusion_model"].config.latent_channels
    return Card(
        config=networks["diffusion_model"].config,
        latents={
            "name": "custom",
            "channels": latent_channels,
            "scale": data.scale,
            "shift": data.shift,
            "downscale": 8,
        },
        text={
            "encoder": "nano",
            "width": text.width,
            "pooled_width": text.width,
            "max_tokens": text.max_tokens,
            "config": text.to_dict(),
            "vocab": list(networks.tokenizer.vocab),
        },
        tasks=tasks,
        sampling={"shift": config.shift},
        training={
            "dataset": "shapes",
            "dataset_digest": data.digest(),
            "dataset_provenance": asdict(data.provenance),
            "clips": len(data),
            "steps": trainer.step,
            "recipe": config.model_dump(
                mode="json", exclude={"state": True, "init": True, "data": {"latents"}}
            ),
            "vae": vae.recipe,
            "parents": trainer.parents,
        },
        modelspec={
            "sai_model_spec": "1.0.0",
            "architecture": "stiv",
            "implementation": "https://arxiv.org/abs/2412.07730",
            "title": config.name,
            "license": "Apache-2.0",
            "date": date.today().isoformat(),
            "resolution": f"{size}x{size}",
        },
    )


def _task(name: str, size: int, frames: int) -> dict:
    span = {"height": [size, size], "width": [size, size], "frames": [frames, frames]}
    return {"task": name, **span, "stride": [1, 1]}


def _half(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in module.state_dict().items()}
