"""The model card: everything a checkpoint says of itself, as one checked value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from .card_checks import check_latents, check_sampling, check_tasks, check_text, expect, short
from .config import MODELS, STIVConfig
from .header import parse_json, printable
from .public import LATENT_SPACES, TEXT_ENCODERS
from .shapes import expected_shapes
from .text_encoder import TextEncoderConfig, Tokenizer

FORMAT = "1"

_PREDICTIONS = {"velocity": "velocity (flow matching)", "epsilon": "noise (diffusion, 1000 steps)"}
_JSON_FIELDS = ("config", "latents", "text", "tasks", "sampling", "training")


@dataclass(frozen=True)
class Card:
    """The metadata of a checkpoint, parsed and checked against each other.

    Raises:
        ValueError: naming the field and the value that is missing or wrong.
    """

    config: STIVConfig
    """The network."""
    latents: dict[str, Any]
    """The latent space: name, channels, scale, shift, downscale; see `LATENT_SPACES`."""
    text: dict[str, Any]
    """The text encoder: encoder, width, pooled_width, max_tokens; "nano" travels in the file and
    has config and vocab too; see `TEXT_ENCODERS`."""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    """What it was trained for: task, and [lowest, highest] height, width (pixels), frames and
    stride."""
    sampling: dict[str, Any] = field(default_factory=lambda: {"shift": 1.0})
    """How to sample it: shift, of sigma towards noise (see `stiv.flow.shift_time`); where
    training scaled it by tokens, that of the longest task's largest size. A model of another
    kind than the paper's says so by `prediction`, see `EPSILON`."""
    training: dict[str, Any] = field(default_factory=dict)
    """Provenance: data set name and digest, recipe, steps, parents' tensor hashes; `operations`,
    what was done to the weights; `assumed`, what was `inferred` of a file they came from."""
    modelspec: dict[str, str] = field(default_factory=dict)
    """The public modelspec keys, without their prefix: title, license, date, …"""
    tensor_hash: str | None = None
    """SHA-256 of the tensors, see `stiv.checkpoint.tensor_hash`; set on writing."""
    inferred: tuple[str, ...] = ()
    """For a file without our metadata: what was taken from the shapes or assumed."""

    def __post_init__(self) -> None:
        if not isinstance(self.config, STIVConfig):
            raise ValueError(f"config is {short(self.config)}: expected a STIVConfig")
        check_latents(self.latents, self.config)
        check_text(self.text, self.config)
        check_tasks(self.tasks)
        check_sampling(self.sampling)
        expect(isinstance(self.training, Mapping), "training", self.training, "a table")
        for key in ("operations", "assumed"):
            value = self.training.get(key, [])
            expect(isinstance(value, list), f"training.{key}", value, "a list")
        for key, value in self.modelspec.items():
            expect(isinstance(value, str), f"modelspec.{key}", value, "a text")
        if self.tensor_hash is not None:
            good = isinstance(self.tensor_hash, str) and re.fullmatch(
                "[0-9a-f]{64}", self.tensor_hash
            )
            expect(bool(good), "tensor_hash", self.tensor_hash, "64 hexadecimal digits")

    @cached_property
    def text_encoder_config(self) -> TextEncoderConfig | None:
        """Sizes of the text encoder inside the file, None if there is none."""
        return TextEncoderConfig.from_dict(self.text["config"]) if "config" in self.text else None

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer inside the file, None if there is none."""
        if "vocab" not in self.text:
            return None
        return Tokenizer(self.text["vocab"], self.text["max_tokens"])

    @property
    def size(self) -> str:
        """The name of the config in `MODELS`, or "custom"."""
        return next((name for name, config in MODELS.items() if config == self.config), "custom")

    @property
    def prediction(self) -> Literal["velocity", "epsilon"]:
        """What the network predicts: the velocity of the flow, or the noise of a diffusion."""
        return self.sampling.get("prediction", "velocity")

    @property
    def longest_task(self) -> Mapping[str, Any] | None:
        """The task of the most frames, the first of several: what is sampled where nobody says
        otherwise. None for a card that lists no tasks."""
        return max(self.tasks, key=lambda task: task.get("frames", [1, 1])[1], default=None)

    @property
    def stride(self) -> int:
        """Frames of the original video per frame where nobody says: the least that the longest
        task was trained for, 1 where the card does not tell."""
        return (self.longest_task or {}).get("stride", [1, 1])[0]

    @property
    def image_attention(self) -> str | None:
        """What the picture in the network's cross-attention was trained for: "beside" frame
        replacement or "instead" of it; None for a network without, and where it is not told."""
        recipe = self.training.get("recipe")
        data = recipe.get("data") if isinstance(recipe, Mapping) else None
        known = isinstance(data, Mapping) and self.config.image_cross_attention
        return data.get("image_attention") if known else None

    @property
    def parameters(self) -> int:
        """Number of the model's parameters."""
        return sum(math.prod(shape) for shape in expected_shapes(self.config).values())

    def doubt(self, task: str | None, frames: int) -> str | None:
        """Why the model may fail at a task with so many frames, for people.

        None where it was trained for it, and for no task.
        """
        if task is None:
            return None
        name, listed = task.replace("_", "-"), [row["task"] for row in self.tasks]
        rows = [row for row in self.tasks if row["task"] == task]
        if not rows:
            known = f"it lists {', '.join(listed)}" if listed else "it lists no tasks"
            return (
                f"this model's card does not say that it was trained for {name} ({known}), so "
                f"expect no good result: load a model trained for {name}"
            )
        spans = [tuple(row.get("frames", (1, frames))) for row in rows]
        if any(low <= frames <= high for low, high in spans):
            return None
        trained = " or ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)
        return (
            f"this model was trained for {name} with {trained} frames, not {frames}: the other "
            "frames will be guesses"
        )

    def doubt_prompt(self, tokens: int | None) -> str | None:
        """Why a prompt of so many tokens may be read badly, for people; None where it will not.

        Only models without a text encoder of their own or chunks of 77 are doubted: for t5xxl a
        prompt is as long as its tokens.
        """
        limit = self.text["max_tokens"]
        if tokens is None or tokens <= limit or self.text["encoder"] in ("clip_g", "nano"):
            return None
        return (
            f"the prompt has {tokens} tokens, this model was trained with up to {limit}: what "
            "comes after may be ignored or confuse it; shorten the prompt"
        )

    def to_metadata(self) -> dict[str, str]:
        """The card as the file's metadata, in a fixed order."""
        values = {"config": self.config.to_dict()}
        values |= {name: getattr(self, name) for name in _JSON_FIELDS[1:]}
        metadata = {"stiv.format": FORMAT}
        for name, value in values.items():
            metadata[f"stiv.{name}"] = json.dumps(
                value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
            )
        if self.tensor_hash is not None:
            metadata["stiv.tensor_hash"] = self.tensor_hash
        spec = {"sai_model_spec": "1.0.1", "architecture": "stiv", **self.modelspec}
        return metadata | {f"modelspec.{key}": value for key, value in spec.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Card:
        """The card of a file's metadata.

        Raises:
            ValueError: naming the key that is missing, cannot be parsed or has a bad value.
        """
        version = metadata.get("stiv.format")
        if version != FORMAT:
            raise ValueError(
                f"stiv.format is {short(version)}: expected {FORMAT!r}; update the pack if the "
                "file is newer"
            )
        values: dict[str, Any] = {}
        for name in _JSON_FIELDS:
            key = f"stiv.{name}"
            if key not in metadata:
                if name in ("config", "latents", "text"):
                    raise ValueError(f"{key} is missing from the metadata")
                continue
            try:
                values[name] = parse_json(metadata[key])
            except ValueError as error:
                raise ValueError(f"{key} is no valid JSON: {error}") from None
        values["config"] = STIVConfig.from_dict(values["config"])
        values["modelspec"] = {
            key.removeprefix("modelspec."): value
            for key, value in metadata.items()
            if key.startswith("modelspec.")
        }
        return cls(**values, tensor_hash=metadata.get("stiv.tensor_hash"))

    def summary(self) -> str:
        """The card as a few lines for people."""
        config, text, latents = self.config, self.text, self.latents
        kind = "video" if config.temporal_attention else "image"
        title = self.modelspec.get("title") or f"STIV {self.size}"
        width = f"width {text['width']}"
        if text["pooled_width"]:
            width += f", pooled {text['pooled_width']}"
        where = "inside the file" if "vocab" in text else "to be loaded beside it"
        lines = [
            f"{title}: {kind} model of {_count(self.parameters)} parameters",
            f"size: {self.size}, {config.depth} blocks, width {config.width}, {config.heads} heads",
            f"trained for: {'; '.join(map(_task_line, self.tasks)) or 'not stated'}",
            f"latent space: {latents['name']}, {latents['channels']} channels, "
            f"{latents['downscale']} pixels per latent",
            f"text encoder: {text['encoder']} ({where}), {width}, "
            f"up to {text['max_tokens']} tokens",
            f"predicts: {_PREDICTIONS[self.prediction]}",
            f"licence: {self.modelspec.get('license') or 'not stated'}",
        ]
        lines += [
            f"{key.replace('_', ' ')}: {_plain(value)}"
            for key, value in self.training.items()
            if not isinstance(value, Mapping | list)  # recipes are for tools, not for people
        ]
        lines.append(f"tensor hash: {self.tensor_hash or 'not stated'}")
        lines += [f"note: {note}" for note in (*self.training.get("assumed", []), *self.inferred)]
        return "\n".join(map(printable, lines))


def infer_card(config: STIVConfig, notes: list[str]) -> Card:
    """A card for a model that came without one: usual latents and text encoder of its widths."""
    spaces = {4: "sd", 16: "sd3"}
    name = spaces.get(config.latent_channels, "custom")
    latents = LATENT_SPACES.get(name) or {
        "name": "custom",
        "channels": config.latent_channels,
        "scale": 1.0,
        "shift": 0.0,
        "downscale": 8,
    }
    widths = {"width": config.text_width, "pooled_width": config.pooled_width}
    encoder = next(
        (key for key, value in TEXT_ENCODERS.items() if value["width"] == config.text_width),
        "custom",
    )
    text = {"encoder": encoder, "max_tokens": 77, **TEXT_ENCODERS.get(encoder, {}), **widths}
    notes = [
        "the file has no STIV metadata; the network was read from its tensors",
        *notes,
        f"latent space taken to be {name}, text encoder {encoder}",
    ]
    return Card(config=config, latents=dict(latents), text=text, inferred=tuple(notes))


def _count(n: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if n >= unit:
            return f"{n / unit:.2f}".rstrip("0").rstrip(".") + f" {name}"
    return str(n)


def _task_line(task: Mapping[str, Any]) -> str:
    def span(key: str) -> str:
        low, high = task[key]
        return str(low) if low == high else f"{low}–{high}"

    parts = []
    if "width" in task and "height" in task:
        parts.append(f"{span('width')} × {span('height')} px")
    if "frames" in task:
        parts.append(f"{span('frames')} frames")
    if "stride" in task:
        parts.append(f"stride {span('stride')}")
    return f"{task['task']} ({', '.join(parts)})" if parts else task["task"]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
