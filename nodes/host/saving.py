"""What the wires carry, as parts of a checkpoint: weights with their patches baked in, and what of
text encoder and VAE can go into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...stiv.card import Card
from ...stiv.tensor_file import LazyTensors
from .text import HostTextEncoder
from .vae import check_vae

MODEL_PREFIX = "model.diffusion_model."
"""Of the network's tensors where the host saves them."""

_SCALE = "_scale"
_IMAGE_VAES = ("decoder.conv_in.weight", "taesd_decoder.1.weight")


def baked_tensors(save: Callable[[], Mapping[str, Any]], prefix: str) -> LazyTensors:
    """Tensors by their names without `prefix`, with LoRAs and other weight patches baked in.

    save: the host's `state_dict_for_saving`. Each tensor is baked when it is asked for, with the
    same rounding as by the host's own save nodes, and none is kept.
    """
    baker = _Baker(save, prefix)
    return LazyTensors(baker.described, baker.bake)


class _Baker:
    """What the host hands out for saving gives its tensor once; this, again and again."""

    def __init__(self, save: Callable[[], Mapping[str, Any]], prefix: str):
        self._save, self._prefix = save, prefix
        self._waiting = self._handed_out()
        self._scales: dict[str, Tensor] = {}
        self.described = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for name, tensor in self._waiting.items()
        }

    def bake(self, name: str) -> Tensor:
        if name.endswith(_SCALE) and name not in self._scales:
            self.bake(name.removesuffix(_SCALE))
        if name in self._scales:
            return self._scales[name]
        if name not in self._waiting:
            self._waiting = self._handed_out()
        tensor = self._waiting.pop(name).to("cpu")
        # The host keeps a quantised layer until its scale was asked for too.
        if (scale := name + _SCALE) in self._waiting:
            self._scales[scale] = self._waiting.pop(scale).to("cpu")
        return tensor

    def _handed_out(self) -> dict[str, Any]:
        return {
            name.removeprefix(self._prefix): tensor
            for name, tensor in self._save().items()
            if name.startswith(self._prefix)
        }


def patches_of(patcher: Any) -> dict[str, Any]:
    """How many tensors are patched and by what ("lora", "loha", …, "merge"); empty if none is."""
    kinds = {kind for patches in patcher.patches.values() for kind in _kinds(patches)}
    return {"tensors": len(patcher.patches), "kinds": sorted(kinds)} if kinds else {}


def _kinds(patches: list[tuple]) -> Iterator[str]:
    for _, patch, *_ in patches:
        if isinstance(patch, WeightAdapterBase):
            yield patch.name
        elif isinstance(patch, list):  # another model's weight with its own patches
            yield "merge"
        else:
            yield patch[0] if len(patch) == 2 else "diff"


def text_part(clip: Any, card: Card) -> tuple[dict[str, Any], LazyTensors] | None:
    """`Card.text` and tensors of a CLIP from a STIV checkpoint; None for any other.

    Raises ValueError for one of other widths than the model takes.
    """
    model = clip.cond_stage_model
    network = getattr(getattr(model, getattr(model, "clip", ""), None), "transformer", None)
    if not isinstance(network, HostTextEncoder):
        return None
    tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip).tokenizer.tokenizer
    width, pooled = network.config.width, card.config.pooled_width
    if width != card.config.text_width or pooled not in (0, width):
        raise ValueError(
            f"the CLIP is {width} wide, the model takes {card.config.text_width} (pooled {pooled}):"
            " connect the CLIP of the checkpoint where the model came from"
        )
    text = {
        "encoder": "nano",
        "width": width,
        "pooled_width": pooled,
        "max_tokens": tokenizer.max_tokens,
        "config": network.config.to_dict(),
        "vocab": list(tokenizer.vocab),
    }
    return text, baked_tensors(clip.state_dict_for_saving, f"{model.clip}.transformer.")


def vae_part(vae: Any, card: Card, node: str) -> dict[str, Tensor]:
    """Tensors of an image VAE by the names that the host loads it by.

    Raises ValueError, naming the node, for a VAE that a STIV checkpoint cannot hold.
    """
    check_vae(vae, node)
    channels = card.latents["channels"]
    if vae.latent_channels != channels:
        raise ValueError(
            f"{node}: the VAE makes {vae.latent_channels} latent channels, the model takes "
            f"{channels}: connect the VAE that belongs to the model"
        )
    tensors = vae.get_sd()
    if not any(name in tensors for name in _IMAGE_VAES):
        raise ValueError(
            f"{node}: a {type(vae.first_stage_model).__name__} cannot be loaded from a checkpoint: "
            "leave vae unconnected and keep its file beside the model"
        )
    return dict(tensors)
