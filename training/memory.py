"""Activation checkpointing: what the backward pass finds kept, and what it computes again.

"selective" is the paper's: of every block only its input and the outputs of self-attention are
kept (about three tokens x width numbers a block); everything but self-attention is computed again.
Gradients are the same bit for bit in every mode.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from stiv.model import STIVTransformer

from .attention import SHORT

Mode = Literal["none", "selective", "full"]
MODES = ("none", "selective", "full")

_aten = torch.ops.aten
# Every backend of F.scaled_dot_product_attention that is one operation.
_FUSED = {
    getattr(_aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_scaled_dot_product_attention_math_for_mps",
    )
    if hasattr(_aten, name)
}
_SOFTMAX = {_aten._softmax.default, _aten._safe_softmax.default}


def set_checkpointing(
    model: STIVTransformer, mode: Mode, *, compiled: bool = False, backend: str = "inductor"
) -> None:
    """Choose what the blocks of a model keep for backward; `compiled` also compiles each block.

    Not compiled, the whole block runs under `model.checkpoint`. Compiled, checkpointing must be
    part of what is compiled (from outside, a compiled block looks like one operation): each
    block's `forward` becomes a compiled function, so copy or pickle a model before, not after.
    Call it before `fully_shard` or DDP; hooks of the block stay outside what is compiled.
    Raises ValueError for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"checkpointing is {mode!r}: expected one of {', '.join(MODES)}")
    for block in blocks_of(model):
        vars(block).pop("forward", None)
        if compiled:
            block.forward = functools.partial(_compiled(mode, backend), block)
    model.checkpoint = None if compiled or mode == "none" else functools.partial(run, mode)


def blocks_of(model: STIVTransformer) -> Iterator[nn.Module]:
    """The main blocks, then those after unmasking."""
    yield from model.blocks
    yield from getattr(model, "decoder_blocks", ())


def run(mode: Mode, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """function(*args) under a mode other than "none"; for `STIVTransformer.checkpoint`."""
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if mode == "selective":
        options["context_fn"] = _contexts
        options.update(_HOOKED)
    return checkpoint(function, *args, **options)


def keeps_attention(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """The policy of "selective": must an operation's result be kept?

    Kept: fused self-attention (as many queries as keys) of every backend. Attention from separate
    products (`short_attention`, or the fallback of F.scaled_dot_product_attention) needs its
    probabilities in backward; they are kept up to `SHORT` keys (no larger than what the attention
    puts out), longer rows are computed again.
    Cross-attention is computed again: with few keys it is cheap.
    """
    kept = False
    if operation in _FUSED:
        kept = args[0].shape[-2] == args[1].shape[-2]
    elif operation is _aten.bmm.default:  # q k^T, or probabilities v
        (rows, inner), columns = args[0].shape[-2:], args[1].shape[-1]
        kept = rows in (inner, columns) and rows <= SHORT
    elif operation in _SOFTMAX:
        kept = args[0].shape[-2] == args[0].shape[-1] <= SHORT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_contexts = functools.partial(create_selective_checkpoint_contexts, keeps_attention)
# Let hooks on saved tensors (offloading to the CPU) see what is kept, where torch can.
_HOOKED = (
    {"respect_saved_tensors_hooks": True}
    if "respect_saved_tensors_hooks" in inspect.signature(checkpoint).parameters
    else {}
)


@functools.cache
def _compiled(mode: Mode, backend: str) -> Callable[..., Tensor]:
    """One function for every block: they share their code, so it is compiled once per shape."""

    def forward(block: nn.Module, *args: Any) -> Tensor:
        if mode == "none":
            return type(block).forward(block, *args)
        return run(mode, type(block).forward, block, *args)

    return torch.compile(forward, dynamic=False, backend=backend)
