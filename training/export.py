"""From a run's state to the checkpoint that the nodes open."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from stiv.checkpoint import Card, write_checkpoint
from stiv.public import TEXT_ENCODERS

from .batches import shift_at
from .config import TrainConfig
from .data.plan import Plan
from .encoders.taesd import TinyVAE
from .lora import save_lora
from .networks import Networks
from .sampling import latent_shape
from .start import build_networks
from .state import load_tensors, read_info, states
from .streams import Streams, open_streams, strides_of

Weights = Literal["ema", "raw"]


def trained_networks(
    config: TrainConfig, weights: Weights = "ema"
) -> tuple[Networks, dict[str, Any]]:
    """Float32 networks of a run's last state, and what the state says of itself.

    weights: the average (what the paper evaluates), or the weights as they are. Raises ValueError
    for a run without a state, or with one of other networks.
    """
    found = states(config.run)
    if not found:
        raise ValueError(f"{config.run} holds no saved state: train first")
    networks, _ = build_networks(config, is_resumed=True)
    prefix = {"ema": "ema.", "raw": "model."}[weights]
    parameters = {n: p for n, p in networks.named_parameters() if p.requires_grad}
    with torch.no_grad():
        load_tensors(found[-1], {prefix + name: p.detach() for name, p in parameters.items()})
    return networks.eval().requires_grad_(False), read_info(found[-1])


def export(
    config: TrainConfig, path: Path, *, vae: Path | None = None, weights: Weights = "ema"
) -> Card:
    """Write a run's weights as one float16 file, with the text encoder that it trained.

    vae: a file with the TAESD to put inside, for an all-in-one file. Returns the card with its
    tensor hash.
    Raises ValueError for a VAE that the latents are not of.
    """
    if config.lora:
        raise ValueError("this run trained a LoRA: use lora-export")
    networks, info = trained_networks(config, weights)
    streams = open_streams(config)
    inside = None if vae is None else _vae_inside(vae, streams)
    return write_checkpoint(
        path,
        make_card(config, networks, streams, info, inside),
        _half(networks["diffusion_model"]),
        text_encoder=_half(networks["text_encoder"]) if networks.tokenizer else None,
        vae={name: tensor.half() for name, tensor in inside.export().items()} if inside else None,
    )


def _vae_inside(path: Path, streams: Streams) -> TinyVAE:
    from .encoders.vae import open_vae

    found, made_with = open_vae(path), streams.facts["dataset_provenance"]
    if not isinstance(found.network, TinyVAE):
        raise ValueError(f"{path}: only a TAESD goes inside a checkpoint; export without --vae")
    if found.hash != made_with.get("encoder", made_with.get("vae")):
        raise ValueError(
            f"{path} is not the VAE whose latents were trained on: give the file that the latent "
            "cache was encoded with"
        )
    found.network.recipe = found.recipe
    return found.network


def export_lora(config: TrainConfig, path: Path, *, weights: Weights = "ema") -> None:
    """Write a LoRA run's adapters as a file for LoraLoaderModelOnly.

    Raises ValueError for a run of the whole model.
    """
    if not config.lora:
        raise ValueError("this run trained the whole model: use export")
    networks, info = trained_networks(config, weights)
    progress = info["progress"]
    metadata = {
        "base": progress["parents"][0],
        "steps": progress["step"],
        "title": config.name,
        "license": config.license,
        "date": date.today().isoformat(),
    }
    save_lora(path, networks["diffusion_model"], metadata)


def make_card(
    config: TrainConfig,
    networks: Networks,
    streams: Streams,
    info: dict[str, Any],
    vae: TinyVAE | None,
) -> Card:
    """The card of a run: what it was trained on, how, and what it needs."""
    tasks = _tasks(config, streams)
    hidden = {"run": True, "vae": True, "save": True, "watch": True}
    hidden |= {"init": {"weights", "temporal"}, "data": {"latents", "sets"}}
    hidden |= {"text": {"file", "tokenizer", "cache"}}
    size = max(task["height"][1] for task in tasks), max(task["width"][1] for task in tasks)
    model, operations = networks["diffusion_model"].config, info["progress"].get("operations")
    card = Card(
        config=model,
        latents=streams.latents,
        text=_text(config, networks),
        tasks=tasks,
        training={
            **streams.facts,
            "steps": info["progress"]["step"],
            "recipe": config.model_dump(mode="json", exclude=hidden),
            **({"vae": vae.recipe} if vae else {}),
            "parents": info["progress"]["parents"],
            **({"operations": operations} if operations else {}),
        },
        modelspec={
            "sai_model_spec": "1.0.0",
            "architecture": "stiv",
            "implementation": "https://arxiv.org/abs/2412.07730",
            "title": config.name,
            "license": config.license,
            "date": date.today().isoformat(),
            "resolution": f"{size[1]}x{size[0]}",
        },
    )
    # A card holds one shift: that of the size which is sampled where no other is asked for.
    shift = shift_at(config, model, latent_shape(card, None)[1:])
    return replace(card, sampling={"shift": shift})


def _text(config: TrainConfig, networks: Networks) -> dict[str, Any]:
    if networks.tokenizer is None:
        return TEXT_ENCODERS[config.text.encoder]
    sizes = networks["text_encoder"].config
    return {
        "encoder": "nano",
        "width": sizes.width,
        "pooled_width": sizes.width,
        "max_tokens": sizes.max_tokens,
        "config": sizes.to_dict(),
        "vocab": list(networks.tokenizer.vocab),
    }


def _tasks(config: TrainConfig, streams: Streams) -> list[dict[str, Any]]:
    """What the run's buckets and shares taught, with the ranges of sizes in pixels."""
    down = streams.latents["downscale"]
    stills: list[tuple[int, ...]] = []
    shapes: dict[str, list[tuple[int, ...]]] = {}
    plan = Plan(streams.specs, config.seed, config.steps)
    for index, (stream, buckets) in enumerate(zip(streams.specs, plan.buckets, strict=True)):
        names = [name for name, share in config.data.tasks_of(index).items() if share]
        for bucket in buckets:
            frames, height, width = map(int, bucket.name.split("x"))
            size = (height * down, width * down)
            if stream.still or frames == 1:
                stills.append((1, *size, 1))
                continue
            for name, step in product(names, strides_of(stream.dataset)):
                shapes.setdefault(name, []).append((frames, *size, step))
    tasks = [_task("t2i", stills)] if stills else []
    return tasks + [_task(name, found) for name, found in shapes.items()]


def _task(name: str, shapes: list[tuple[int, ...]]) -> dict[str, Any]:
    """shapes: (frames, height, width, stride), in pixels."""
    ranges = [[min(values), max(values)] for values in zip(*shapes, strict=True)]
    return {"task": name, **dict(zip(("frames", "height", "width", "stride"), ranges, strict=True))}


def _half(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in module.state_dict().items()}
