"""A network in float32 of which only one block is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..config import STIVConfig
from ..model import STIVBlock, STIVTransformer
from ..tensor_file import Tensors


def outer_parts(
    tensors: Tensors, config: STIVConfig, dtype: torch.dtype = torch.float32
) -> STIVTransformer:
    """The network with its embeddings and its last layer; its blocks have no weights."""
    model = STIVTransformer(config, device="meta", dtype=dtype)
    stacks = ("blocks.", "decoder_blocks.")
    names = [name for name, _ in model.named_parameters() if not name.startswith(stacks)]
    return _filled(model, tensors, names, "", dtype)


def one_block(
    tensors: Tensors, config: STIVConfig, prefix: str, dtype: torch.dtype = torch.float32
) -> STIVBlock:
    """The block whose tensors' names begin with the prefix ("blocks.3.")."""
    block = STIVBlock(config, nn, device="meta", dtype=dtype)
    return _filled(block, tensors, [name for name, _ in block.named_parameters()], prefix, dtype)


def whole(
    tensors: Tensors, config: STIVConfig, dtype: torch.dtype = torch.float32
) -> STIVTransformer:
    """The network; every block's weights are read when it runs and dropped after."""
    model = outer_parts(tensors, config, dtype)
    prefixes = {
        id(block): f"{stack}.{i}."
        for stack in ("blocks", "decoder_blocks")
        for i, block in enumerate(getattr(model, stack, []))
    }

    def run(block: STIVBlock, *args) -> Tensor:
        return one_block(tensors, config, prefixes[id(block)], dtype)(*args)

    model.checkpoint = run
    return model


def _filled(module, tensors: Tensors, names: Iterable[str], prefix: str, dtype: torch.dtype):
    for name in names:
        parent, _, leaf = name.rpartition(".")
        real = nn.Parameter(tensors[prefix + name].to(dtype), requires_grad=False)
        setattr(module.get_submodule(parent), leaf, real)
    return module
