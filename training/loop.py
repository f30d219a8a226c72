"""The training loop: a run is a function of its config and data, resumable at any step.

All randomness of a step comes from (seed, step, position in the batch), so the state is weights,
optimizer, average and counters, and a run that was killed continues bit for bit.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stiv.flow import flow_loss

from .batches import Batch, make_batch
from .checks.data import check_captions
from .config import TrainConfig
from .data.loader import Loader
from .data.plan import Plan
from .dropout import dropping
from .ema import EMA
from .memory import set_checkpointing
from .optimizer import build_optimizer, optimizer_state
from .parallel import accumulating, agree, make_accelerator, mean, prepare, whole
from .start import Origin, build_networks
from .state import differences, fingerprint, load_tensors, read_info, save_state, states
from .streams import open_streams
from .swap import swap_blocks
from .tasks import check_tasks
from .watch.run import Watch

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """What a run has done; saved with its state."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    bad_in_a_row: int = 0
    parents: list[str] = field(default_factory=list)
    """Tensor hashes of the checkpoints it came from."""
    operations: list[dict] = field(default_factory=list)
    """What was done to the first of them, see `training.start.Origin`."""


class Diverged(ValueError):
    """Too many steps in a row had no finite gradient."""


class Trainer:
    """One process of a run, from its start or from its last saved state.

    allow_changes: continue a state although the config or the data differ from what it was made
    with. Raises ValueError for data or checkpoints that do not fit the config.
    """

    def __init__(self, config: TrainConfig, *, allow_changes: bool = False):
        self.config, self.allow_changes = config, allow_changes
        self.streams = open_streams(config)
        self.plan = Plan(self.streams.specs, config.seed, config.steps)
        self.accelerator = make_accelerator(config.engine)
        self.device = self.accelerator.device
        if not self.accelerator.is_main_process:
            logging.getLogger("training").setLevel(logging.WARNING)
        # Of the whole batch, each micro-batch of each process is an equal part.
        self.plan.check_world(self.accelerator.num_processes * config.engine.accumulate)
        self.progress = Progress()

    def start(self, *, captions_known: bool = False) -> None:
        """Build the networks and their optimizer: anew, or from the last state of the run.

        captions_known: do not look whether the text cache holds every caption, which takes minutes
        for millions of clips. Nor is that done for a run that goes on: its data are as they were.

        Raises ValueError where that state was made with another config or other data, and where
        the data cannot be trained on: captions without states, tasks that leave no frame.
        """
        config = self.config
        self._check_tasks()
        found = states(config.run)
        info = read_info(found[-1]) if found else None
        if info is not None:
            self._check_state(found[-1], info)
        self.networks, origin = build_networks(
            config, latents=self.streams.latents["name"], is_resumed=bool(found)
        )
        if info is not None and config.lora:
            self._check_base(found[-1], info, origin)
        is_new = info is None or self.allow_changes
        if self.networks.tokenizer is None and is_new and not captions_known:
            world = self.accelerator.process_index, self.accelerator.num_processes
            check_captions(config, self.networks.text_cache, world)
        model = self.networks["diffusion_model"]
        engine = config.engine
        if engine.swap_blocks:
            swap_blocks(model, engine.swap_blocks)
        set_checkpointing(
            model,
            engine.checkpointing,
            offload=engine.offload_activations,
            compiled=engine.compile,
        )
        self.optimizer = build_optimizer(self._trained(), **self._optimizer_settings())
        self.model = prepare(self.accelerator, self.networks, self.optimizer)
        self.parameters = dict(self._trained())
        self.ema = EMA(self.parameters, config.optimizer.ema)
        if info is None:
            self.progress.parents, self.progress.operations = origin.parents, origin.operations
        else:
            self._load(found[-1], info)
        self.loader = Loader(
            self.plan,
            config.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            start_step=self.progress.step,
            workers=config.data.workers,
        )
        self.watch = Watch(self)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.networks.named_parameters() if p.requires_grad]

    def _optimizer_settings(self) -> dict:
        settings = self.config.optimizer
        return {
            "kind": settings.kind,
            "lr": settings.lr,
            "betas": (settings.beta1, settings.beta2),
            "beta2_mode": settings.beta2_mode,
            "momentum": settings.momentum,
            "weight_decay": settings.weight_decay,
            "lr_shares": {"text_encoder.": self.config.text.lr_share},
        }

    # --- steps -----------------------------------------------------------------------------------

    def run(self, until: int | None = None) -> signal.Signals | None:
        """Train to the last step (or `until`), saving and showing progress on the way.

        SIGTERM and Ctrl-C end the run after the step it is in, with its state saved; a second
        Ctrl-C ends it at once (KeyboardInterrupt). Returns the signal that came, to this process
        or another one of the run, be it after the last step; None where none did.
        """
        last = self.config.steps if until is None else min(until, self.config.steps)
        saved_at, stop = time.monotonic(), None
        with _Stopping() as stopping:
            while self.progress.step < last and stop is None:
                began = time.perf_counter()
                losses = self.train_step()
                self.progress.seconds += time.perf_counter() - began
                minutes = (time.monotonic() - saved_at) / 60
                interrupt, terminate, is_due = agree(
                    [
                        stopping.by == signal.SIGINT,
                        stopping.by == signal.SIGTERM,
                        minutes >= self.config.save.minutes,
                    ],
                    self.device,
                )
                if interrupt or terminate:
                    stop = signal.SIGINT if interrupt else signal.SIGTERM
                step = self.progress.step
                # Shown before it is saved: a resumed run drops what was shown after its state.
                self.watch.after_step(losses, last)
                if is_due or stop is not None or step % self.config.save.steps == 0 or step == last:
                    self.save()
                    self.watch.report()
                    saved_at = time.monotonic()
            self.watch.finish()
        stop = stopping.by or stop
        if stop is not None:
            step, more = self.progress.step, self.progress.step < self.config.steps
            log.warning(
                "stopped by %s at step %d, saved%s",
                stop.name,
                step,
                ": run again to go on" if more else ", which was the last",
            )
        return stop

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step over the global batch; returns this process's loss and the norm."""
        step, parts = self.progress.step, self.config.engine.accumulate
        raw = next(self.loader)
        batch = make_batch(raw, self.config, self.networks["diffusion_model"].config)
        loss = torch.zeros((), device=self.device)
        for index, part in enumerate(batch.split(parts)):
            part = part.to(self.device)
            is_last = index == parts - 1
            with (
                accumulating(self.accelerator, self.model, is_last),
                dropping(self.networks["diffusion_model"], part.dropout),
            ):
                share = self.loss(part).mean() / parts
                share.backward()
            loss += share.detach()
        norm = whole(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.optimizer.clip))
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step) * group["lr_share"]
            self.optimizer.step()
            self.ema.update(self.parameters, step)
            self.progress.bad_in_a_row = 0
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += self._tokens(batch) * self.accelerator.num_processes
        if not math.isfinite(norm):
            self._count_bad(batch, step, float(loss))
        return {"loss": loss, "grad_norm": norm}

    def loss(self, batch: Batch) -> Tensor:
        """(B,) flow loss on the generated frames (paper sections 3.1 and 3.2)."""
        prompt = {k: v.to(self.device) for k, v in self.networks.prompts(batch.captions).items()}
        velocity = self.model(batch.x, batch.t, prompt, batch.micro, batch.keep, batch.image)
        return flow_loss(velocity, batch.target, batch.frame_mask)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, constant, and (where asked for) a linear fall to 0 at the end."""
        optimizer, steps = self.config.optimizer, self.config.steps
        rise = min(1.0, (step + 1) / max(1, optimizer.warmup))
        falling = optimizer.cooldown * steps
        fall = min(1.0, (steps - step) / falling) if falling else 1.0
        return optimizer.lr * rise * fall

    def _tokens(self, batch: Batch) -> int:
        model = self.networks["diffusion_model"].config
        (T, H, W), p = batch.x.shape[2:], model.patch
        return len(batch) * -(-T // model.temporal_patch) * -(-H // p) * -(-W // p)

    def _count_bad(self, batch: Batch, step: int, loss: float) -> None:
        """A step whose gradient is not finite changes nothing; too many in a row end the run."""
        progress, limit = self.progress, self.config.engine.max_bad_steps
        progress.skipped += 1
        progress.bad_in_a_row += 1
        log.warning("step %d skipped: its gradient is not finite (loss %s)", step, loss)
        if progress.bad_in_a_row < limit:
            return
        dump = self.config.run / f"bad-step-{step:08d}-{self.accelerator.process_index}.json"
        dump.parent.mkdir(parents=True, exist_ok=True)
        facts = {"step": step, "loss": str(loss), "keys": batch.keys, "captions": batch.captions}
        facts["t"] = batch.t.tolist()
        dump.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        raise Diverged(
            f"{limit} steps in a row without a finite gradient, the last is {step}: what it "
            f"trained on is in {dump}; lower optimizer.lr or look at that data, then run again "
            "from the last saved state"
        )

    # --- state -----------------------------------------------------------------------------------

    def fingerprint(self) -> dict:
        """What a step of this run computes from."""
        return fingerprint(self.config, self.streams.digests)

    def save(self) -> Path:
        """Write the whole state; older ones stay until the new one is complete."""
        info = {
            "progress": asdict(self.progress),
            "config": self.config.model_dump(mode="json"),
            "fingerprint": self.fingerprint(),
        }
        return save_state(
            self.config.run, self.progress.step, self._tensors(), info, keep=self.config.save.keep
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **{f"model.{name}": p.detach() for name, p in self.parameters.items()},
            **{f"ema.{name}": tensor for name, tensor in self.ema.tensors.items()},
            **{
                f"optimizer.{k}": v
                for k, v in optimizer_state(self.optimizer, self.parameters).items()
            },
        }

    def _check_tasks(self) -> None:
        if self.config.data.image_attention == "instead":  # then no frame is without loss
            return
        for index, stream in enumerate(self.plan.streams):
            for bucket in self.plan.buckets[index] if not stream.still else ():
                frames = int(bucket.name.split("x")[0])
                where = f"stream {self.plan.stream_name(index)}, bucket {bucket.name}"
                check_tasks(self.config.data.tasks_of(index), frames, where)

    def _check_state(self, state: Path, info: dict) -> None:
        changed = differences(info["fingerprint"], json.loads(json.dumps(self.fingerprint())))
        if changed:
            self._refuse(f"{state} was made with other settings: {'; '.join(changed)}")
        steps, done = self.config.steps, info["progress"]["step"]
        if done > steps:
            raise ValueError(
                f"steps is {steps}, but {state} is at step {done} already: set steps to {done} or "
                "more, or give another `run` folder"
            )

    def _check_base(self, state: Path, info: dict, origin: Origin) -> None:
        """A LoRA reads its frozen base anew, which may have been replaced since."""
        was = info["progress"]["parents"]
        if was != origin.parents:
            self._refuse(
                f"{state} was trained on the base {_hashes(was)}, but init.weights "
                f"{self.config.init.weights} is {_hashes(origin.parents)}"
            )
            info["progress"] |= {"parents": origin.parents, "operations": origin.operations}

    def _refuse(self, reason: str) -> None:
        if not self.allow_changes:
            raise ValueError(f"{reason}. Give another `run` folder, or --allow-changes to go on")
        log.warning("%s", reason)

    def _load(self, state: Path, info: dict) -> None:
        load_tensors(state, self._tensors())
        self.progress = Progress(**info["progress"])
        log.info("resumed at step %d from %s", self.progress.step, state)

    def mean_loss(self, loss: Tensor) -> float:
        """A loss averaged over all processes; every one must call."""
        return float(mean(loss))


def _hashes(tensor_hashes: list[str | None]) -> str:
    return ", ".join(str(value)[:16] for value in tensor_hashes) or "none"


class _Stopping:
    """Waits for SIGTERM and Ctrl-C, while used as a context (in the main thread).

    by: the signal that came; of both SIGINT, after which a further one does not wait.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Stopping:
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError):  # not the main thread: signals are somebody else's
                self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # it was not set from Python, which cannot set it again
                signal.signal(number, handler)

    def _set(self, number: int, _: object) -> None:
        if number == signal.SIGINT:
            if self.by == signal.SIGINT:
                raise KeyboardInterrupt
            # Not by the log, which the signal may have come in the middle of.
            os.write(2, b"finishing this step and saving; Ctrl-C again ends without\n")
        if self.by != signal.SIGINT:
            self.by = signal.Signals(number)
