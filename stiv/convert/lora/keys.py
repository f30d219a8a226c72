"""What trainers call the tensors of a LoRA: which of our tensors each changes, and how.

A name is a wrapper's prefix, the layer, and an end that says what the tensor is. Layers are known
under our names and, as `stiv.convert.names` has them, under those of PixArt-alpha and Open-Sora
1.0; where queries, keys and values are layers of their own, each is a share of the rows of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from ...config import STIVConfig
from ...shapes import expected_shapes
from ..names import foreign_tensors

PREFIX = "diffusion_model."
"""What the host's own form puts before the layer."""

Form = Literal["comfy", "peft", "kohya"]
"""How a file is written: as the host's generic LoRA, as PEFT's, as kohya's scripts do."""
FORMS: tuple[Form, ...] = ("comfy", "peft", "kohya")

Role = Literal["down", "up", "alpha", "diff", "bias_diff", "up_bias", "magnitude"]

_ADAPTER = r"(?:\.(?!weight$|bias$)\w+)?"  # PEFT may put the adapter's name in between
_ENDS: tuple[tuple[str, Role], ...] = (
    (rf"\.lora_A{_ADAPTER}(?:\.weight)?", "down"),
    (rf"\.lora_B{_ADAPTER}(?:\.weight)?", "up"),
    (rf"\.lora_B{_ADAPTER}\.bias", "up_bias"),
    (r"(?:\.lora_|\.lora\.|_lora\.|\.lora_linear_layer\.)down\.weight", "down"),
    (r"(?:\.lora_|\.lora\.|_lora\.|\.lora_linear_layer\.)up\.weight", "up"),
    (r"\.lora_up\.bias", "up_bias"),
    (r"\.alpha", "alpha"),
    (r"\.(?:diff|w_norm)", "diff"),
    (r"\.(?:diff_b|b_norm)", "bias_diff"),
    (rf"\.(?:dora_scale|lora_magnitude_vector{_ADAPTER}(?:\.weight)?)", "magnitude"),
)
_WRAPPERS = (
    "base_model.model.", "diffusion_model.", "transformer.", "unet.", "model.", "module.",
    "_orig_mod.",
)  # fmt: skip
_FLAT_WRAPPERS = ("lora_unet_", "lora_transformer_", "lycoris_")
_STACK = re.compile(r"(decoder_blocks|transformer_blocks|blocks)([._])(\d{1,4})\2(.+)")
_BLOCKS = ("blocks.", "decoder_blocks.")
_FORM_SIGNS = (
    ("lora_unet_", "kohya"), ("lora_transformer_", "OneTrainer"), ("lycoris_", "LyCORIS"),
    ("base_model.model.", "PEFT"), ("unet.base_model.", "PEFT"), ("diffusion_model.", "ComfyUI"),
    ("transformer.", "diffusers"), ("unet.", "diffusers"),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Which of our tensors a name means."""

    tensor: str
    part: int = 0
    """Which of `parts` equal shares of the tensor's rows."""
    parts: int = 1
    is_foreign: bool = False
    """Named as PixArt-alpha or Open-Sora 1.0 do."""


def parse(key: str) -> tuple[str, Role] | None:
    """A name without its end, and what the end says; None for an end that no LoRA has."""
    for pattern, role in _PATTERNS:
        if match := pattern.fullmatch(key):
            return match[1], role
    return None


def layer_of(stem: str) -> str:
    """A name without prefixes and end: the layer as its trainer called it."""
    while wrapper := next((w for w in _WRAPPERS if stem.startswith(w)), None):
        stem = stem.removeprefix(wrapper)
    stem = stem.replace(".processor.", ".")  # attention processors of old diffusers
    return f"{stem}.0" if stem.endswith(".to_out") else stem


def place_of(stem: str) -> Place | None:
    """Where a name without its end belongs; None for no layer or tensor that we know."""
    flat = next((w for w in _FLAT_WRAPPERS if stem.startswith(w)), None)
    name = stem.removeprefix(flat) if flat else layer_of(stem)
    number = None
    if match := _STACK.fullmatch(name):
        stack, dot, number, rest = match.groups()
        name = f"{stack}{dot}0{dot}{rest}"
    place = _known(is_flat=flat is not None).get(name)
    if place is None or number is None:
        return place
    return replace(place, tensor=place.tensor.replace(".0.", f".{int(number)}.", 1))


def form_of(keys: Iterable[str]) -> str:
    """The trainers' forms that names speak of, for people."""
    found = {
        next((form for sign, form in _FORM_SIGNS if key.startswith(sign)), "bare") for key in keys
    }
    return " and ".join(sorted(found))


def factor_keys(layer: str, form: Form) -> tuple[str, str, str]:
    """What a file of `form` calls down, up and alpha of one of our layers; PEFT's has no alpha."""
    stem = _stem(layer, form)
    down, up = ("lora_down", "lora_up") if form == "kohya" else ("lora_A", "lora_B")
    return f"{stem}.{down}.weight", f"{stem}.{up}.weight", f"{stem}.alpha"


def difference_key(tensor: str, form: Form) -> str:
    """What a file of `form`, PEFT's apart, calls the difference of one of our tensors."""
    if tensor.endswith(".bias"):
        return f"{_stem(tensor.removesuffix('.bias'), form)}.diff_b"
    return f"{_stem(tensor.removesuffix('.weight'), form)}.diff"


def magnitude_key(layer: str, form: Form) -> str:
    """What a file of `form`, PEFT's apart, calls the norms of DoRA."""
    return f"{_stem(layer, form)}.dora_scale"


def matching(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    """The layers among `names` that `targets` mean, in their order.

    A target is the end of a layer's name within the blocks ("qkv", "cross_attn.proj") or a full
    name ("patch_embed"). Raises ValueError for one that matches nothing.
    """

    def means(target: str, name: str) -> bool:
        return name == target or (name.startswith(_BLOCKS) and name.endswith(f".{target}"))

    for target in targets:
        if not any(means(target, name) for name in names):
            ends = sorted({name.rsplit(".", 1)[-1] for name in names if name.startswith(_BLOCKS)})
            raise ValueError(
                f"LoRA target {target!r} is no linear layer of this model: "
                f"expected some of {', '.join(ends)} or a full layer name"
            )
    return [name for name in names if any(means(target, name) for target in targets)]


def _stem(layer: str, form: Form) -> str:
    if form == "kohya":
        return "lora_unet_" + layer.replace(".", "_")
    return ("base_model.model." if form == "peft" else PREFIX) + layer


@cache
def _known(is_flat: bool) -> dict[str, Place]:
    """Every layer and tensor of the first block and outside of blocks, by all its names."""
    places: dict[str, Place] = {}
    for name, place in _all_places():
        key = name.removesuffix(".weight")
        places.setdefault(key.replace(".", "_") if is_flat else key, place)
    return places


def _all_places() -> Iterable[tuple[str, Place]]:
    small = {"width": 8, "depth": 1, "heads": 1, "mask_decoder_blocks": 1, "null_text_tokens": 1}
    for is_shared in (True, False):
        config = STIVConfig(
            **small, position="sincos", image_cross_attention=True, shared_adaln=is_shared
        )
        for name in expected_shapes(config):
            yield name, Place(name)
    for layout, is_video in (("original", True), ("diffusers", False)):
        table = foreign_tensors(1, layout, is_video=is_video, has_null_text=True)
        for ours, theirs in table.items():
            for part, name in enumerate(theirs):
                yield name, Place(ours, part, len(theirs), is_foreign=True)


_PATTERNS = tuple((re.compile(f"(.+?){end}"), role) for end, role in _ENDS)
