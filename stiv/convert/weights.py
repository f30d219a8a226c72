"""A checkpoint as one value: what every conversion takes and gives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoint import Card, stream_checkpoint, write_checkpoint
from ..tensor_file import Progress, Tensors


@dataclass(frozen=True)
class Weights:
    """A model with its card and, where the file holds them, text encoder and VAE.

    The tensors are by their names within the part; they may be `LazyTensors`, read or made when
    asked for, so that nothing here holds more than one of them.
    """

    card: Card
    diffusion_model: Tensors
    text_encoder: Tensors = field(default_factory=dict)
    vae: Tensors = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, as_stored: bool = False) -> Weights:
        """Of a STIV checkpoint; tensors are read when used. Raises CheckpointError.

        as_stored: leave quantised layers as they are; else as the float32 numbers they stand for.
        """
        card, parts = stream_checkpoint(path, as_stored=as_stored)
        return cls(card, **parts)

    def write(self, path: Path, progress: Progress | None = None) -> Card:
        """Write a STIV checkpoint, atomically; see `write_checkpoint` for what it raises."""
        return write_checkpoint(
            path, self.card, self.diffusion_model, self.text_encoder, self.vae, progress
        )

    def derived(
        self,
        operation: str,
        settings: Mapping[str, Any],
        parents: Sequence[Weights | str | None],
        **changes: Any,
    ) -> Weights:
        """The same with `changes` of its fields, and the operation noted in its card.

        `stiv.training` lists under `operations` what was done, oldest first: the operation, its
        settings, and the tensor hashes of the checkpoints that it took (`parents`), null for one
        that has no hash.
        """
        changed = replace(self, **changes)
        hashes = [p.card.tensor_hash if isinstance(p, Weights) else p for p in parents]
        entry = {"operation": operation, **settings, "parents": hashes}
        training = dict(changed.card.training)
        training["operations"] = [*training.get("operations", []), entry]
        return replace(changed, card=replace(changed.card, training=training, tensor_hash=None))
