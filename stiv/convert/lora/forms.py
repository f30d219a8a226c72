"""LoRA files as others read them: the host's generic form, PEFT's folder, kohya's names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...header import CheckpointError, parse_json
from ...tensor_file import LazyTensors, described
from .adapter import Lora
from .keys import Form, difference_key, factor_keys, magnitude_key

FORMAT = "1"
METADATA = "stiv.lora"
"""Where the metadata holds, as JSON: format, rank, alpha, base (the tensor hash of the model that
it is for), and what its maker noted."""

MODELSPEC = ("title", "license", "date", "author", "description", "trigger_phrase", "tags")
"""Metadata that goes under the public modelspec names."""

_PARTS: dict[Form, tuple[str, str]] = {
    "comfy": ("lora_A.weight", "lora_B.weight"),
    "peft": ("lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
}
_Makers = dict[str, tuple[Tensor, Callable[[], Tensor]]]


def lora_metadata(title: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The texts for the header of a LoRA file.

    title: what it is called where `values` does not say. values: those under a key of `MODELSPEC`
    are stored under their public names, all others as `METADATA`. Raises ValueError for values
    that JSON has not.
    """
    noted = {key: value for key, value in values.items() if key not in MODELSPEC}
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": "stiv/lora",
        "implementation": "https://arxiv.org/abs/2412.07730",
        "title": title,
        **{key: values[key] for key in MODELSPEC if key in values},
    }
    text = json.dumps({"format": FORMAT, **noted}, ensure_ascii=False, allow_nan=False, default=str)
    return {METADATA: text} | {f"modelspec.{key}": str(value) for key, value in spec.items()}


def noted_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file's metadata holds under `METADATA`; empty for a file of another trainer.

    Raises ValueError for what is no JSON table, or of another format.
    """
    try:
        values = parse_json(metadata.get(METADATA, "{}"))
    except ValueError as error:
        raise ValueError(f"has unreadable LoRA metadata: {error}") from error
    if not isinstance(values, dict) or values.get("format", FORMAT) != FORMAT:
        raise ValueError(f"its LoRA format is unknown: expected {FORMAT!r}")
    return values


def completed_metadata(lora: Lora, title: str, base: str | None) -> dict[str, str]:
    """All that a file says of itself, with what our form adds and it does not say.

    base: tensor hash of the model that it is for, None if not known.
    """
    said = {
        key: lora.metadata[f"modelspec.{key}"]
        for key in MODELSPEC
        if f"modelspec.{key}" in lora.metadata
    }
    ranks, alphas = _common(lora)
    noted = {**noted_metadata(lora.metadata), "rank": ranks, "alpha": alphas}
    if base is not None:
        noted["base"] = base
    if METADATA not in lora.metadata:
        noted["converted"] = {"file": lora.path.name, "form": lora.form}
        if architecture := lora.metadata.get("modelspec.architecture"):
            noted["converted"]["architecture"] = architecture
    return {**lora.metadata, **lora_metadata(title, {**noted, **said})}


def stored_tensors(lora: Lora, form: Form, dtype: torch.dtype | None = None) -> LazyTensors:
    """The tensors of a LoRA by their names in a file of `form`.

    dtype: of the factors and differences; None: as they are.
    Raises CheckpointError, naming the layer, for what the form or the host has no place for; when
    a tensor is made, for one that is not finite.
    """
    makers: _Makers = {}
    for name in lora.shapes:
        if reason := _obstacle(lora, name, form):
            raise CheckpointError(lora.path, reason)
        if name in lora.pairs:
            makers |= _pair(lora, name, form, dtype)
        else:
            known = _meta(lora.shapes[name], dtype or lora.dtypes(name)[0])
            makers[difference_key(name, form)] = known, partial(lora.difference, name)

    def make(key: str) -> Tensor:
        known, get = makers[key]
        tensor = get().to(known.dtype)
        # float8 has no isfinite of its own
        if not torch.isfinite(tensor.float() if tensor.dtype.itemsize == 1 else tensor).all():
            raise CheckpointError(
                lora.path, f"{key} is not finite in {tensor.dtype}: look for NaN, or widen --dtype"
            )
        return tensor

    return LazyTensors({key: known for key, (known, _) in makers.items()}, make)


def peft_config(lora: Lora) -> dict[str, Any]:
    """The adapter_config.json with which PEFT loads a file of its form."""
    layers = {name.removesuffix(".weight"): name for name in lora.pairs}
    ranks = {layer: lora.rank(name) for layer, name in layers.items()}
    alphas = {layer: lora.alpha(name) for layer, name in layers.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {layer: n for layer, n in ranks.items() if n != rank},
        "alpha_pattern": {layer: n for layer, n in alphas.items() if n != alpha},
        "target_modules": list(layers),
        "bias": "none",
    }


def _pair(lora: Lora, name: str, form: Form, dtype: torch.dtype | None) -> _Makers:
    layer, rank, (rows, columns) = name.removesuffix(".weight"), lora.rank(name), lora.shapes[name]
    down, up = (dtype or stored for stored in lora.dtypes(name))
    keys = factor_keys(layer, form)
    makers: _Makers = {
        keys[0]: (_meta((rank, columns), down), lambda: lora.factors(name)[0]),
        keys[1]: (_meta((rows, rank), up), lambda: lora.factors(name)[1]),
    }
    if form != "peft":
        alpha = torch.tensor(lora.alpha(name))
        makers[keys[2]] = alpha.to("meta"), lambda: alpha
    if lora.is_dora(name):
        key = lora.pairs[name][0].magnitude
        makers[magnitude_key(layer, form)] = (
            described(lora.tensors)[key],
            partial(lora.tensors.__getitem__, key),
        )
    return makers


def _obstacle(lora: Lora, name: str, form: Form) -> str | None:
    """Why a tensor has no place in the form, or no equal meaning in the host; None if it has."""
    if name in lora.pairs and name in lora.differences:
        return (
            f"{name} has both factors and a difference, of which the host takes one: merge the "
            "LoRA into a checkpoint instead"
        )
    if name not in lora.pairs and form == "peft":
        return (
            f"{name} has a difference without factors, for which PEFT has no name: use --form comfy"
        )
    if not name.endswith((".weight", ".bias")) and form == "kohya":
        return f"{name} is no layer, kohya's form has no name for it: use --form comfy"
    if lora.is_dora(name):
        pair = lora.pairs[name][0]
        shape = described(lora.tensors)[pair.magnitude].shape
        # Of rows the host divides by the norms before the change, which is not what was trained.
        if form == "peft" or pair.place.parts > 1 or len(shape) < 2 or shape[0] != 1:
            return (
                f"{name} has norms of its rows set (DoRA, {pair.magnitude}), which the host "
                "computes otherwise than it was trained: merge the LoRA into a checkpoint instead"
            )
    return None


def _common(lora: Lora) -> tuple[int | None, float | None]:
    """The largest rank, and alpha where all layers have the same."""
    alphas = {lora.alpha(name) for name in lora.pairs}
    rank = max((lora.rank(name) for name in lora.pairs), default=None)
    return rank, alphas.pop() if len(alphas) == 1 else None


def _meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
