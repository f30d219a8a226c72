"""Scaled float8: linear layers of the blocks at one byte a weight, as ComfyUI computes with them.

Such a layer has three tensors: `weight` in float8_e4m3fn; `weight_scale`, the float32 number by
which it is to be multiplied; and `comfy_quant`, bytes of JSON that name the format. Embeddings,
norms, tables, modulation and the final layer are small or sensitive and stay as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .header import parse_json
from .tensor_file import LazyTensors, Tensors, described

FLOAT8, NAME = torch.float8_e4m3fn, "float8_e4m3fn"
FLOAT8_MAX = torch.finfo(FLOAT8).max

SCALE, FORMAT = "weight_scale", "comfy_quant"
_DTYPES = {SCALE: ("F32",), FORMAT: ("U8",)}
_LAYERS = re.compile(
    r"((?:decoder_)?blocks\.\d{1,6}\."
    r"(?:(?:spatial|temporal)_attn\.(?:qkv|proj)|cross_attn\.(?:q|kv|proj)|mlp\.fc[12]))\.weight"
)
_MAX_FORMAT_BYTES = 256
_KEY = "full_precision_matrix_mult"


def layer_of(name: str) -> str | None:
    """The layer that a weight's name belongs to, None unless it may be quantised."""
    match = _LAYERS.fullmatch(name)
    return match[1] if match else None


def quantised_layers(names: Iterable[str]) -> list[str]:
    """The layers that come with a scale."""
    names = set(names)
    layers = (layer_of(name) for name in names)
    return sorted(layer for layer in layers if layer and f"{layer}.{SCALE}" in names)


def part_dtypes(name: str) -> tuple[str, ...] | None:
    """What dtypes, by the file format's names, a scale or a format has; None for weights."""
    layer, _, part = name.rpartition(".")
    return _DTYPES.get(part) if layer_of(f"{layer}.weight") else None


def extra_shapes(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that the float8 weights among `shapes` may have beside them.

    None for a layer without any of them (its weights were cast, not scaled); both, as soon as one
    is there. dtypes: by the file format's names.
    """
    extra: dict[str, tuple[int, ...]] = {}
    for name in shapes:
        layer = layer_of(name)
        scale, form = f"{layer}.{SCALE}", f"{layer}.{FORMAT}"
        if layer is None or dtypes[name] != "F8_E4M3" or not {scale, form} & shapes.keys():
            continue
        length = math.prod(shapes.get(form, (0,)))
        extra[scale] = (1,) if shapes.get(scale) == (1,) else ()
        extra[form] = (min(length, _MAX_FORMAT_BYTES),)
    return extra


def scale_of(weight: Tensor) -> Tensor:
    """The largest size among the weights over float8's largest, 448; 1 for nothing but zeros.

    Raises ValueError for weights that are not finite.
    """
    largest = weight.float().abs().max()
    if not torch.isfinite(largest):
        raise ValueError("holds values that are NaN or infinite")
    return largest / FLOAT8_MAX if largest else torch.ones(())


def quantise(weight: Tensor, scale: Tensor) -> Tensor:
    """A weight in float8, to be multiplied with `scale`."""
    return (weight.float() / scale).clamp_(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8)


def quantise_layers(tensors: Tensors, other: torch.dtype = torch.bfloat16) -> LazyTensors:
    """A model's tensors with the blocks' linear layers in scaled float8, the rest as `other`.

    The layers are to be computed in full precision: rounding the activations to float8 as well is
    faster on some GPUs and costs more quality than rounding the weights did.
    Raises ValueError, when a tensor is made, for one that is not finite.
    """
    form, known = format_tensor(full_precision=True), {}
    for name, tensor in described(tensors).items():
        layer = layer_of(name)
        known[name] = _meta(tensor.shape, other if layer is None else FLOAT8)
        if layer is not None:
            known[f"{layer}.{SCALE}"] = _meta((), torch.float32)
            known[f"{layer}.{FORMAT}"] = form.to("meta")

    def make(name: str) -> Tensor:
        layer, _, part = name.rpartition(".")
        if known[name].dtype == other:
            return tensors[name].to(other)
        if part == FORMAT:
            return form
        weight = tensors[f"{layer}.weight"]
        try:
            scale = scale_of(weight)
        except ValueError as error:
            raise ValueError(f"tensor {layer}.weight {error}") from None
        return scale if part == SCALE else quantise(weight, scale)

    return LazyTensors(known, make)


def dequantise(tensors: Tensors) -> Tensors:
    """A model's tensors without scales: the quantised layers' weights as the float32 numbers that
    they stand for, the others as they are. Made one by one when they are asked for."""
    layers = quantised_layers(described(tensors))
    if not layers:
        return tensors
    weights = {f"{layer}.weight": layer for layer in layers}
    extra = {f"{layer}.{part}" for layer in layers for part in (SCALE, FORMAT)}
    known = {
        name: _meta(tensor.shape, torch.float32) if name in weights else tensor.to("meta")
        for name, tensor in described(tensors).items()
        if name not in extra
    }

    def make(name: str) -> Tensor:
        if name not in weights:
            return tensors[name]
        return tensors[name].float() * tensors[f"{weights[name]}.{SCALE}"]

    return LazyTensors(known, make)


def with_format(tensors: Tensors, *, full_precision: bool) -> dict[str, Tensor]:
    """The same with another `format_tensor` in every quantised layer."""
    form = format_tensor(full_precision=full_precision)
    return dict(tensors) | {f"{layer}.{FORMAT}": form for layer in quantised_layers(tensors)}


def check_layers(tensors: Tensors) -> None:
    """Raise ValueError, naming the layer, for a format or a scale that is not ours to read."""
    for layer in quantised_layers(described(tensors)):
        raw, scale = tensors[f"{layer}.{FORMAT}"], tensors[f"{layer}.{SCALE}"]
        try:
            form: Any = parse_json(bytes(raw.tolist()).decode())
        except ValueError as error:
            raise ValueError(f"{layer}.{FORMAT} is no valid JSON: {error}") from None
        known = {_KEY: False, **form} if isinstance(form, dict) else {}
        if known not in ({"format": NAME, _KEY: False}, {"format": NAME, _KEY: True}):
            raise ValueError(
                f"{layer} is quantised as {json.dumps(form)[:120]}: only {NAME} with one "
                "scale is read; use another copy of the weights"
            )
        if not (torch.isfinite(scale) & (scale > 0)).all():
            raise ValueError(f"{layer}.{SCALE} is {scale.item()}: expected a positive number")


def format_tensor(*, full_precision: bool) -> Tensor:
    """What `comfy_quant` holds. full_precision: multiply dequantised weights with activations as
    they are; else the host may round those to float8 too."""
    form: dict[str, Any] = {"format": NAME}
    if full_precision:
        form[_KEY] = True
    return torch.tensor(list(json.dumps(form).encode()), dtype=torch.uint8)


def _meta(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")
