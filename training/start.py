"""The networks that a new run begins with."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stiv.card import Card
from stiv.checkpoint import read_card, read_checkpoint
from stiv.convert.initialise import Aim, Step, Temporal, grow, plan, records

from .config import TrainConfig
from .lora import add_lora
from .low_precision import freeze_in
from .networks import Networks
from .streams import open_streams
from .text import pretrain
from .vocabulary import keep_vocabulary

log = logging.getLogger(__name__)

_BASES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Origin:
    """Where a run's weights come from, for its card."""

    parents: list[str | None] = field(default_factory=list)
    """Tensor hashes of the checkpoints that were taken."""
    operations: list[dict[str, Any]] = field(default_factory=list)
    """What the first of them says was done to it, and the steps from there to the run's model."""


def build_networks(
    config: TrainConfig, *, latents: str | None = None, is_resumed: bool = False
) -> tuple[Networks, Origin]:
    """The networks of a run, and what they come from.

    latents: name of the latent space of the data. is_resumed: the weights that train will be
    loaded from a state, so the head start of a text encoder is not needed; a LoRA's frozen base is
    read all the same. Raises ValueError for a checkpoint that does not fit.
    """
    networks, origin = Networks.from_config(config), Origin()
    if networks.tokenizer is not None:
        keep_vocabulary(config, networks.tokenizer.vocab)
    if config.init and (config.lora or not is_resumed):
        origin = _begin_from(networks, config, latents)
    if config.text.weights and (config.lora or not is_resumed):
        card, parts = read_checkpoint(config.text.weights)
        _take_text_encoder(networks, f"text.weights {config.text.weights}", card, parts)
    begun = config.text.weights or (config.init and config.init.text_encoder)
    is_new = networks.tokenizer is not None and not begun
    if config.text.pretrain_steps and is_new and not is_resumed:
        pretrain(
            networks["text_encoder"],
            networks.tokenizer,
            config.text.pretrain_steps,
            seed=config.seed,
        )
    if config.lora:
        _adapt(networks, config)
    return networks, origin


def _adapt(networks: Networks, config: TrainConfig) -> None:
    lora = config.lora
    networks.requires_grad_(False)
    if lora.base != "fp32":
        freeze_in(networks["diffusion_model"], _BASES[lora.base])
    add_lora(
        networks["diffusion_model"],
        lora.rank,
        lora.alpha,
        targets=tuple(lora.targets),
        dropout=lora.dropout,
        seed=config.seed,
    )


def start_steps(config: TrainConfig, latents: str | None = None) -> list[Step]:
    """The steps from the checkpoints that a run starts from to its model; reads their cards alone.

    latents: name of the data's latent space, where it is known.
    Raises ValueError, naming the file, where no steps lead there.
    """
    init = config.init
    card = read_card(init.weights)
    temporal = None
    if init.temporal:
        other = read_card(init.temporal)
        temporal = Temporal(tensors={}, config=other.config, tensor_hash=other.tensor_hash)
    try:
        steps = plan(card.config, _aim(config, card, temporal, latents))
    except ValueError as error:
        raise ValueError(f"init {init.weights}: {error}") from error
    changing = [step.name for step in steps if step.changes_tensors]
    if config.lora and changing:
        raise ValueError(
            f"init {init.weights}: a LoRA is trained on a model as it is, but this recipe's is "
            f"another ({', '.join(changing)}): write that with `python -m stiv.convert init` and "
            "start from it"
        )
    return steps


def cached_latents(config: TrainConfig) -> str | None:
    """Name of the latent space of a run's data; None while some of it is not cached."""
    try:
        return open_streams(config).latents["name"]
    except ValueError:
        return None


def _aim(config: TrainConfig, card: Card, temporal: Temporal | None, latents: str | None) -> Aim:
    """What a run makes of the checkpoint that it starts from."""
    blocks, encoders = config.init.depth_map, (card.text["encoder"], config.text.encoder)
    spaces = card.latents["name"], latents
    return Aim(
        config=config.model.build(),
        depth_map=blocks and tuple(None if block == "new" else block for block in blocks),
        temporal=temporal,
        velocity=card.prediction == "epsilon",
        latents=spaces if latents and spaces[0] != latents else None,
        encoders=encoders if encoders[0] != encoders[1] else None,
        seed=config.seed,
    )


def _begin_from(networks: Networks, config: TrainConfig, latents: str | None) -> Origin:
    """Take the weights of checkpoints: the same network, or one that steps lead to."""
    path, model = config.init.weights, networks["diffusion_model"]
    steps = start_steps(config, latents)
    card, parts = read_checkpoint(path)
    parents, temporal = [card.tensor_hash], None
    if config.init.temporal:
        other, their_parts = read_checkpoint(config.init.temporal)
        parents.append(other.tensor_hash)
        temporal = Temporal(tensors=their_parts["diffusion_model"], config=other.config)
    aim = _aim(config, card, temporal, latents)
    model.load_state_dict(grow(parts["diffusion_model"], card.config, aim))
    takes_theirs = config.init.text_encoder and not config.text.weights
    if networks.tokenizer is not None and takes_theirs:
        _take_text_encoder(networks, f"init {path}", card, parts)
    log.info("starting from %s", path)
    for step in steps:
        log.info("  %s", step.line())
    done = [*card.training.get("operations", []), *records(steps, aim, card.tensor_hash)]
    return Origin(parents, done)


def _take_text_encoder(
    networks: Networks, origin: str, card: Card, parts: dict[str, dict[str, Tensor]]
) -> None:
    encoder, theirs = networks["text_encoder"], parts["text_encoder"]
    if card.tokenizer is None or card.tokenizer.vocab != networks.tokenizer.vocab:
        raise ValueError(f"{origin}: its text encoder is none, or of another vocabulary")
    shapes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in theirs.items()}:
        raise ValueError(f"{origin}: its text encoder has other sizes than the recipe's")
    encoder.load_state_dict(theirs)
