"""Steps from pictures to video: patches over frames, temporal attention and its gate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from einops import rearrange, repeat
from torch import Tensor

from ...config import STIVConfig
from ..typical import Typical
from .step import (
    EVERYTHING,
    STILLS,
    Aim,
    Make,
    Step,
    Tensors,
    below,
    blocks,
    fresh,
    rewrite,
    wide,
    zeros,
)

_ATTENTION = "blocks.*.temporal_attn"
_SHARED = (
    "width", "heads", "depth", "temporal_patch", "qk_norm", "sandwich_norm", "shared_adaln",
    "position", "rope_theta", "temporal_gate", "temporal_causal",
)  # fmt: skip
"""What two models have to agree on for temporal attention of one to run in the other."""


def temporal_patch(before: STIVConfig, aim: Aim) -> Step | None:
    """Tokens of several frames (the paper inflates the T2I patch weights in time).

    Of n frames each gives 1/n of what a picture gave, so n equal frames sum to the picture's
    token; the rows of the output are repeated, one set for each frame. A still video then gives
    the picture's output in every frame. Sin-cos times would move with the patches, so there the
    rest of a video model gives something else.
    """
    old, new = before.temporal_patch, aim.config.temporal_patch
    if old == new:
        return None
    if old != 1:
        raise ValueError(
            f"temporal_patch {old} cannot become {new}: only a model of single frames is inflated"
        )
    after = replace(before, temporal_patch=new)

    def inflated(tensors: Tensors) -> Tensor:
        weight = rearrange(
            wide(tensors["patch_embed.weight"]), "d (c v) -> d c v", c=before.latent_channels
        )
        return repeat(weight / new, "d c v -> d (c pt v)", pt=new)

    def repeated(tensors: Tensors, name: str) -> Tensor:
        return repeat(tensors[name], "n ... -> (pt n) ...", pt=new)

    def apply(tensors: Tensors) -> Tensors:
        made = {"patch_embed.weight": partial(inflated, tensors)}
        for name in ("final.linear.weight", "final.linear.bias"):
            made[name] = partial(repeated, tensors, name)
        return rewrite(tensors, after, made)

    return Step(
        name="temporal patch",
        does=f"tokens of {new} frames, each with 1/{new} of a picture's weights",
        after=after,
        apply=apply,
        exact="" if before.temporal_attention and before.position == "sincos" else STILLS,
        trained=("patch_embed", "final.linear"),
        keeps="pictures",
    )


def temporal_attention(before: STIVConfig, aim: Aim) -> Step | None:
    """Temporal attention with an output of zero.

    Its last layer is zero, so the branch adds zero to the residual, whatever its gate; behind a
    sandwich norm too, since LN(0) = 0. There a LayerNorm takes no heed of how small its input is:
    the branch is at full size a few updates later, so training begins with a warm-up.
    """
    if before.temporal_attention or not aim.config.temporal_attention:
        return None
    after = replace(
        before,
        temporal_attention=True,
        temporal_gate=aim.config.temporal_gate,
        temporal_causal=aim.config.temporal_causal,
    )

    def apply(tensors: Tensors) -> Tensors:
        made: dict[str, Make] = {}
        for name in below(after, [f"{prefix}temporal_attn." for prefix in blocks(after)]):
            is_last = ".proj." in name
            made[name] = (
                partial(zeros, after, name) if is_last else partial(fresh, after, name, aim.seed)
            )
        if after.temporal_gate == "own":
            made |= _gate_of_one(tensors, before)
        return rewrite(tensors, after, made)

    return Step(
        name="temporal attention",
        does="added to every block with an output of zero",
        after=after,
        apply=apply,
        exact=EVERYTHING,
        trained=(_ATTENTION,),
        keeps="tasks",
    )


def joint(before: STIVConfig, aim: Aim) -> Step | None:
    """Temporal attention of another model (paper: T2V-512 from T2I-512 and T2V-256).

    The spatial weights know the size, the temporal ones know motion; they have never met, so the
    output is neither's. Its gate comes with it.
    """
    if aim.temporal is None:
        return None
    other, ours = aim.temporal.config, aim.config
    if not ours.temporal_attention:
        raise ValueError("a joint start takes temporal attention, but the new model has none")
    for field in _SHARED:
        theirs, wanted = getattr(other, field), getattr(before, field)
        if theirs != wanted:
            raise ValueError(
                f"the model that temporal attention is taken from has {field} {theirs!r}, the new "
                f"one {wanted!r}: bring it there by a start of its own first"
            )
    taken = [name for name in below(other, blocks(before)) if ".temporal_attn." in name]

    def apply(tensors: Tensors) -> Tensors:
        made: dict[str, Make] = {
            name: partial(aim.temporal.tensors.__getitem__, name) for name in taken
        }
        if before.temporal_gate == "own":
            for name in _modulations(before):
                if name in aim.temporal.tensors:
                    made[name] = partial(_with_gate_of, tensors, aim.temporal.tensors, name)
        return rewrite(tensors, before, made)

    return Step(
        name="joint start",
        does="temporal attention of another model",
        after=before,
        apply=apply,
        trained=(_ATTENTION,),
        parents=(aim.temporal.tensor_hash,),
    )


def ungated(before: STIVConfig, aim: Aim) -> Step | None:
    """Temporal attention without the spatial gate (Open-Sora 1.0's STDiT to the paper's).

    The branch was gate(t) * proj(h); the mean gate over time goes into proj's rows. It read tokens
    as they were and now reads them normalised, which takes their size away.
    """
    if before.temporal_gate != "spatial" or aim.config.temporal_gate == "spatial":
        return None
    after = replace(before, temporal_gate="none")

    def apply(tensors: Tensors) -> Tensors:
        typical, made = Typical(tensors, before), {}
        for prefix in blocks(before):
            for part in ("weight", "bias"):
                name = f"{prefix}temporal_attn.proj.{part}"
                made[name] = partial(_gated, tensors, name, typical, prefix)
        return rewrite(tensors, after, made)

    return Step(
        name="temporal gate",
        does="the spatial gate's mean over time goes into temporal attention's last layer",
        after=after,
        apply=apply,
        trained=(_ATTENTION,),
    )


def gate_of_its_own(before: STIVConfig, aim: Aim) -> Step | None:
    """A scale, shift and gate of temporal attention's own (ablation).

    Their rows of the modulation are zero, but for a bias of one at the gate: h * (1 + 0) + 0 and
    one times the branch is the ungated branch, for every condition.
    """
    if (before.temporal_gate, aim.config.temporal_gate) != ("none", "own"):
        return None
    after = replace(before, temporal_gate="own")
    return Step(
        name="temporal gate",
        does="a modulation of its own, one at first",
        after=after,
        apply=lambda tensors: rewrite(tensors, after, _gate_of_one(tensors, before)),
        exact=EVERYTHING,
        trained=("modulation", "blocks.*.modulation"),
        keeps="tasks",
    )


def causal(before: STIVConfig, aim: Aim) -> Step | None:
    """Temporal attention that looks only backwards, or both ways again: no tensor changes.

    A single frame sees itself alone either way.
    """
    if before.temporal_causal == aim.config.temporal_causal:
        return None
    after = replace(before, temporal_causal=aim.config.temporal_causal)
    sees = "only frames before" if after.temporal_causal else "all frames"
    is_used = before.temporal_attention
    return Step(
        name="temporal causality",
        does=f"temporal attention sees {sees}",
        after=after,
        exact=f"clips of {before.temporal_patch} frames or fewer" if is_used else EVERYTHING,
        trained=(_ATTENTION,) if is_used else (),
        keeps="pictures" if is_used else "tasks",
    )


def _modulations(config: STIVConfig) -> list[str]:
    """The modulation tensors of all blocks, by name."""
    tables = [f"{prefix}modulation_table" for prefix in blocks(config)]
    owners = [""] if config.shared_adaln else blocks(config)
    own = [f"{owner}modulation.{part}" for owner in owners for part in ("weight", "bias")]
    return [*own, *(tables if config.shared_adaln else [])]


def _gate_of_one(tensors: Tensors, before: STIVConfig) -> dict[str, Make]:
    """Modulations with three more parts: shift 0, scale 0, gate 1."""

    def extended(name: str) -> Tensor:
        old = wide(tensors[name])
        rows = old.new_zeros(len(old) // 2, *old.shape[1:])  # three parts after six
        if name.endswith(".bias"):
            rows[2 * before.width :] = 1
        return torch.cat([old, rows])

    return {name: partial(extended, name) for name in _modulations(before)}


def _with_gate_of(ours: Tensors, theirs: Tensors, name: str) -> Tensor:
    """A modulation whose last three of nine parts are another model's."""
    start = len(ours[name]) // 3 * 2
    return torch.cat([wide(ours[name])[:start], wide(theirs[name])[start:]])


def _gated(tensors: Tensors, name: str, typical: Typical, prefix: str) -> Tensor:
    gate = typical.mean_gate(prefix)
    old = wide(tensors[name])
    return old * gate if old.ndim == 1 else old * gate[:, None]
