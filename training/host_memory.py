"""What waits in the memory of the host, by estimate: swapped weights, offloaded activations.

Pinned memory is given out in larger pieces than asked for: the real use is somewhat above.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from stiv.config import STIVConfig
from stiv.shapes import expected_shapes

from .estimate import Checkpointing, Precision, Shape, StateBytes, activation_bytes
from .low_precision import in_blocks
from .swap import ON_DEVICE

_STORED = {"fp32": 4, "bf16": 2, "fp8": 1}  # bytes of a number


def swapped_bytes(
    config: STIVConfig, count: int, base: Literal["fp32", "bf16", "fp8"] = "fp32"
) -> int:
    """Bytes of the frozen linear weights of `count` blocks as they are stored."""
    shapes = expected_shapes(config).items()
    large = sum(math.prod(s) for n, s in shapes if in_blocks(n) and n.endswith(".weight"))
    norms = sum(math.prod(s) for n, s in shapes if in_blocks(n) and n.endswith("norm.weight"))
    return _STORED[base] * (large - norms) * count // (config.depth + config.mask_decoder_blocks)


def without_swapped(
    state: StateBytes,
    config: STIVConfig,
    count: int,
    base: Literal["fp32", "bf16", "fp8"],
    precision: Precision = "bf16",
) -> StateBytes:
    """A LoRA's state on the device when `count` blocks are swapped.

    Of a float32 base autograd keeps no bfloat16 copies either, as it does of blocks that stay.
    """
    if not count:
        return state
    away = swapped_bytes(config, count - ON_DEVICE, base)
    copies = swapped_bytes(config, count, "bf16") if (base, precision) == ("fp32", "bf16") else 0
    return replace(state, weights=state.weights - away, copies=state.copies - copies)


def offloaded_bytes(
    config: STIVConfig,
    shape: Shape,
    checkpointing: Checkpointing = "none",
    precision: Precision = "bf16",
    *,
    text_tokens: int = 77,
    kept: float = 1.0,
) -> tuple[int, int]:
    """Bytes of one sample that all blocks keep for backward, and the largest block's part.

    Offloaded, the first wait in the host's memory, and of the second one block's are on the device
    at a time. Arguments as for `activation_bytes`.
    """

    def of(depth: int, share: float) -> int:
        plain = replace(config, depth=depth, mask_decoder_blocks=0)
        return activation_bytes(
            plain, shape, checkpointing, precision, text_tokens=text_tokens, kept=share
        )

    main, whole = (of(2, share) - of(1, share) for share in (kept, 1.0))
    total = config.depth * main + config.mask_decoder_blocks * whole
    return total, whole if config.mask_decoder_blocks else main
