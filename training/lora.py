"""LoRA on the STIV transformer: peft's layers inside, the key names that ComfyUI reads outside.

A file holds for every adapted layer `diffusion_model.<path>.lora_A.weight` (rank, in),
`.lora_B.weight` (out, rank) and `.alpha`; the layer's weight becomes W + alpha / rank * B @ A.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stiv.convert.lora.forms import lora_metadata
from stiv.convert.lora.keys import PREFIX, matching

from .dropout import SeededDropout
from .files import atomic
from .layers import Linear

TARGETS = ("qkv", "proj", "q", "kv", "fc1", "fc2")
"""Every linear layer of a block: self-attention, cross-attention, FFN."""

_ADAPTER = "default"
_PARTS = ("lora_A.weight", "lora_B.weight", "alpha")


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    targets: Sequence[str] = TARGETS,
    dropout: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Put trainable float32 LoRA layers into the blocks and freeze all the rest; in place.

    The output is unchanged at first (B = 0); A is drawn from `seed` alone. `targets` are ends of
    layer names within the blocks ("qkv", "cross_attn.proj") or full names of any linear layer
    ("patch_embed"). `dropout` is the share of A's inputs that is dropped in training, within
    `training.dropout.dropping`, which says which.

    Returns the names of the trainable parameters. Raises ValueError for a bad rank, alpha or
    dropout, for a target that matches nothing and for a model that has LoRA layers already.
    """
    if _layers(model):
        raise ValueError("the model has LoRA layers already: load a new model")
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"LoRA rank is {rank!r}: expected a whole number of 1 or more")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"LoRA alpha is {alpha!r}: expected a number above 0, often the rank")
    if not 0 <= dropout < 1:
        raise ValueError(f"LoRA dropout is {dropout!r}: expected 0 or more and less than 1")
    _inject(model, rank, alpha, dropout, matching_layers(model, targets))
    generator = torch.Generator().manual_seed(seed)
    for layer in _layers(model).values():
        down, up = _pair(layer)
        # peft's and the host's start: uniform within 1 / sqrt(inputs), drawn on the CPU so that
        # it does not depend on the device
        bound = down.shape[1] ** -0.5
        start = torch.empty(down.shape).uniform_(-bound, bound, generator=generator)
        down.data = start.to(down.device)
        up.data = torch.zeros(up.shape, device=up.device)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def matching_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that `targets` mean, in the order of the model.

    Raises ValueError for a target that matches nothing.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = matching(linear, targets)
    if not found:
        raise ValueError("LoRA has no targets: name at least one layer")
    return found


def lora_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapter by the names of the file, on the CPU in float32.

    Sharded parameters are gathered, so every process has to call it. Raises ValueError for a
    model without LoRA layers.
    """
    tensors = {}
    for path, layer in _adapted(model).items():
        values = (*map(_whole, _pair(layer)), torch.tensor(float(layer.lora_alpha[_ADAPTER])))
        tensors |= {f"{PREFIX}{path}.{part}": v for part, v in zip(_PARTS, values, strict=True)}
    return tensors


def save_lora(
    path: Path, model: nn.Module, metadata: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Write the adapter, atomically, as a file that LoraLoaderModelOnly loads.

    `metadata` needs `base` (tensor hash of the checkpoint that it was trained on) and `steps`.
    Rank, alpha and whatever else it holds are stored as `lora_metadata` says. `dtype` bfloat16
    or float16 halves the file.
    Raises ValueError for missing metadata or values that JSON has not, OSError when it cannot
    be written.
    """
    if missing := [key for key in ("base", "steps") if key not in metadata]:
        raise ValueError(f"{path}: LoRA metadata lacks {' and '.join(missing)}: give both")
    layers = _adapted(model)
    rank, alpha = _rank_and_alpha(next(iter(layers.values())))
    try:
        stored = lora_metadata(Path(path).stem, {"rank": rank, "alpha": alpha, **metadata})
    except ValueError as error:
        raise ValueError(f"{path}: LoRA metadata is not JSON ({error})") from error
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in lora_tensors(model).items()}
    with atomic(Path(path)) as part:
        save_file(tensors, part, metadata=stored)


def _inject(model: nn.Module, rank: int, alpha: float, dropout: float, layers: list[str]) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)
    with torch.random.fork_rng(devices=[]):  # peft draws a start of its own, replaced afterwards
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
        for layer in _layers(model).values():
            # peft widens the input to the adapter's float32; here layers follow their input
            layer.cast_input_dtype_enabled = False
            for parts in (layer.lora_A, layer.lora_B):
                made = parts[_ADAPTER]
                parts[_ADAPTER] = Linear(
                    made.in_features, made.out_features, bias=False, device=made.weight.device
                )
            if dropout:
                layer.lora_dropout[_ADAPTER] = SeededDropout(dropout)
    model.requires_grad_(False)
    for layer in _layers(model).values():
        for parameter in _pair(layer):
            parameter.requires_grad_(True)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The adapted layers by their path in the model, without importing peft."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer")
    }


def _adapted(model: nn.Module) -> dict[str, nn.Module]:
    layers = _layers(model)
    if not layers:
        raise ValueError("the model has no LoRA layers: call add_lora first")
    return layers


def _pair(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """A (rank, in) and B (out, rank)."""
    return layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight


def _rank_and_alpha(layer: nn.Module) -> tuple[int, float]:
    return layer.r[_ADAPTER], float(layer.lora_alpha[_ADAPTER])


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    gather = getattr(tensor, "full_tensor", None)  # of a sharded parameter
    return (tensor if gather is None else gather()).float().cpu().clone()
