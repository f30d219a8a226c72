"""Start a model from others: image to video, and joint (the paper's progressive recipe, section 4).

A T2I model grows into a T2V model: temporal attention is added with an output of zero and the
patch embedding is inflated in time, so that at first a still video gives the still image's output.
A joint start takes temporal attention from a second, trained video model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..config import STIVConfig
from ..model import STIVTransformer

_TEMPORAL = ".temporal_attn."


def grow(
    tensors: Mapping[str, Tensor],
    source: STIVConfig,
    target: STIVConfig,
    *,
    temporal: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """State dict of a `target` model from the tensors of a `source` model.

    temporal: tensors of a video model of the target's width, whose temporal attention is taken.
    What neither has (temporal attention of a T2I model, decoder blocks) is initialised by
    `generator`; a new temporal attention's output is zero. Raises ValueError naming the first
    tensor that does not fit, with both shapes.
    """
    with torch.device("meta"):
        names = STIVTransformer(target).state_dict()
    fresh = STIVTransformer(target)
    fresh.init_weights(generator)
    state = {name: tensor.detach().float().clone() for name, tensor in fresh.state_dict().items()}
    inflated = _inflate(tensors, source, target)
    for name in names:
        taken = inflated.get(name)
        if _TEMPORAL in name and temporal is not None and name in temporal:
            taken = temporal[name]
        if taken is None and _TEMPORAL in name and ".proj." in name:
            taken = torch.zeros_like(state[name])
        if taken is None:
            continue
        if taken.shape != state[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(taken.shape)}, the new model needs "
                f"{tuple(state[name].shape)}: start from a model of the same width, heads and "
                "latent channels"
            )
        state[name] = taken.detach().float().clone()
    missing = sorted(set(inflated) - set(names))
    if missing:
        raise ValueError(f"the new model has no {missing[0]}: start from a model that it contains")
    return state


def _inflate(
    tensors: Mapping[str, Tensor], source: STIVConfig, target: STIVConfig
) -> dict[str, Tensor]:
    """The source's tensors with patches of `target.temporal_patch` frames."""
    state, old, new = dict(tensors), source.temporal_patch, target.temporal_patch
    if old == new:
        return state
    if old != 1:
        raise ValueError(
            f"temporal_patch {old} cannot become {new}: only a model of single frames is inflated"
        )
    # Every frame of a patch gives its share, so equal frames give what one frame gave.
    weight = rearrange(
        state["patch_embed.weight"], "d (c ph pw) -> d c ph pw", ph=source.patch, pw=source.patch
    )
    state["patch_embed.weight"] = repeat(weight / new, "d c ph pw -> d (c pt ph pw)", pt=new)
    for name in ("final.linear.weight", "final.linear.bias"):
        state[name] = repeat(state[name], "n ... -> (pt n) ...", pt=new)
    return state
