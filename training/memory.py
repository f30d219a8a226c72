"""Activation checkpointing: what the backward pass finds kept, and what it computes again.

"selective" is the paper's: of every block only its input and the outputs of self-attention are
kept (about three tokens x width numbers a block); everything but self-attention is computed again.
What is kept may wait in the memory of the host. Gradients are the same bit for bit in every mode.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
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
from .sharding import local

Mode = Literal["none", "selective", "full"]
MODES = ("none", "selective", "full")

_PAGE = 4096  # bytes: smaller tensors are not offloaded

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
    model: STIVTransformer,
    mode: Mode,
    *,
    offload: bool = False,
    compiled: bool = False,
    backend: str = "inductor",
) -> None:
    """Choose what the blocks of a model keep for backward; `compiled` also compiles each block.

    offload: what a block keeps is copied to the host's memory and, for its backward, back.

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
    keep = None if compiled or mode == "none" else functools.partial(run, mode)
    model.checkpoint = functools.partial(offloaded, keep or _call) if offload else keep


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


def offloaded(run: Callable[..., Tensor], block: nn.Module, x: Tensor, *others: Any) -> Tensor:
    """run(block, x, *others), and what it keeps for backward waits in the host's memory.

    Weights stay where they are, also as copies in the dtype of x, and so does what all blocks
    share (`others`) and what is too small to be worth a copy. Under CUDA the host's memory is
    pinned, and the copies are queued with the computation, which waits for them: memory is saved,
    time is not.
    """
    if not torch.is_grad_enabled():
        return run(block, x, *others)
    staying: set[int] = set()
    shapes: set[torch.Size] = set()

    def pack(tensor: Tensor) -> Any:
        if not staying:  # FSDP2 has gathered a weight before it is kept
            weights = [local(t) for t in (*block.parameters(), *block.buffers())]
            shapes.update(weight.shape for weight in weights)
            kept = (*weights, *map(local, _tensors(others)))
            staying.update(t.untyped_storage().data_ptr() for t in kept)
        stays = tensor.nbytes < _PAGE or tensor.untyped_storage().data_ptr() in staying
        if stays or _is_copy(tensor, shapes):
            return tensor
        return to_host(tensor), tensor.device

    def unpack(packed: Any) -> Tensor:
        return packed if isinstance(packed, Tensor) else from_host(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return run(block, x, *others)


def to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, in the same order (which torch's `save_on_cpu` loses: products
    would be computed again by other operations than at first)."""
    pinned = tensor.device.type == "cuda"
    copy = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    return copy.copy_(tensor, non_blocking=pinned)


def from_host(tensor: Tensor, device: torch.device) -> Tensor:
    """The copy that `to_host` has made, on its device again."""
    return tensor.to(device, non_blocking=True)


def _is_copy(tensor: Tensor, shapes: Collection[torch.Size]) -> bool:
    """Whether a kept tensor is a weight of one of these shapes (out, in), cast for its product:
    a product keeps weights transposed, and what they are multiplied with by rows."""
    return tensor.ndim == 2 and tensor.stride(0) == 1 and tensor.mT.shape in shapes


def _call(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return function(*args)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values, and those that a value (positions) holds."""
    for value in values:
        for held in (value, *getattr(value, "__dict__", {}).values()):
            if isinstance(held, Tensor):
                yield held


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

# By default torch compiles for 8 shapes and runs others as they are; buckets of sizes, durations
# and text lengths are more.
_MANY_SHAPES = (
    {"recompile_limit": 128}
    if "recompile_limit" in inspect.signature(torch.compile).parameters
    else {}
)


@functools.cache
def _compiled(mode: Mode, backend: str) -> Callable[..., Tensor]:
    """One function for every block: they share their code, so it is compiled once per shape."""

    def forward(block: nn.Module, *args: Any) -> Tensor:
        if mode == "none":
            return type(block).forward(block, *args)
        return run(mode, type(block).forward, block, *args)

    return torch.compile(forward, dynamic=False, backend=backend, **_MANY_SHAPES)
