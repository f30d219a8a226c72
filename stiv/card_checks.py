"""Checks of the fields of a model card, each with an error that names field and value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .config import STIVConfig
from .public import EPSILON, LATENT_SPACES, TEXT_ENCODERS
from .text_encoder import TextEncoderConfig, Tokenizer

RANGES = ("height", "width", "frames", "stride")


def check_latents(latents: Any, config: STIVConfig) -> None:
    """ValueError unless the network takes this latent space, and a public name has its numbers."""
    expect(isinstance(latents, Mapping), "latents", latents, "a table")
    for key in ("name", "channels", "scale", "shift", "downscale"):
        expect(key in latents, f"latents.{key}", None, "a value")
    names = (*LATENT_SPACES, "custom")
    name, channels = latents["name"], latents["channels"]
    expect(name in names, "latents.name", name, f"one of {', '.join(names)}")
    expect(
        type(channels) is int and channels == config.latent_channels,
        "latents.channels", channels, f"the config's {config.latent_channels}",
    )  # fmt: skip
    for key in ("scale", "shift"):
        value = latents[key]
        many = isinstance(value, list) and len(value) == channels
        expect(
            all(map(_finite, value)) if many else _finite(value),
            f"latents.{key}", value, f"a finite number or {channels} of them",
        )  # fmt: skip
        expect(
            key == "shift" or (all(value) if many else bool(value)),
            "latents.scale", value, "no zero",
        )  # fmt: skip
    downscale = latents["downscale"]
    expect(_integer(downscale, 1, 64), "latents.downscale", downscale, "an integer from 1 to 64")
    for key, public in LATENT_SPACES.get(name, {}).items():
        good = key == "name" or _is_near(latents[key], public)
        expected = f"{name}'s {public}; call another space custom"
        expect(good, f"latents.{key}", latents[key], expected)


def _is_near(value: float | list[float], public: float) -> bool:
    """Equal, but for the rounding of a file that kept it in a short float; or a list of such."""
    values = value if isinstance(value, list) else [value]
    return all(math.isclose(one, public, rel_tol=1e-3, abs_tol=1e-6) for one in values)


def check_text(text: Any, config: STIVConfig) -> None:
    """ValueError unless the network takes what this text encoder makes."""
    expect(isinstance(text, Mapping), "text", text, "a table")
    for key in ("encoder", "width", "pooled_width", "max_tokens"):
        expect(key in text, f"text.{key}", None, "a value")
    names = (*TEXT_ENCODERS, "nano", "custom")
    expect(text["encoder"] in names, "text.encoder", text["encoder"], f"one of {', '.join(names)}")
    for key, wanted in (("width", config.text_width), ("pooled_width", config.pooled_width)):
        good = type(text[key]) is int and text[key] == wanted
        expect(good, f"text.{key}", text[key], f"the config's {wanted}")
    expect(
        _integer(text["max_tokens"], 2, 4096),
        "text.max_tokens", text["max_tokens"], "an integer from 2 to 4096",
    )  # fmt: skip
    if "config" not in text and "vocab" not in text:
        return
    for key, kind in (("config", Mapping), ("vocab", list)):
        expect(isinstance(text.get(key), kind), f"text.{key}", text.get(key), "both or neither")
    encoder = TextEncoderConfig.from_dict(text["config"])
    ids = len(Tokenizer(text["vocab"], text["max_tokens"]))
    for key, value, wanted in (
        ("width", encoder.width, text["width"]),
        ("max_tokens", encoder.max_tokens, text["max_tokens"]),
        ("vocab_size", encoder.vocab_size, ids),
    ):
        expect(value == wanted, f"text.config.{key}", value, f"{wanted}, as the rest of text says")
    expect(
        text["pooled_width"] in (0, encoder.width),
        "text.pooled_width", text["pooled_width"], f"the encoder's width {encoder.width}, or 0",
    )  # fmt: skip


def check_tasks(tasks: Any) -> None:
    """ValueError unless these are tasks with ranges of sizes, see `stiv.card.Card.tasks`."""
    expect(isinstance(tasks, list | tuple) and len(tasks) <= 1000, "tasks", tasks, "a list")
    for i, task in enumerate(tasks):
        good = isinstance(task, Mapping) and isinstance(task.get("task"), str)
        expect(good, f"tasks[{i}]", task, "a table with the task's name under 'task'")
        for key in RANGES:
            value = task.get(key, [1, 1])
            good = isinstance(value, list | tuple) and len(value) == 2
            good = good and all(_integer(n, 1, 2**20) for n in value) and value[0] <= value[1]
            expect(good, f"tasks[{i}].{key}", value, "[lowest, highest], both at least 1")


def check_sampling(sampling: Any) -> None:
    """ValueError unless this is a way to sample, see `EPSILON`."""
    good = isinstance(sampling, Mapping) and "shift" in sampling
    expect(good, "sampling", sampling, "a table with shift")
    shift = sampling["shift"]
    expect(_finite(shift) and 0.01 <= shift <= 100, "sampling.shift", shift, "0.01 to 100")
    kind = sampling.get("prediction", "velocity")
    expect(kind in ("velocity", "epsilon"), "sampling.prediction", kind, "velocity or epsilon")
    wanted = set(EPSILON) if kind == "epsilon" else set(sampling) & {"shift", "prediction"}
    expect(set(sampling) == wanted, "sampling", sampling, f"only {', '.join(sorted(wanted))}")
    if kind == "epsilon":
        betas = sampling["betas"]
        good = isinstance(betas, list) and len(betas) == 2 and all(map(_finite, betas))
        good = good and 0 < betas[0] <= betas[1] < 1
        expect(good, "sampling.betas", betas, "[first, last] between 0 and 1")


def expect(good: bool, name: str, value: Any, expected: str) -> None:
    """ValueError unless good, that says which value is wrong and what was expected."""
    if not good:
        raise ValueError(f"{name} is {short(value)}: expected {expected}")


def _integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # false for NaN too


def short(value: Any) -> str:
    """A value as it stands in a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
