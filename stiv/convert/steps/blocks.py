"""Steps of the blocks: how many, and the paper's additions to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial

from torch import Tensor

from ...config import STIVConfig
from .step import EVERYTHING, Aim, Make, Step, Tensors, below, blocks, fresh, rewrite, wide, zeros

_PARTS = ("weight", "bias")
_OUTPUTS = ("spatial_attn.proj.", "temporal_attn.proj.", "cross_attn.proj.", "mlp.fc2.")


def depth(before: STIVConfig, aim: Aim) -> Step | None:
    """The blocks that the depth map names, in its order.

    A copied block is the source's with all its weights; copied, left out or moved blocks change
    the function. A new block's branches all end in a layer of zeros, so each adds zero to its
    residual (behind a sandwich norm too: LN(0) = 0) and the block is the identity.
    """
    depth_map = aim.depth_map
    if depth_map is None or (
        depth_map == tuple(range(before.depth)) == tuple(range(aim.config.depth))
    ):
        return None
    after = replace(before, depth=len(depth_map))
    copied = [source for source in depth_map if source is not None]
    # Sin-cos frames are told apart in the first block alone: it has to stay the first.
    starts = depth_map[0] == 0 or before.position != "sincos" or not before.temporal_attention
    exact = EVERYTHING if copied == list(range(before.depth)) and starts else ""

    made: dict[str, Make] = {}
    moved: dict[str, str] = {}
    for i, source in enumerate(depth_map):
        prefix = f"blocks.{i}."
        if source is None:
            made |= identity(after, prefix, aim.seed)
        else:
            for name in below(after, [prefix]):
                moved[name] = f"blocks.{source}.{name.removeprefix(prefix)}"

    text = ", ".join("new" if source is None else str(source) for source in depth_map)
    new = tuple(f"blocks.{i}" for i, source in enumerate(depth_map) if source is None)
    return Step(
        name="depth",
        does=f"{before.depth} blocks become {after.depth}: {text}",
        after=after,
        apply=lambda tensors: rewrite(tensors, after, made, moved),
        exact=exact,
        trained=new if exact else ("blocks",),
        keeps="tasks" if exact else "nothing",
    )


def identity(config: STIVConfig, prefix: str, seed: int) -> dict[str, Make]:
    """A new block that changes nothing: random inside, zero at the end of every branch."""
    return {
        name: partial(zeros, config, name)
        if name.removeprefix(prefix).startswith(_OUTPUTS)
        else partial(fresh, config, name, seed)
        for name in below(config, [prefix])
    }


def decoder_blocks(before: STIVConfig, aim: Aim) -> Step | None:
    """Blocks after unmasking (MaskDiT) that change nothing at first.

    Like every new block they are the identity, and where nothing is masked the mask token is not
    read, so the output stays for every input. Masked training fills them.
    """
    old, new = before.mask_decoder_blocks, aim.config.mask_decoder_blocks
    if new <= old:
        return None
    after = replace(before, mask_decoder_blocks=new)
    prefixes = [f"decoder_blocks.{i}." for i in range(old, new)]

    made: dict[str, Make] = {}
    for prefix in prefixes:
        made |= identity(after, prefix, aim.seed)
    if not old:
        made["mask_token"] = partial(fresh, after, "mask_token", aim.seed)
    return Step(
        name="mask decoder blocks",
        does=f"{old} become {new}: the new ones pass on what they get",
        after=after,
        apply=lambda tensors: rewrite(tensors, after, made),
        exact=EVERYTHING,
        trained=(*([] if old else ["mask_token"]), *(p.rstrip(".") for p in prefixes)),
        keeps="tasks",
    )


def shared_adaln(before: STIVConfig, aim: Aim) -> Step | None:
    """One modulation for all blocks to one of each block, or back.

    Shared, block i is modulated by W a + b + table_i; a modulation of its own with weights W and
    bias b + table_i is the same for every condition a. Back, W and b are the means over the
    blocks and table_i is the rest of block i's bias: what blocks differ in otherwise is lost.
    """
    if before.shared_adaln == aim.config.shared_adaln:
        return None
    after = replace(before, shared_adaln=aim.config.shared_adaln)
    prefixes = blocks(before)
    if before.shared_adaln:
        return Step(
            name="modulation",
            does="the blocks' shared one becomes one of each block",
            after=after,
            apply=lambda tensors: rewrite(
                tensors,
                after,
                {f"{p}modulation.bias": partial(_own_bias, tensors, p) for p in prefixes},
                {f"{p}modulation.weight": "modulation.weight" for p in prefixes},
            ),
            exact=EVERYTHING,
            keeps="tasks",
        )

    def apply(tensors: Tensors) -> Tensors:
        weights, biases = ([f"{p}modulation.{part}" for p in prefixes] for part in _PARTS)
        mean_bias = cache(partial(_mean, tensors, biases))
        made: dict[str, Make] = {
            "modulation.weight": partial(_mean, tensors, weights),
            "modulation.bias": mean_bias,
        }
        for prefix, name in zip(prefixes, biases, strict=True):
            made[f"{prefix}modulation_table"] = partial(
                _table, tensors, name, mean_bias, before.width
            )
        return rewrite(tensors, after, made)

    return Step(
        name="modulation",
        does="each block's own become their mean for all, with a table for each block",
        after=after,
        apply=apply,
        trained=("modulation", "blocks.*.modulation_table"),
    )


def _own_bias(tensors: Tensors, prefix: str) -> Tensor:
    return wide(tensors["modulation.bias"]) + wide(tensors[f"{prefix}modulation_table"]).flatten()


def _mean(tensors: Tensors, names: Iterable[str]) -> Tensor:
    total, count = 0, 0
    for name in names:
        total, count = total + wide(tensors[name]), count + 1
    return total / count


def _table(tensors: Tensors, name: str, mean: Make, width: int) -> Tensor:
    return (wide(tensors[name]) - mean()).view(-1, width)
