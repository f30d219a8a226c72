"""The training loop: a run is a function of its config and data, resumable at any step.

All randomness of a step comes from (seed, step), so the state is weights, optimizer, EMA and the
step number; a run that was killed continues bit for bit.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stiv.flow import flow_loss, interpolate, sample_timesteps, velocity_target
from stiv.frames import replace_frames

from .cache import LatentCache
from .config import TrainConfig
from .ema import EMA
from .networks import Networks
from .optimizer import AdaFactor
from .tasks import draw_frame_masks, drop_texts
from .text import pretrain

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Batch(NamedTuple):
    """What one step trains on."""

    latents: Tensor  # (B, C, T, H, W), normalised
    captions: list[str]
    frame_mask: Tensor  # (B, T), true = given clean


class Trainer:
    """One run, from its start or from the last saved state."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.data = LatentCache(config.data.latents, reverse=config.data.reverse)
        self.networks = Networks.from_config(config)
        self.step = 0
        self.parents: list[str] = []  # tensor hashes of the checkpoints that it came from
        # Weights of the forward may be bf16; what is updated and averaged is always float32.
        self.master = {
            name: p.detach().float().clone() for name, p in self.networks.named_parameters()
        }
        self.optimizer = AdaFactor(
            self.master.values(),
            lr=config.optimizer.lr,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
        )
        self.ema = EMA(self.master, config.optimizer.ema)
        self.networks.to(DTYPES[config.precision])
        if config.compile:
            self.networks.compile_blocks()

    def start(self) -> None:
        """Resume from the state folder, or begin: from a checkpoint, or with a head start for the
        text encoder."""
        if self.state_file.exists():
            self.load()
            log.info("resumed at step %d from %s", self.step, self.state_file)
        elif self.config.init:
            self._begin_from(self.config.init)
        else:
            self._teach_text_encoder()

    def _begin_from(self, path: Path) -> None:
        """Take the weights of a checkpoint. Raises ValueError where they are of other networks."""
        found, card, _ = Networks.from_checkpoint(path)
        theirs = dict(found.named_parameters())
        shapes = {name: p.shape for name, p in theirs.items()}
        if shapes != {name: p.shape for name, p in self.master.items()} or (
            found.tokenizer.vocab != self.networks.tokenizer.vocab
        ):
            raise ValueError(f"init {path}: a {card.size} model with other sizes or vocabulary")
        for name, parameter in theirs.items():
            self.master[name].copy_(parameter)
            self.ema.tensors[name].copy_(parameter)
        self._publish(self.master)
        self.parents = [card.tensor_hash]
        log.info("starting from %s", path)

    def _teach_text_encoder(self) -> None:
        encoder = self.networks["text_encoder"].float()
        pretrain(
            encoder,
            self.networks.tokenizer,
            self.config.text.pretrain_steps,
            seed=self.config.seed,
        )
        for name, parameter in encoder.named_parameters(prefix="text_encoder"):
            self.master[name].copy_(parameter.detach())
            self.ema.tensors[name].copy_(parameter.detach())
        encoder.to(DTYPES[self.config.precision])

    def run(self, until: int | None = None) -> None:
        """Train to the last step (or `until`), logging and saving on the way."""
        config, since, losses = self.config, time.perf_counter(), []
        last = min(until or config.steps, config.steps)
        while self.step < last:
            losses.append(self.train_step())
            if self.step % config.log_every == 0:
                rate = len(losses) / (time.perf_counter() - since)
                loss = float(torch.stack(losses).mean())
                log.info("step %d of %d, loss %.4f, %.2f steps/s", self.step, last, loss, rate)
                since, losses = time.perf_counter(), []
            if self.step % config.save_every == 0 or self.step == last:
                self.save()

    def train_step(self) -> Tensor:
        """One optimizer step; returns its mean loss."""
        rng = np.random.default_rng([self.config.seed, self.step, 1])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss = self.loss(self.batch(rng), generator).mean()
        loss.backward()
        for name, parameter in self.networks.named_parameters():
            gradient = parameter.grad
            self.master[name].grad = None if gradient is None else gradient.float()
            parameter.grad = None
        nn.utils.clip_grad_norm_(self.master.values(), self.config.optimizer.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimizer.step()
        self.ema.update(self.master, self.step)
        self._publish(self.master)
        self.step += 1
        return loss.detach()

    def batch(self, rng: np.random.Generator) -> Batch:
        """Latents, captions and given frames of one step."""
        data = self.config.data
        still = rng.random() < data.image_steps
        indices = rng.integers(len(self.data), size=data.image_batch if still else data.batch)
        latents = self.data.latents(indices)
        captions = [self.data.caption(int(i), rng, still=still) for i in indices]
        if still:
            frames = torch.from_numpy(rng.integers(latents.shape[2], size=len(indices)))
            latents = latents[torch.arange(len(indices)), :, frames].unsqueeze(2)
            mask = torch.zeros(len(indices), 1, dtype=torch.bool)
        else:
            mask = draw_frame_masks(
                data.tasks, len(indices), latents.shape[2], rng, image_dropout=data.image_dropout
            )
        return Batch(latents, drop_texts(captions, self.config.text.dropout, rng), mask)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """(B,) flow loss on the generated frames (paper sections 3.1 and 3.2)."""
        noise = torch.randn(batch.latents.shape, generator=generator)
        t = sample_timesteps(
            len(noise),
            distribution=self.config.timesteps,
            shift=self.config.shift,
            generator=generator,
        )
        x = interpolate(batch.latents, noise, t)
        x = replace_frames(x, batch.latents, batch.frame_mask)
        velocity = self.networks.velocity(x, t, batch.captions)
        return flow_loss(velocity, velocity_target(batch.latents, noise), batch.frame_mask)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, constant, and (where asked for) a linear fall to 0 at the end."""
        optimizer, steps = self.config.optimizer, self.config.steps
        rise = min(1.0, (step + 1) / max(1, optimizer.warmup))
        falling = optimizer.cooldown * steps
        fall = min(1.0, (steps - step) / falling) if falling else 1.0
        return optimizer.lr * rise * fall

    @property
    def state_file(self) -> Path:
        """Where the run is saved."""
        return self.config.state / "state.safetensors"

    def save(self) -> None:
        """Write the whole state; the last one stays until the new one is complete."""
        tensors = {}
        for name, parameter in self.master.items():
            tensors[f"master.{name}"] = parameter
            tensors[f"ema.{name}"] = self.ema.tensors[name]
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        self.config.state.mkdir(parents=True, exist_ok=True)
        part = self.state_file.with_suffix(".part")
        metadata = {"step": json.dumps(self.step), "parents": json.dumps(self.parents)}
        save_file(tensors, part, metadata=metadata)
        part.replace(self.state_file)

    def load(self) -> None:
        """Continue from the saved state. Raises ValueError where it belongs to other networks."""
        with safe_open(self.state_file, "pt") as file:
            self.step = json.loads(file.metadata()["step"])
            self.parents = json.loads(file.metadata().get("parents", "[]"))
            found = {k.removeprefix("master.") for k in file.keys() if k.startswith("master.")}  # noqa: SIM118
            if found != set(self.master):
                raise ValueError(
                    f"{self.state_file} holds the state of other networks than the config's: "
                    "give the run another state folder, or the config it was started with"
                )
            for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                kind, name = key.split(".", 1)
                if kind == "optimizer":
                    field, name = name.split(".", 1)
                    self.optimizer.state[self.master[name]][field] = file.get_tensor(key)
                else:
                    target = self.master if kind == "master" else self.ema.tensors
                    target[name].copy_(file.get_tensor(key))
        self._publish(self.master)

    def averaged(self) -> Networks:
        """Float32 networks with the EMA weights, for sampling and export."""
        networks = Networks.from_config(self.config)
        with torch.no_grad():
            for name, parameter in networks.named_parameters():
                parameter.copy_(self.ema.tensors[name])
        return networks.eval().requires_grad_(False)

    @torch.no_grad()
    def _publish(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.networks.named_parameters():
            parameter.copy_(tensors[name])
