"""A run as a person follows it: log lines, metrics, held-out losses, sample videos, a report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stiv.frames import frame_mask, task_positions

from ..batches import shift_at
from ..estimate import flops, mfu, peak_flops
from ..parallel import forget_gathered
from ..sampling import Sampler
from ..streams import strides_of
from .heldout import held_out_loss
from .metrics import Metrics, progress

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..loop import Trainer

log = logging.getLogger(__name__)

HELD_OUT_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in [0, 1] (1 = data) the held-out loss is taken."""


_MULTI_VIEW = "multi_view"


class Watch:
    """What the trainer calls after every step. Held-out losses and samples take the EMA."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.settings = trainer.config.watch
        self.is_main = trainer.accelerator.is_main_process
        self.metrics = None
        if self.is_main:
            self.metrics = Metrics(
                trainer.config.run,
                tensorboard=self.settings.tensorboard,
                resume_step=trainer.progress.step,
            )
        self._sampler = _make_sampler(trainer)
        self._given = (None, None) if self._sampler is None else _given_frames(trainer)
        self._restart()

    def _restart(self) -> None:
        self._since, self._losses, self._norms = time.perf_counter(), [], []
        self._tokens = self.trainer.progress.tokens

    def after_step(self, values: dict[str, Tensor], last: int) -> None:
        """Log, look at held-out clips and draw samples where it is their step."""
        self._losses.append(values["loss"])
        self._norms.append(values["grad_norm"])
        step, settings = self.trainer.progress.step, self.settings
        is_last = step == last
        if step % settings.log_every == 0 or is_last:
            self._log(step, last)
        if settings.heldout_every and (step % settings.heldout_every == 0 or is_last):
            self._look_at_held_out(step)
        if settings.samples_every and (step % settings.samples_every == 0 or is_last):
            self._draw_samples(step)

    def report(self) -> None:
        """Write the page that tells of the run so far."""
        if self.is_main:
            from .report import write_report

            config = self.trainer.config
            page = write_report(config.run, config.model_dump(mode="json"))
            log.info("step %d saved, report: %s", self.trainer.progress.step, page)

    def finish(self) -> None:
        """Close the metrics."""
        if self.is_main:
            self.metrics.close()

    def _log(self, step: int, last: int) -> None:
        trainer = self.trainer
        loss = trainer.mean_loss(torch.stack(self._losses).mean())
        if self.is_main:
            seconds = max(time.perf_counter() - self._since, 1e-9)
            rate = len(self._losses) / seconds
            tokens = (trainer.progress.tokens - self._tokens) / seconds
            share = self._mfu(tokens)
            line = progress(step, last, loss, rate, tokens_per_s=tokens, mfu=share)
            log.info("%s", line)
            values = {
                "loss": loss,
                "lr": trainer.learning_rate(step - 1),
                "grad_norm": float(torch.stack([n.float() for n in self._norms]).mean()),
                "steps_per_s": rate,
                "tokens_per_s": tokens,
                "tokens": trainer.progress.tokens,
                "skipped": trainer.progress.skipped,
            }
            self.metrics.add(step, values if share is None else {**values, "mfu": share})
        self._restart()

    def _mfu(self, tokens_per_s: float) -> float | None:
        """Model FLOPs per second over the devices' peak, where that is known."""
        trainer = self.trainer
        if trainer.device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(trainer.device))
        if peak is None:
            return None
        model = trainer.networks["diffusion_model"].config
        bucket = max(trainer.plan.buckets[0], key=lambda bucket: bucket.count).name
        T, H, W = map(int, bucket.split("x"))
        tokens = -(-T // model.temporal_patch) * -(-H // model.patch) * -(-W // model.patch)
        masking = trainer.config.masking
        is_masked = trainer.progress.step <= trainer.config.steps - masking.unmasked_steps
        kept = 1 - masking.ratio if is_masked else 1.0
        per_token = flops(model, (T, H, W), 77, kept=kept, train=True) / tokens
        return mfu(per_token * tokens_per_s, 1.0, trainer.accelerator.num_processes, peak)

    @torch.no_grad()
    def _look_at_held_out(self, step: int) -> None:
        """The loss at fixed times and noise, per task; every process computes it."""
        trainer = self.trainer
        samples = trainer.streams.held_out  # of the first stream
        tasks = [task for task, share in trainer.config.data.tasks_of(0).items() if share > 0]

        def velocity(x: Tensor, t: Tensor, chosen) -> Tensor:
            captions = [s.captions[0] if s.captions else "" for s in chosen]
            micro = torch.stack([torch.as_tensor(s.micro) for s in chosen])
            return _velocity(trainer, x, t, captions, micro)

        with _averaged(trainer):
            losses = held_out_loss(
                velocity, samples, tasks=tasks, times=HELD_OUT_TIMES, seed=trainer.config.seed
            )
        if self.is_main:
            self.metrics.add(step, {f"heldout/{name}": value for name, value in losses.items()})
            log.info("held-out loss %.4f", sum(losses.values()) / max(1, len(losses)))
        self._restart()

    def _draw_samples(self, step: int) -> None:
        if self._sampler is None:
            return
        trainer, prompts = self.trainer, self.settings.prompts
        with _averaged(trainer):
            clips = self._sampler.clips(prompts, *self._given, trainer.config.seed)
        if self.is_main:
            from .samples import write_samples

            write_samples(clips, prompts, trainer.config.run / "samples", step, fps=8)
        self._restart()


@contextmanager
def _averaged(trainer: Trainer) -> Iterator[None]:
    """The model with its averaged weights."""
    with trainer.ema.swap(trainer.parameters):
        forget_gathered(trainer.model)
        yield
    forget_gathered(trainer.model)


def _velocity(
    trainer: Trainer, x: Tensor, t: Tensor, captions: list[str], micro: Tensor | None = None
) -> Tensor:
    """The model of a run, on its devices and in its precision; every process must call."""
    device = trainer.device
    prompt = {k: v.to(device) for k, v in trainer.networks.prompts(captions).items()}
    micro = None if micro is None else micro.to(device)
    with torch.no_grad():
        return trainer.model(x.to(device), t.to(device), prompt, micro).to(x.device)


def _make_sampler(trainer: Trainer) -> Sampler | None:
    """A sampler of what the run is drawn at; None where no samples are wanted."""
    config, settings = trainer.config, trainer.config.watch
    if not settings.samples_every or not settings.prompts:
        return None
    if config.vae is None:
        raise ValueError("watch.samples_every needs `vae`: the file that decodes the samples")
    trainer.networks.prompts(settings.prompts)  # one that was not encoded is told now, not hours on
    from ..codec import open_codec

    stream, shape = _drawn(trainer)
    least, _ = strides_of(trainer.streams.specs[stream].dataset)
    return Sampler(
        partial(_velocity, trainer),
        open_codec(config.vae, trainer.streams.latents),
        (trainer.streams.latents["channels"], *shape),
        steps=settings.sample_steps,
        guidance_scale=settings.guidance_scale,
        shift=shift_at(config, config.model.build(), shape),
        device=trainer.device,
        null="blank" if _is_multi_view(config, stream) else "noised",
        stride=least if shape[0] > 1 else 1,
    )


def _drawn(trainer: Trainer) -> tuple[int, tuple[int, int, int]]:
    """The first stream of videos, or of stills where there is none, and (T, H, W) of its largest
    bucket."""
    found = []
    for stream, buckets in enumerate(trainer.plan.buckets):
        for bucket in buckets:
            T, H, W = map(int, bucket.name.split("x"))
            T = 1 if trainer.streams.specs[stream].still else T
            found.append((T > 1, -stream, T * H * W, (T, H, W)))
    _, stream, _, shape = max(found)
    return -stream, shape


def _is_multi_view(config: TrainConfig, stream: int) -> bool:
    """Whether a stream never shows the model a noised first frame, as all other tasks do."""
    return {task for task, share in config.data.tasks_of(stream).items() if share} == {_MULTI_VIEW}


def _given_frames(trainer: Trainer) -> tuple[Tensor | None, Tensor | None]:
    """What is given of each sample video (P, C, T, H, W), and which frames (P, T): held-out input
    views for multi-view, nothing for all else."""
    stream, shape = _drawn(trainer)
    if not _is_multi_view(trainer.config, stream):
        return None, None
    views = [torch.as_tensor(sample.latents) for sample in trainer.streams.held_out]
    views = [latents for latents in views if latents.shape[1:] == shape]
    if not views:
        raise ValueError(
            "watch.samples_every: samples of multi-view begin with an input view that is kept out "
            "of training, and there is none: put its stream first and set watch.heldout_every, "
            "or set watch.samples_every: 0"
        )
    count = len(trainer.config.watch.prompts)
    clean = torch.stack([views[i % len(views)] for i in range(count)])
    mask = frame_mask(task_positions(_MULTI_VIEW, shape[0]), shape[0])
    return clean, mask.expand(count, -1)
