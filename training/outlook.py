"""What a run will do and cost, before it is begun: the text of `train --dry-run`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stiv.config import STIVConfig
from stiv.public import TEXT_ENCODERS

from .config import TrainConfig
from .estimate import (
    Grid,
    Shape,
    StateBytes,
    activation_bytes,
    block_bytes,
    flops,
    lora_parameters,
    lora_state_bytes,
    parameters,
    peak_flops,
    state_bytes,
)
from .host_memory import offloaded_bytes, swapped_bytes, without_swapped
from .start import cached_latents, start_steps

if TYPE_CHECKING:
    from .streams import Streams

ASSUMED_MFU = 0.4
"""Share of a device's peak that times are given for."""

DOWNSCALE = 8  # pixels per latent pixel of every VAE that is supported


@dataclass(frozen=True)
class Load:
    """One kind of batch: `batch` samples of latent `shape`, in this `share` of the steps."""

    shape: Shape
    batch: int
    share: float
    name: str
    count: int | None
    """Samples that the cache holds; None: not cached yet."""


@dataclass(frozen=True)
class Machine:
    """Where this run runs: one device of each process, and how processes share the weights."""

    name: str
    memory: int
    peak: float | None
    processes: int
    shards: int

    @classmethod
    def here(cls) -> Machine:
        """This machine, as `accelerate launch` has set it up."""
        processes = int(os.environ.get("WORLD_SIZE", 1))
        is_sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        shards = int(os.environ.get("PARALLELISM_CONFIG_DP_SHARD_SIZE", processes))
        shared = {"processes": processes, "shards": shards if is_sharded else 1}
        if torch.cuda.is_available():
            facts = torch.cuda.get_device_properties(0)
            return cls(facts.name, facts.total_memory, peak_flops(facts.name), **shared)
        import psutil

        kind = "Apple GPU" if torch.backends.mps.is_available() else "CPU"
        return cls(kind, psutil.virtual_memory().total, None, **shared)


@dataclass(frozen=True)
class Cost:
    """What the run asks of each device and of all of them."""

    state: StateBytes
    activations: int
    step_flops: float
    """Mean over the batches, in steps with masking (or all, where there is none)."""
    unmasked_flops: float
    total_flops: float
    loads: tuple[Load, ...]
    micro_batch: int
    """Samples of the batch that needs most memory, at once on one device."""
    sample_bytes: int
    """Activations of one of them."""
    host: int = 0
    """Bytes that wait in the memory of the host, for each process."""

    @property
    def memory(self) -> int:
        """Bytes per device."""
        return self.state.total + self.activations


def find_streams(config: TrainConfig) -> Streams | None:
    """The data of a run where all of it is cached, else None."""
    from .streams import open_streams

    try:
        return open_streams(config)
    except (ValueError, OSError):
        return None


def loads(config: TrainConfig, streams: Streams | None = None) -> tuple[Load, ...]:
    """The batches of a run: from its caches, or else from what `data.sets` would give."""
    weights = sum(stream.weight for stream in config.data.streams)
    found = []
    for index, stream in enumerate(config.data.streams):
        counts = (
            streams.specs[index].dataset.buckets
            if streams
            else _expected_buckets(config, stream.set)
        )
        batches = {name: _batch(stream.batch, name) for name in counts}
        steps = {
            name: (count / batches[name] if count and batches[name] else 0 if streams else 1)
            for name, count in counts.items()
        }
        total = sum(steps.values()) or 1
        for name, count in counts.items():
            T, h, w = map(int, name.split("x"))
            found.append(
                Load(
                    shape=(1 if stream.still else T, h, w),
                    batch=batches[name],
                    share=stream.weight / weights * steps[name] / total,
                    name=f"{name}{' (stills)' if stream.still else ''}",
                    count=count,
                )
            )
    return tuple(load for load in found if load.share and load.batch)


def _expected_buckets(config: TrainConfig, name: str) -> Mapping[str, int | None]:
    return {
        f"{frames}x{height // DOWNSCALE}x{width // DOWNSCALE}": None
        for spec in config.data.sets
        if spec.name == name
        for height, width in spec.sizes
        for frames in spec.frames
    }


def _batch(batch: int | Mapping[str, int], bucket: str) -> int:
    if isinstance(batch, int):
        return batch
    return batch.get(bucket, max(batch.values(), default=0))


def text_tokens(config: TrainConfig) -> int:
    """The longest prompt in tokens."""
    if config.text.encoder == "nano":
        return config.text.max_tokens
    return TEXT_ENCODERS[config.text.encoder]["max_tokens"]


def cost(config: TrainConfig, machine: Machine, batches: tuple[Load, ...]) -> Cost:
    """What the run costs on a machine."""
    model, engine, tokens = config.model.build(), config.engine, text_tokens(config)
    ratio, unmasked = config.masking.ratio, config.masking.unmasked_steps
    worst, away = (0, 0, 0), 0
    for load in batches:
        micro = max(1, load.batch // (machine.processes * engine.accumulate))
        sample = (model, load.shape, engine.checkpointing, engine.precision)
        given = {"text_tokens": tokens, "kept": 1 if unmasked else 1 - ratio}
        each = activation_bytes(*sample, **given)
        if engine.offload_activations:
            total, one = offloaded_bytes(*sample, **given)
            each += one - total
            away = max(away, micro * total)
        if engine.checkpointing != "none":
            each += block_bytes(model, Grid.of(model, load.shape), engine.precision, tokens)
        worst = max(worst, (micro * each, micro, each))
    plain = _step_flops(model, batches, tokens, 1.0)
    masked = _step_flops(model, batches, tokens, 1 - ratio) if ratio else plain
    masked_steps = config.steps - unmasked if ratio else 0
    return Cost(
        state=_state(config, machine),
        activations=worst[0],
        step_flops=masked,
        unmasked_flops=plain,
        total_flops=masked * masked_steps + plain * (config.steps - masked_steps),
        loads=batches,
        micro_batch=worst[1],
        sample_bytes=worst[2],
        host=away + swapped_bytes(model, engine.swap_blocks, config.lora.base)
        if config.lora
        else away,
    )


def _step_flops(model: STIVConfig, batches: tuple[Load, ...], tokens: int, kept: float) -> float:
    return sum(
        load.share * load.batch * flops(model, load.shape, tokens, kept=kept) for load in batches
    )


def _state(config: TrainConfig, machine: Machine) -> StateBytes:
    model, optimizer, lora = config.model.build(), config.optimizer, config.lora
    kinds = {"optimizer": optimizer.kind, "momentum": optimizer.momentum}
    precision = config.engine.precision
    if lora:
        state = lora_state_bytes(
            model, lora.rank, lora.targets, lora.base, precision=precision, **kinds
        )
        return without_swapped(state, model, config.engine.swap_blocks, lora.base, precision)
    return state_bytes(model, world=machine.shards, precision=precision, **kinds)


# --- as text -------------------------------------------------------------------------------------


def plan(
    config: TrainConfig, *, streams: Streams | None = None, machine: Machine | None = None
) -> str:
    """The run in words and numbers. Reads caches where they are complete, trains nothing.

    streams, machine: given by callers that have opened or chosen them.
    """
    machine = machine or Machine.here()
    streams = streams or find_streams(config)
    batches = loads(config, streams)
    lines = [f"{config.name}: {config.steps:,} steps, in {config.run}"]
    for title, part in (
        ("Stages", _stages(config)),
        ("Model", _model(config)),
        ("Data", _data(config, batches, streams)),
    ):
        lines += [title, *(f"  {line}" for line in part)]
    if batches:
        found = cost(config, machine, batches)
        lines += ["Work", *(f"  {line}" for line in _work(config, machine, found))]
        lines += ["Memory of each device", *(f"  {line}" for line in _memory(machine, found))]
    return "\n".join(lines)


def done_steps(config: TrainConfig) -> int:
    """Steps of the newest saved state of the run; 0 for a new one."""
    from .state import states

    found = states(config.run)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def _stages(config: TrainConfig) -> Iterator[str]:
    done, init = done_steps(config), config.init
    if done:
        yield f"continues at step {done:,}: {max(0, config.steps - done):,} to go"
    elif init is None:
        yield "starts from nothing"
    else:
        yield f"starts from {init.weights}" + (
            f", temporal attention from {init.temporal}" if init.temporal else ""
        )
        if all(path.is_file() for path in (init.weights, init.temporal) if path):
            steps = start_steps(config, cached_latents(config))
            yield from (f"  {step.line()}" for step in steps)
    optimizer, masking = config.optimizer, config.masking
    fall = f", falling over the last {optimizer.cooldown:.0%}" if optimizer.cooldown else ""
    yield (
        f"{optimizer.kind}, learning rate {optimizer.lr:g} after {optimizer.warmup:,} steps of "
        f"warm-up{fall}"
    )
    if masking.ratio:
        masked = config.steps - masking.unmasked_steps
        yield f"{masked:,} steps with {masking.ratio:.0%} of the spatial tokens left out"
        yield f"{masking.unmasked_steps:,} steps with all of them"
    yield (
        f"tasks: {_shares(config.data.tasks)}; given frames dropped "
        f"{config.data.image_dropout:.0%}, text {config.text.dropout:.0%}"
    )
    for index, stream in enumerate(config.data.streams):
        if stream.tasks is not None:
            yield f"tasks of stream {index} ({stream.set or 'data'}): {_shares(stream.tasks)}"


def _shares(tasks: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in tasks.items() if share)


def _model(config: TrainConfig) -> Iterator[str]:
    model, lora = config.model.build(), config.lora
    kind = "video" if model.temporal_attention else "image"
    yield (
        f"{config.model.size}: {parameters(model):,} parameters, {model.depth} blocks of width "
        f"{model.width} ({kind} model)"
    )
    if lora:
        count = lora_parameters(model, lora.rank, lora.targets)
        yield f"LoRA of rank {lora.rank}: {count:,} parameters train, the base is {lora.base}"


def _data(config: TrainConfig, batches: tuple[Load, ...], streams) -> Iterator[str]:
    if streams is None:
        yield "not cached (`python -m training doctor` says what is missing): as data.sets would be"
    for load in batches:
        count = "" if load.count is None else f"{load.count:,} clips, "
        yield f"{load.name}: {count}batches of {load.batch:,}, {load.share:.1%} of the steps"
    if not batches:
        yield "no sizes are known: data.sets is empty and there is no cache"


def _work(config: TrainConfig, machine: Machine, found: Cost) -> Iterator[str]:
    yield f"{_si(found.step_flops)}FLOP a step" + (
        f", {_si(found.unmasked_flops)}FLOP without masking"
        if found.unmasked_flops != found.step_flops
        else ""
    )
    left = found.total_flops * max(0, config.steps - done_steps(config)) / config.steps
    yield f"{_si(found.total_flops)}FLOP in all, {_si(left)}FLOP to go"
    if machine.peak is None:
        yield f"{machine.processes} x {machine.name}: its peak is not known, so no time is given"
        return
    days = left / (ASSUMED_MFU * machine.peak * machine.processes) / 86400
    time = f"{days:,.1f} days" if days >= 1 else f"{24 * days:,.1f} hours"
    yield f"{machine.processes} x {machine.name}: about {time} at {ASSUMED_MFU:.0%} of its peak"


def _memory(machine: Machine, found: Cost) -> Iterator[str]:
    state = found.state
    sharing = f", shared by {machine.shards}" if machine.shards > 1 else ""
    yield (
        f"weights {_gb(state.weights)}, gradients {_gb(state.gradients)}, optimizer "
        f"{_gb(state.optimizer)}, average {_gb(state.ema)}, copies of weights to compute with "
        f"{_gb(state.copies)}{sharing}"
    )
    yield (
        f"activations {_gb(found.activations)}: samples at once {found.micro_batch:,}, each "
        f"{_gb(found.sample_bytes)}"
    )
    if found.host:
        yield f"in the host's memory {_gb(found.host)}: swapped weights, offloaded activations"
    yield f"{_gb(found.memory)} of the {_gb(machine.memory)} that {machine.name} has"
    if advice := memory_advice(machine, found):
        yield advice


def memory_advice(machine: Machine, found: Cost) -> str:
    """What to lower where the estimate is above what the device has; "" where it fits."""
    if found.memory <= 0.95 * machine.memory:  # the rest is the allocator's
        return ""
    room = int(0.95 * machine.memory) - found.state.total
    fits = room // found.sample_bytes if found.sample_bytes else 0
    if fits >= 1:
        return (
            f"does not fit: at most {fits:,} samples at once do; raise engine.accumulate, lower "
            "data.streams.0.batch, or set engine.checkpointing"
        )
    return (
        "does not fit, not even one sample: share the weights among GPUs (training/accelerate/"
        "fsdp2.yaml), take a smaller model, fewer frames or pixels, or train a LoRA "
        "(low_memory.yaml)"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def _si(number: float) -> str:
    for unit, prefix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if number >= unit:
            return f"{number / unit:,.2f} {prefix}"
    return f"{number:,.0f} "
