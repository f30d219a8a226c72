"""LoRAs added into a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...tensor_file import LazyTensors, Progress, described, tensor_hash
from ..weights import Weights
from .adapter import Lora, Shape, wide


def merge(
    weights: Weights, loras: Sequence[tuple[Lora, float]], progress: Progress | None = None
) -> Weights:
    """The checkpoint with every LoRA added at its strength, in order.

    The sum is taken in float32 (float64 for weights in float64) and rounded once to the dtype of
    the weights; what no LoRA changes is kept as it is. Nothing is computed before it is used,
    but the LoRAs are read for their hashes. Each must have been read against the checkpoint.
    Raises ValueError, when a tensor is made, for one that is not finite then.
    """
    model, known = weights.diffusion_model, described(weights.diffusion_model)

    def make(name: str) -> Tensor:
        weight = model[name]
        touching = [(lora, strength) for lora, strength in loras if name in lora.shapes]
        if not touching:
            return weight
        total = weight.to(wide(weight.dtype), copy=True)
        for lora, strength in touching:
            lora.apply(name, total, strength)
        merged = total.to(weight.dtype)
        if not torch.isfinite(merged.to(total.dtype)).all():
            files = ", ".join(lora.path.name for lora, _ in touching)
            raise ValueError(
                f"{name} is no longer finite in {weight.dtype} with {files} added: look for NaN in "
                "them, or lower --strength"
            )
        return merged

    hashes = [tensor_hash(lora.tensors, progress) for lora, _ in loras]
    noted = [{"file": lora.path.name, "strength": strength} for lora, strength in loras]
    return weights.derived(
        "lora merge",
        {"loras": noted},
        [weights, *hashes],
        diffusion_model=LazyTensors(known, make),
    )


def model_shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Shapes of a model's tensors, without reading any."""
    return {name: tuple(tensor.shape) for name, tensor in described(tensors).items()}
