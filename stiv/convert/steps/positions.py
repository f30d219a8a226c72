"""Steps of where tokens are: rotary positions for larger pictures and longer clips."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...config import STIVConfig
from ...rope import sincos_1d, sincos_2d
from .step import EVERYTHING, Aim, Step, Tensors, rewrite, wide

_TYPICAL_GRID, _TYPICAL_FRAMES = 16, 16
"""Tokens of a side and frames where nothing says: 256 pixels, Open-Sora's clips."""


def scales(before: STIVConfig, aim: Aim) -> Step | None:
    """Interpolated positions for more pixels or frames (paper: rather than extrapolated).

    Position p of the new grid turns queries and keys as far as position p * scale of the old
    one, with scale = trained size / new size: the largest angles stay those that attention was
    trained on, and the distances between become finer. No tensor changes.
    """
    wanted, old = _settings(aim.config), _settings(before)
    changed = [name for name, value in wanted.items() if value != old[name]]
    if not changed:
        return None
    after = replace(before, **wanted)
    is_seen = before.temporal_attention or changed != ["time_scale"]
    attention = ["blocks.*.spatial_attn"] if changed != ["time_scale"] else []
    if before.temporal_attention and changed not in (["space_scale"], ["sincos_base"]):
        attention.append("blocks.*.temporal_attn")
    return Step(
        name="positions",
        does=", ".join(
            f"{n} {getattr(before, n):g} becomes {getattr(after, n):g}" for n in changed
        ),
        after=after,
        exact="" if is_seen else EVERYTHING,
        trained=tuple(attention),
        keeps="nothing" if is_seen else "tasks",
    )


def _settings(config: STIVConfig) -> dict[str, float]:
    names = ("rope_theta", "space_scale", "time_scale", "sincos_base")
    return {name: getattr(config, name) for name in names}


def rotary(before: STIVConfig, aim: Aim) -> Step | None:
    """Sin-cos embeddings, added to the tokens, give way to rotary positions in attention.

    What the embeddings have in common at all places is a constant, which the bias of the layer
    before (patch embedding) or after (the first temporal attention's queries, keys and values)
    takes over; their differences are lost, so attention has to learn places anew. Most of an
    embedding's size is its mean, since many of its waves are longer than the grid.
    """
    if (before.position, aim.config.position) != ("sincos", "rope"):
        return None
    after = replace(before, position="rope", **_settings(aim.config))
    temporal = "blocks.0.temporal_attn.qkv."

    def in_space(tensors: Tensors) -> Tensor:
        side = before.sincos_base or _TYPICAL_GRID
        embedding = sincos_2d(
            side, side, before.width, before.space_scale, before.sincos_base, before.rope_theta,
            torch.device("cpu"), torch.float64,
        )  # fmt: skip
        return wide(tensors["patch_embed.bias"]) + embedding.mean(0)

    def in_time(tensors: Tensors) -> Tensor:
        embedding = sincos_1d(
            _TYPICAL_FRAMES, before.width, before.time_scale, before.rope_theta,
            torch.device("cpu"), torch.float64,
        )  # fmt: skip
        weight = wide(tensors[f"{temporal}weight"])
        return wide(tensors[f"{temporal}bias"]) + weight @ embedding.mean(0).to(weight)

    def apply(tensors: Tensors) -> Tensors:
        made = {"patch_embed.bias": partial(in_space, tensors)}
        if before.temporal_attention:
            made[f"{temporal}bias"] = partial(in_time, tensors)
        return rewrite(tensors, after, made)

    trained = ("blocks.*.spatial_attn", "blocks.*.temporal_attn")
    return Step(
        name="rotary positions",
        does="in place of sin-cos embeddings, whose mean stays in the biases",
        after=after,
        apply=apply,
        trained=trained if before.temporal_attention else trained[:1],
    )
