"""Linear layers laid out for oneDNN: faster inference on a CPU, for a second copy of the weights.

Weights as they lie are laid out anew by every product with them; here it is done once, and the
FFN's GELU becomes part of the product. What comes out differs by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Gelu, Mlp
from .model import STIVTransformer


class PackedForward:
    """The forward of one linear layer, with GELU after it where asked for.

    GELU is left out where something else has become the layer's forward, with this one inside, such
    as a LoRA beside the weights: what it adds belongs before GELU. See `GeluUnlessPacked`.
    Layers whose weight is exchanged or written to are laid out anew; writes to inference tensors,
    which torch does not count, are for `is_plain` to know. What oneDNN cannot do is done by the
    layer itself: other devices and dtypes, gradients, and layers that `is_plain` says do more than
    a product.
    """

    def __init__(
        self,
        layer: nn.Module,
        gelu: bool = False,
        is_plain: Callable[[nn.Module], bool] = lambda layer: True,
    ):
        self.layer, self.gelu, self.is_plain = layer, gelu, is_plain
        self.source: tuple | None = None
        self.packed: Tensor | None = None

    @property
    def has_gelu(self) -> bool:
        """Whether what the layer gives now is after GELU."""
        return self.gelu and vars(self.layer).get("forward") is self

    def __call__(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        if not self._fits(x, weight):
            out = type(self.layer).forward(self.layer, x)
            return F.gelu(out, approximate="tanh") if self.has_gelu else out
        version = 0 if weight.is_inference() else weight._version
        # The weight itself, not its address, which another may get once it is gone.
        if self.source is None or self.source[0] is not weight or self.source[1] != version:
            rows = max(1, x.numel() // x.shape[-1])
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
            self.source = weight, version
        activation = ("gelu", [], "tanh") if self.has_gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.layer.bias, *activation)

    def _fits(self, x: Tensor, weight: Tensor) -> bool:
        return (
            x.device.type == weight.device.type == "cpu"
            and type(weight.data) is Tensor
            and x.dtype == weight.dtype
            and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
            and can_pack(x.dtype)
            and self.is_plain(self.layer)
        )


class GeluUnlessPacked(Gelu):
    """The activation after a layer with GELU of its own: does what that one leaves out."""

    def __init__(self, forward: PackedForward):
        super().__init__()
        self.packed = forward

    def forward(self, x: Tensor) -> Tensor:
        return x if self.packed.has_gelu else super().forward(x)


@lru_cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU can: float32 on any of x86, bfloat16 only with AVX-512."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    x = torch.ones(16, 16, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(x, 16)
        torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return True


def pays_off(dtype: torch.dtype) -> bool:
    """Whether packed weights are faster here: with AVX-512 a forward of float32 takes 0.78 of the
    time, with AVX2 alone 1.18, as torch multiplies by other means there (see benchmarks)."""
    return can_pack(dtype) and torch.backends.cpu.get_cpu_capability() == "AVX512"


def packable(model: STIVTransformer) -> Iterator[tuple[str, nn.Module, bool]]:
    """(path, layer, whether GELU follows it) of every linear layer of the blocks.

    GELU follows the first layer of a `stiv.layers.Mlp`, whose activation then has to become
    `GeluUnlessPacked`.
    """
    for path, module in model.named_modules():
        if not path.startswith(("blocks.", "decoder_blocks.")):
            continue
        if isinstance(module, Mlp):
            yield f"{path}.fc1", module.fc1, True
            yield f"{path}.fc2", module.fc2, False
        elif isinstance(module, nn.Linear) and not path.endswith((".fc1", ".fc2")):
            yield path, module, False


def pack(model: STIVTransformer) -> None:
    """Let the blocks of a model compute with packed weights; in place."""
    for path, layer, gelu in list(packable(model)):
        layer.forward = forward = PackedForward(layer, gelu)
        if gelu:
            model.get_submodule(path.rpartition(".")[0]).activation = GeluUnlessPacked(forward)
