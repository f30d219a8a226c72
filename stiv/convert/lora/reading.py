"""LoRA files from strangers, understood from names and shapes before a tensor is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...header import CheckpointError, parse_json
from ...shapes import some
from ...tensor_file import described
from ..source import open_source
from .adapter import Difference, Lora, Pair, Shape
from .forms import noted_metadata
from .keys import Place, Role, form_of, layer_of, parse, place_of

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MAX_CONFIG_BYTES = 2**20
_DIFFUSERS_CONFIG = "lora_adapter_metadata"
_REGEX = set("\\*+?|()[]{}$")
_OTHER_KINDS = {".hada_": "LoHa", ".lokr_": "LoKr", ".oft_": "OFT", ".lora_mid": "Tucker LoCon"}

Group = dict[Role, str]


@dataclass(frozen=True)
class Scaling:
    """How strong layers are that have no alpha in the file: what PEFT's config says."""

    alpha: float | None = None
    """None: the rank, so that the factors are taken as they are."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Of single layers, by their names' ends."""
    is_rank_stabilised: bool = False
    """Scale alpha / sqrt(rank), not alpha / rank (rsLoRA)."""
    is_stated: bool = False
    """Said by whoever reads the file, not by what lies beside it."""

    def alpha_of(self, layer: str, rank: int) -> float:
        """alpha such that alpha / rank is the scale of a layer (by its foreign name)."""
        ends = (end for end in self.alphas if layer == end or layer.endswith(f".{end}"))
        end = next(ends, None)
        alpha = self.alpha if end is None else self.alphas[end]
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if self.is_rank_stabilised else alpha


def read_lora(
    path: Path,
    base: Mapping[str, Shape] | None = None,
    *,
    alpha: float | None = None,
    skip_unknown: bool = False,
) -> Lora:
    """The LoRA of a file, or of a PEFT folder; no weight is read.

    base: shapes of the model that it is for; layers that the model has not are unknown then, and
    shapes are compared. alpha: of layers whose alpha neither the file nor a config beside it
    states. skip_unknown: list names that mean nothing under `left_out`.
    Raises CheckpointError, naming the file, for one that is no LoRA, is damaged, holds unknown
    names, or does not fit.
    """
    path = Path(path)
    path = path / PEFT_FILE if path.is_dir() else path
    source = open_source(path)
    tensors, metadata = source.tensors, source.metadata
    scaling = _scaling(path, metadata)
    if alpha is not None:
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha is {alpha!r}: expected a number above 0, often the rank")
        if scaling.alpha is not None and scaling.alpha != alpha:
            raise CheckpointError(
                path, f"has a config with alpha {scaling.alpha:g}: leave --alpha out"
            )
        scaling = Scaling(alpha, is_stated=True)
    try:
        noted_metadata(metadata)
        lora = understand(tensors, base, scaling, path=path, metadata=metadata)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    if lora.left_out and not skip_unknown:
        raise CheckpointError(
            path,
            f"{len(lora.left_out)} of its {len(tensors)} tensors mean nothing to "
            f"{'this model' if base else 'a STIV model'} ({_named(lora.left_out)}); use a LoRA of "
            "this network, or leave them out with --skip-unknown",
        )
    return lora


def understand(
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Shape] | None = None,
    scaling: Scaling | None = None,
    *,
    path: Path = Path("LoRA"),
    metadata: Mapping[str, str] | None = None,
) -> Lora:
    """A LoRA from its tensors by name; of these only the alphas are read.

    Raises ValueError, naming the tensor, for factors that do not fit each other or the base, for
    values that no LoRA has, and where nothing is a LoRA.
    """
    groups, left_out = _grouped(tensors, base)
    reader = _Reader(tensors, base, scaling or Scaling())
    for (place, layer), group in groups.items():
        reader.take(place, layer, group)
    reader.check_stated()
    if not reader.shapes:
        kinds = {kind for sign, kind in _OTHER_KINDS.items() if any(sign in key for key in tensors)}
        what = f"is a {' and '.join(sorted(kinds))}, not" if kinds else "holds no tensors of"
        raise ValueError(f"{what} a LoRA ({some(list(tensors)) or 'it is empty'})")
    keys = set(tensors) - set(left_out)
    return Lora(
        path, tensors, dict(metadata or {}), reader.shapes, reader.pairs, reader.differences,
        form_of(keys), left_out, reader.notes(),
    )  # fmt: skip


def _grouped(
    tensors: Mapping[str, Tensor], base: Mapping[str, Shape] | None
) -> tuple[dict[tuple[Place, str], Group], list[str]]:
    """The names by what they change and what they are; and those that mean nothing."""
    groups: dict[tuple[Place, str], Group] = {}
    places: dict[tuple[str, int], tuple[Place, str]] = {}
    left_out = []
    for key in tensors:
        stem, role = parse(key) or ("", None)
        place = place_of(stem) if role else None
        is_layer = place is not None and place.tensor.endswith(".weight")
        known = place is not None and (is_layer or role == "diff")
        if not known or (base is not None and place.tensor not in base):
            left_out.append(key)
            continue
        # two wrappers may name one share of one layer: they are one, or the file is odd
        owner = places.setdefault((place.tensor, place.part), (place, layer_of(stem)))
        group = groups.setdefault(owner, {})
        if role in group:
            raise ValueError(f"tensors {group[role]} and {key} both are the {role} of one layer")
        group[role] = key
    return groups, left_out


class _Reader:
    """Collects pairs and differences, checked."""

    def __init__(self, tensors, base, scaling: Scaling):
        self.tensors, self.known = tensors, described(tensors)
        self.base, self.scaling = base, scaling
        self.shapes: dict[str, Shape] = {}
        self.pairs: dict[str, list[Pair]] = {}
        self.differences: dict[str, list[Difference]] = {}
        self._without_alpha = 0  # layers of which the file itself states none

    def take(self, place: Place, layer: str, group: Group) -> None:
        for role, key in group.items():
            dtype = self.known[key].dtype
            if not dtype.is_floating_point and role != "alpha":
                raise ValueError(f"tensor {key} is {dtype}: expected floating-point numbers")
        scale = self._pair(place, layer, group) if {"down", "up"} & group.keys() else None
        if scale is None and (alone := {"alpha", "magnitude", "up_bias"} & group.keys()):
            raise ValueError(f"tensor {group[min(alone)]} comes without factors; get it again")
        for role in ("diff", "bias_diff", "up_bias"):
            if role in group:
                self._difference(place, group[role], scale if role == "up_bias" else 1.0, role)

    def notes(self) -> list[str]:
        if not self._without_alpha or self.scaling.alpha is not None:
            return []
        return [
            f"{self._without_alpha} layers state no alpha: taken to be the rank, as ComfyUI and "
            "diffusers do"
        ]

    def check_stated(self) -> None:
        if self.scaling.is_stated and self.pairs and not self._without_alpha:
            raise ValueError("every layer states an alpha itself: leave --alpha out")

    def _pair(self, place: Place, layer: str, group: Group) -> float:
        missing = {"down": "up", "up": "down"}.get(next(iter({"down", "up"} - group.keys()), ""))
        if missing:
            raise ValueError(f"tensor {group[missing]} has no partner; get the file again")
        down, up = (tuple(self.known[group[role]].shape) for role in ("down", "up"))
        fits = len(down) >= 2 and len(up) >= 2 and up[1] == down[0] and math.prod(up[2:]) == 1
        if not fits or 0 in (*down, *up):
            raise ValueError(
                f"tensors {group['down']} {down} and {group['up']} {up} are no pair: expected "
                "(rank, in) and (out, rank)"
            )
        rank, wide = down[0], math.prod(down[1:])
        alpha = self._alpha(group, layer, rank)
        rows, has_variance = self._rows(place, group["up"], up[0])
        self._shape(place.tensor, group["up"], (rows * place.parts, wide))
        magnitude = group.get("magnitude")
        if magnitude:
            shape = tuple(self.known[magnitude].shape)
            if has_variance or shape not in ((rows,), (rows, 1), (1, wide)):
                raise ValueError(
                    f"tensor {magnitude} has shape {shape}: expected {(rows,)} or {(1, wide)}"
                )
        pair = Pair(place, group["down"], group["up"], alpha, rank, magnitude, has_variance)
        self.pairs.setdefault(place.tensor, []).append(pair)
        self.pairs[place.tensor].sort(key=lambda pair: pair.place.part)
        return pair.scale

    def _difference(self, place: Place, key: str, scale: float | None, role: Role) -> None:
        name = place.tensor
        if role != "diff":
            name = f"{name.removesuffix('.weight')}.bias"
            if self.base is not None and name not in self.base:
                raise ValueError(f"tensor {key} is for a bias, which this model has not there")
        shape = tuple(self.known[key].shape)
        shape = shape if len(shape) < 3 else (shape[0], math.prod(shape[1:]))
        if not shape or 0 in shape:
            raise ValueError(f"tensor {key} has shape {shape}: expected a difference")
        place = Place(name, place.part, place.parts, place.is_foreign)
        rows, has_variance = self._rows(place, key, shape[0])
        self._shape(name, key, (rows * place.parts, *shape[1:]))
        difference = Difference(place, key, 1.0 if scale is None else scale, has_variance)
        self.differences.setdefault(name, []).append(difference)

    def _alpha(self, group: Group, layer: str, rank: int) -> float:
        if "alpha" not in group:
            alpha = self.scaling.alpha_of(layer, rank)
            self._without_alpha += 1
        else:
            key = group["alpha"]
            if self.known[key].numel() != 1:
                shape = tuple(self.known[key].shape)
                raise ValueError(f"tensor {key} has shape {shape}: expected one number")
            alpha = float(self.tensors[key])
        if not math.isfinite(alpha):
            raise ValueError(f"alpha of {group['down']} is {alpha}: expected a number")
        return alpha

    def _rows(self, place: Place, key: str, rows: int) -> tuple[int, bool]:
        """Rows that are ours, and whether as many again are for a variance."""
        if not (place.is_foreign and place.tensor.startswith("final.linear.")):
            return rows, False
        if self.base is None:
            raise ValueError(
                f"tensor {key} is of the last layer, which in releases also predicts a variance: "
                "name the checkpoint by --base to tell"
            )
        return (rows // 2, True) if rows == 2 * self.base[place.tensor][0] else (rows, False)

    def _shape(self, name: str, key: str, shape: Shape) -> None:
        """Compares with what is known of one of our tensors, and remembers it."""
        wanted = self.base[name] if self.base is not None else self.shapes.get(name, shape)
        if shape != wanted:
            what = "the model's" if self.base is not None else "another tensor's"
            raise ValueError(
                f"tensor {key} is for a {name} of shape {shape}, {what} is {tuple(wanted)}: use a "
                "LoRA of a model of this size"
            )
        self.shapes[name] = shape


# --- what stands beside the tensors --------------------------------------------------------------


def _scaling(path: Path, metadata: Mapping[str, str]) -> Scaling:
    """From PEFT's config beside the file, or diffusers' copy of it in the metadata."""
    beside = path.parent / PEFT_CONFIG
    if path.name == PEFT_FILE and beside.is_file():
        with beside.open("rb") as file:
            text = file.read(_MAX_CONFIG_BYTES).decode("utf-8", "replace")
        config = _config(beside, text)
    elif _DIFFUSERS_CONFIG in metadata:
        config = _config(path, metadata[_DIFFUSERS_CONFIG])
        config = {key.split(".", 1)[-1]: value for key, value in config.items()}
    else:
        return Scaling()
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise CheckpointError(path, f"is a {kind!s:.40} of PEFT, not a LoRA")
    if config.get("fan_in_fan_out"):
        raise CheckpointError(path, "is for transposed weights (fan_in_fan_out): not for this")
    alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    numbers = [alpha, *patterns.values()] if isinstance(patterns, dict) else [patterns]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise CheckpointError(path, f"its PEFT config gives the alphas {numbers!s:.80}")
    alphas = {name.removeprefix("^"): float(value) for name, value in patterns.items()}
    if odd := next((name for name in alphas if _REGEX & set(name)), None):
        raise CheckpointError(
            path, f"gives alphas by the pattern {odd[:80]!r}: only names of layers are understood"
        )
    return Scaling(float(alpha), alphas, bool(config.get("use_rslora")))


def _config(path: Path, text: str) -> dict[str, Any]:
    try:
        values = parse_json(text, max_items=100_000)
    except ValueError as error:
        raise CheckpointError(path, f"its PEFT config is no valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(path, "its PEFT config is no table")
    return values


def _named(keys: list[str]) -> str:
    kinds = {kind for sign, kind in _OTHER_KINDS.items() if any(sign in key for key in keys)}
    return some(keys) + "".join(f"; {kind} is not read" for kind in sorted(kinds))
