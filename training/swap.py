"""Block swap: frozen weights wait in host memory and come to the device for each use.

A block comes whole, in one copy of its stored bytes (float32, bfloat16 or float8), and is there
while its products are computed, in the forward pass and again in the backward pass. Meanwhile the
next swapped block is copied, under CUDA on a stream of its own. So two blocks are on the device
at a time, and autograd keeps none of them: backward asks for the weight anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from stiv.model import STIVTransformer

from .low_precision import LowPrecisionLinear, widen
from .memory import blocks_of

ON_DEVICE = 2
"""Swapped blocks on the device at a time: the one in use and the next."""

_ALIGN = 256  # bytes; matrix products want their operands aligned


def swap_blocks(model: STIVTransformer, count: int) -> int:
    """Keep the frozen linear weights of `count` blocks in host memory; in place.

    The blocks are spread evenly, so that others compute while one is on its way. Call it after
    `add_lora` and `freeze_in` and before the model goes to its device, which these weights never
    do as a whole. They are no longer parameters: `state_dict` lacks them. Biases, norms, scales
    and the adapter stay. Under CUDA the host's memory is pinned.

    Returns the bytes now in host memory. Raises ValueError for more blocks than there are, for
    as few as are on the device anyway, and for blocks without frozen weights.
    """
    blocks = list(blocks_of(model))
    check_count(count, len(blocks))
    chosen = [blocks[i * len(blocks) // count] for i in range(count)]
    frozen = [_frozen_linears(block) for block in chosen]
    if not all(frozen):
        raise ValueError(
            "swap_blocks moves frozen weights, those under a LoRA, and here they train: use FSDP2 "
            "with fsdp_offload_params: true (training/accelerate/fsdp2.yaml)"
        )
    host = [_HostBlock([linear.weight.detach() for _, _, linear in found]) for found in frozen]
    swap = Swap(host)
    for i, found in enumerate(frozen):
        for j, (parent, child, linear) in enumerate(found):
            setattr(parent, child, SwappedLinear(linear, swap, i, j))
    return sum(block.bytes.nbytes for block in host)


def check_count(count: int, blocks: int) -> None:
    """Raises ValueError for more than a model's blocks, or so few that nothing is saved."""
    if not ON_DEVICE < count <= blocks:
        raise ValueError(
            f"swap_blocks is {count}: expected {ON_DEVICE + 1} to {blocks}, the model's blocks "
            f"({ON_DEVICE} are on the device at a time)"
        )


def _frozen_linears(block: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Frozen linear layers with their parents and their names in them."""
    return [
        (parent, name, layer)
        for parent in block.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad
    ]


class _HostBlock:
    """The weights of a block, one after the other, in the memory of the host."""

    def __init__(self, weights: list[Tensor]):
        self.parts, end = [], 0
        for weight in weights:
            self.parts.append((end, weight.shape, weight.dtype))
            end += -(-weight.nbytes // _ALIGN) * _ALIGN
        self.bytes = torch.empty(end, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        for index, weight in enumerate(weights):
            self.weight(self.bytes, index).copy_(weight)

    def weight(self, stored: Tensor, index: int) -> Tensor:
        """A weight as part of these bytes, the host's or a copy of them."""
        start, shape, dtype = self.parts[index]
        return stored[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)


@dataclass
class _Visit:
    """A block's bytes on the device; `arrival` until its copy has been waited for."""

    bytes: Tensor
    arrival: torch.cuda.Event | None


class Swap:
    """Swapped blocks in the order of the model, and which of them are on the device.

    Nobody tells it the direction of the passes: the next block is one further on the way from
    the last one to the present one, and at either end the way turns round.
    """

    def __init__(self, host: list[_HostBlock]):
        self.host = host
        self._visits: dict[int, _Visit] = {}
        self._device: torch.device | None = None
        self._stream: torch.cuda.Stream | None = None
        self._last = 0

    def weight(self, block: int, index: int, device: torch.device) -> Tensor:
        """A stored weight (out, in) on the device, for one product: keep no reference to it."""
        if device != self._device:
            self._visits.clear()
            self._device = device
            self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if block not in self._visits or block != self._last:
            ahead = self._ahead(block)
            for other in [key for key in self._visits if key not in (block, ahead)]:
                self._waited(self._visits.pop(other))
            # Selective checkpointing counts operations, and these do not run every time.
            with _disable_current_modes():
                for wanted in (block, ahead):
                    if wanted not in self._visits:
                        self._visits[wanted] = self._copied(self.host[wanted].bytes)
            self._last = block
        return self.host[block].weight(self._waited(self._visits[block]), index)

    def _ahead(self, block: int) -> int:
        step = -1 if block < self._last else 1
        return block + step if 0 <= block + step < len(self.host) else block - step

    def _copied(self, stored: Tensor) -> _Visit:
        # Allocated for the stream that computes: after what that has used the memory for before.
        copy = torch.empty_like(stored, device=self._device)
        if self._stream is None:
            return _Visit(copy.copy_(stored), None)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            copy.copy_(stored, non_blocking=True)
            return _Visit(copy, self._stream.record_event())

    def _waited(self, visit: _Visit) -> Tensor:
        """Its bytes, once the stream that computes has been told to wait for them; also before
        they are let go, so that nothing is written over by a late copy."""
        if visit.arrival is not None:
            torch.cuda.current_stream(self._device).wait_event(visit.arrival)
            visit.arrival = None
        return visit.bytes


class SwappedLinear(LowPrecisionLinear):
    """A frozen linear layer whose weight (out, in) is in the memory of the host."""

    def __init__(self, linear: nn.Linear, swap: Swap, block: int, index: int):
        nn.Module.__init__(self)  # the others would allocate a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("scale", getattr(linear, "scale", None))
        self.bias = linear.bias
        self._swap, self._block, self._index = swap, block, index

    @property
    def weight(self) -> Tensor:
        """The host's."""
        block = self._swap.host[self._block]
        return block.weight(block.bytes, self._index)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _SwappedProduct.apply(x, self, bias)

    def here(self, like: Tensor) -> Tensor:
        """The weight on the device and in the dtype of a tensor."""
        weight = self._swap.weight(self._block, self._index, like.device)
        return widen(weight, self.scale, like.dtype)


class _SwappedProduct(torch.autograd.Function):
    """x @ weight.T + bias, with the gradient of x only; keeps the layer and no tensor."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: SwappedLinear, bias: Tensor | None):
        ctx.layer = layer
        return F.linear(x, layer.here(x), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad @ ctx.layer.here(grad), None, None
