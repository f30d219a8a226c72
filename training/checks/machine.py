"""The machine: packages, device, compiler, memory, disk, and one real step on it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from ..config import TrainConfig
from ..outlook import Machine, cost, find_streams, loads, memory_advice
from . import Finding, Findings

SLOW_STEP = 2e13
"""FLOPs above which a step is not tried on a CPU: some minutes."""


def packages(config: TrainConfig) -> Findings:
    """Optional packages that this recipe needs."""
    wanted = {"accelerate": "accelerate", "grain": "grain"}
    if config.data.sets:
        wanted["av"] = "av"
    if any(spec.path.suffix == ".parquet" for spec in config.data.sets):
        wanted["pyarrow"] = "pyarrow"
    if config.text.encoder != "nano":
        wanted["transformers"] = "transformers"
    if config.vae is not None:
        wanted["diffusers"] = "diffusers"
    if config.lora is not None:
        wanted["peft"] = "peft"
    if config.watch.tensorboard:
        wanted["tensorboard"] = "tensorboard"
    missing = [package for module, package in wanted.items() if _is_missing(module)]
    if missing:
        yield Finding(
            "error",
            "packages",
            f"missing: {', '.join(missing)}",
            f"{Path(sys.executable).name} -m pip install {' '.join(missing)}",
        )
    else:
        yield Finding("ok", "packages", ", ".join(wanted))


def _is_missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def device(config: TrainConfig, machine: Machine) -> Findings:
    """The device and whether the precision suits it."""
    where = f"{machine.processes} x {machine.name}, {machine.memory / 1e9:.0f} GB"
    if machine.name == "CPU":
        yield Finding("warn", "device", f"{where}: no GPU, fit for try-outs and tiny models")
    elif config.engine.precision == "bf16" and torch.cuda.is_available():
        if torch.cuda.get_device_capability() < (8, 0):
            yield Finding(
                "warn", "device", f"{where}: bf16 is emulated before the RTX 30 series",
                "set engine.precision: fp32",
            )  # fmt: skip
        else:
            yield Finding("ok", "device", where)
    else:
        yield Finding("ok", "device", where)
    if machine.name != "CPU" and config.engine.precision == "fp32":
        yield Finding(
            "warn", "device", "engine.precision is fp32: twice the memory, several times slower",
            "set engine.precision: bf16",
        )  # fmt: skip


def host_memory(config: TrainConfig, machine: Machine) -> Findings:
    """Whether block swap and offloading save anything here, and whether the host has the room."""
    engine = config.engine
    settings = {
        "engine.swap_blocks: 0": engine.swap_blocks,
        "engine.offload_activations: false": engine.offload_activations,
    }
    remedy = " and ".join(unset for unset, value in settings.items() if value)
    if not remedy:
        return
    about = "host memory"
    if machine.name in ("CPU", "Apple GPU"):
        yield Finding(
            "warn", about, "block swap and offloading cost time and save nothing: there is no "
            "device with a memory of its own", f"set {remedy}",
        )  # fmt: skip
        return
    if engine.offload_activations and engine.checkpointing == "none":
        yield Finding(
            "warn", about, "engine.offload_activations copies all activations without "
            "checkpointing", "set engine.checkpointing: full, or selective",
        )  # fmt: skip
    import psutil

    needed = cost(config, machine, loads(config, find_streams(config))).host
    free = psutil.virtual_memory().available
    text = f"{needed / 1e9:.1f} GB for each process, by estimate; {free / 1e9:.1f} GB are free"
    if needed > free:
        yield Finding("error", about, text, f"set {remedy}, or lower engine.swap_blocks")
    else:
        yield Finding("ok", about, text)


def compiler(config: TrainConfig) -> Findings:
    """What engine.compile needs."""
    if not config.engine.compile:
        return
    if torch.cuda.is_available() and _is_missing("triton"):
        yield Finding(
            "error", "compiler", "engine.compile needs triton, which is not installed",
            "install triton (on Windows: triton-windows), or set engine.compile: false",
        )  # fmt: skip
        return
    found = next(filter(shutil.which, ("g++", "c++", "clang++", "cl")), None)
    if found is None:
        yield Finding(
            "error", "compiler", "engine.compile needs a C++ compiler and there is none",
            "install g++, clang or MSVC, or set engine.compile: false",
        )  # fmt: skip
    else:
        yield Finding("ok", "compiler", found)


def batches(config: TrainConfig, machine: Machine) -> Findings:
    """Every global batch divides by processes and micro-batches."""
    parts = machine.processes * config.engine.accumulate
    for index, stream in enumerate(config.data.streams):
        sizes = [stream.batch] if isinstance(stream.batch, int) else stream.batch.values()
        for size in sizes:
            if size % parts:
                near = max(parts, size // parts * parts)
                yield Finding(
                    "error", "batches", f"data.streams.{index}.batch {size} does not divide by "
                    f"{machine.processes} processes x {config.engine.accumulate} micro-batches",
                    f"set data.streams.{index}.batch: {near}",
                )  # fmt: skip


def memory(config: TrainConfig, machine: Machine) -> Findings:
    """The estimate against what the device has."""
    found = loads(config, find_streams(config))
    if not found:
        return
    estimate = cost(config, machine, found)
    text = f"{estimate.memory / 1e9:.1f} of {machine.memory / 1e9:.1f} GB, by estimate"
    advice = memory_advice(machine, estimate)
    yield Finding("warn" if advice else "ok", "memory", text, advice)


def disk(config: TrainConfig, machine: Machine) -> Findings:
    """Room for the states that stay and the one that is being written."""
    folder = config.run
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state = cost(config, machine, ()).state
    shards = machine.shards
    size = (state.optimizer + state.ema) * shards + (
        state.ema if config.lora else state.weights
    ) * shards
    needed = size * (config.save.keep + 1)
    text = f"{free / 1e9:.1f} GB free in {folder}, {needed / 1e9:.1f} GB needed for saved states"
    if free < needed:
        yield Finding(
            "error", "disk", text, "free some, name another folder by run, or lower save.keep"
        )
    else:
        yield Finding("ok", "disk", text)


def step(config: TrainConfig, machine: Machine) -> Findings:
    """Train one step of the run as it is, in a folder that is thrown away."""
    estimate = cost(config, machine, loads(config, find_streams(config)))
    if machine.name == "CPU" and estimate.unmasked_flops > SLOW_STEP:
        yield Finding("warn", "dry step", "left out: it would take minutes on a CPU")
        return
    if memory_advice(machine, estimate):
        yield Finding("warn", "dry step", "left out: by estimate it does not fit into memory")
        return
    from ..loop import Trainer

    with tempfile.TemporaryDirectory(prefix="stiv-doctor-") as folder:
        trainer = Trainer(config.model_copy(update={"run": Path(folder) / "run"}))
        trainer.start(captions_known=True)  # `data.texts` looked for them
        with trainer.loader:
            loss = float(trainer.train_step()["loss"])
    if not loss < float("inf"):
        yield Finding(
            "error", "dry step", f"the loss is {loss}",
            "look at the latents (a VAE in half precision?) and at init.weights",
        )  # fmt: skip
        return
    used = ""
    if torch.cuda.is_available():
        used = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB at most"
    yield Finding("ok", "dry step", f"loss {loss:.4f}{used}")
