"""What a run costs, from its config alone: parameters, FLOPs, memory, share of a device's peak.

Closed forms for one sample; nothing is allocated or executed. Checked in the tests against
torch's FLOP counter and against the tensors that autograd really keeps.

Legend: D width, T frames of tokens, S tokens of a frame, N = T * S, L text tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stiv.config import STIVConfig
from stiv.layers import SINUSOID_WIDTH
from stiv.model import MICRO_CONDITIONS, modulation_parts
from stiv.shapes import expected_shapes

Shape = tuple[int, int, int]
"""Latent frames, height and width."""

Precision = Literal["fp32", "bf16"]
"""What is computed in, see `training.networks.Networks`; weights, gradients and the optimizer's
state are float32 with either."""

Checkpointing = Literal["none", "selective", "full"]

_TEXT_TOKENS = 77
_F32 = 4


@dataclass(frozen=True)
class Grid:
    """Tokens of one sample: frames T, spatial tokens of a frame S."""

    T: int
    S: int

    @classmethod
    def of(cls, config: STIVConfig, shape: Shape) -> Grid:
        """The grid of latents (T, h, w). Raises ValueError for a size below 1."""
        if min(shape) < 1:
            raise ValueError(f"latent shape is {shape}: expected sizes of 1 or more")
        T, h, w = shape
        return cls(
            -(-T // config.temporal_patch), -(-h // config.patch) * -(-w // config.patch)
        )  # short ends are padded

    def masked(self, kept: float) -> Grid:
        """The grid of the main blocks when masking keeps this share of the spatial tokens."""
        if not 0 < kept <= 1:
            raise ValueError(f"kept is {kept!r}: expected a share above 0, at most 1")
        return Grid(self.T, self.S - int(self.S * (1 - kept)))


def parameters(config: STIVConfig) -> int:
    """Number of the network's parameters (without text encoder and VAE)."""
    return sum(math.prod(shape) for shape in expected_shapes(config).values())


# --- FLOPs ---------------------------------------------------------------------------------------


def flops(
    config: STIVConfig,
    shape: Shape,
    text_tokens: int = _TEXT_TOKENS,
    *,
    kept: float = 1.0,
    train: bool = True,
) -> int:
    """FLOPs of one sample in one pass; a multiply-add is two, only matrix products are counted.

    train: forward and backward, without what checkpointing computes anew (as MFU is defined);
    else the forward pass alone. kept: share of the spatial tokens that masking leaves.
    """
    whole = Grid.of(config, shape)
    context = text_tokens + (whole.S if config.image_cross_attention else 0)
    blocks = config.depth * _block_flops(config, whole.masked(kept), context)
    blocks += config.mask_decoder_blocks * _block_flops(config, whole, context)
    first, rest = _outer_flops(config, whole, text_tokens)
    forward = blocks + first + rest
    # Backward is a product for the input and one for the weight; data needs no gradient.
    return 3 * (blocks + rest) + 2 * first if train else forward


def _linear(rows: int, inner: int, outer: int) -> int:
    return 2 * rows * inner * outer


def _block_flops(config: STIVConfig, grid: Grid, context: int) -> int:
    D, N = config.width, grid.T * grid.S
    self_attention = _linear(N, D, 3 * D) + _linear(N, D, D)
    total = self_attention + 4 * N * grid.S * D
    if config.temporal_attention:
        # Of a single frame only the values are needed.
        values = 2 * _linear(N, D, D)
        total += self_attention + 4 * N * grid.T * D if grid.T > 1 else values
    total += 2 * _linear(N, D, D) + _linear(context, D, 2 * D) + 4 * N * context * D
    total += 2 * _linear(N, D, int(D * config.mlp_ratio))
    return total if config.shared_adaln else total + _linear(1, D, modulation_parts(config) * D)


def _outer_flops(config: STIVConfig, grid: Grid, text_tokens: int) -> tuple[int, int]:
    """Around the blocks: layers that read data, and all others."""
    D, N = config.width, grid.T * grid.S
    volume = config.latent_channels * config.temporal_patch * config.patch**2
    inputs = [(N, volume), (1, SINUSOID_WIDTH), (text_tokens, config.text_width)]
    if config.pooled_width:
        inputs.append((1, config.pooled_width))
    if config.micro_conditions:
        inputs += [(1, n * SINUSOID_WIDTH) for n in MICRO_CONDITIONS.values()]
    second = sum(_linear(rows, D, D) for rows, _ in inputs[1:])  # patches have one layer only
    if config.image_cross_attention:
        inputs.append((grid.S, config.latent_channels * config.patch**2))
    first = sum(_linear(rows, inner, D) for rows, inner in inputs)
    shared = _linear(1, D, modulation_parts(config) * D) if config.shared_adaln else 0
    return first, second + shared + _linear(N, D, volume)


# --- memory --------------------------------------------------------------------------------------


_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
"""Of a number that is computed: residual stream, norms, products."""


def activation_bytes(
    config: STIVConfig,
    shape: Shape,
    checkpointing: Checkpointing = "none",
    precision: Precision = "bf16",
    *,
    text_tokens: int = _TEXT_TOKENS,
    kept: float = 1.0,
) -> int:
    """Bytes that the forward pass of one sample keeps for the backward pass, eager mode on a GPU.

    none: everything; selective: the input of each block and its self-attention outputs (paper,
    section 4); full: the input alone. With either, backward needs `block_bytes` on top, once.
    Compiled blocks keep less.
    """
    grid, size = Grid.of(config, shape), _BYTES[precision]
    main = grid.masked(kept)
    per_block: dict[str, Callable[[Grid], int]] = {
        "none": lambda g: block_bytes(config, g, precision, text_tokens),
        "selective": lambda g: _input_bytes(config, g, size) + _attention_bytes(config, g, size),
        "full": lambda g: _input_bytes(config, g, size),
    }
    keep = per_block[checkpointing]
    total = config.depth * keep(main) + config.mask_decoder_blocks * keep(grid)
    return total + _outer_bytes(config, grid, size, text_tokens)


def block_bytes(config: STIVConfig, grid: Grid, precision: Precision, text_tokens: int) -> int:
    """Bytes that one block keeps without checkpointing, for one sample of these tokens."""
    N, L, size = grid.T * grid.S, text_tokens, _BYTES[precision]
    token = config.width * size  # bytes of a token
    stats, lse = 2 * _F32, config.heads * _F32  # of a norm, and of attention, per token
    normed_in = 3 * token + stats  # input, normed, modulated

    def after(gated: bool) -> int:
        """What the norm after a branch and its gate keep."""
        if config.sandwich_norm:
            return token * (2 if gated else 1) + stats
        return token if gated else 0

    total = N * (normed_in + _kept_by_attention(config, size, over_time=False) + after(gated=True))
    if config.temporal_attention:
        gate = config.temporal_gate
        total += N * (normed_in if gate == "own" else token + stats)
        if gate == "none":
            total += N * token  # what its norm reads
        total += N * (_kept_by_attention(config, size, over_time=True) if grid.T > 1 else token)
        total += N * after(gate != "none")
    normed = token + config.heads * _F32 if config.qk_norm else 0  # with QK-norm on top of q, k
    total += N * (3 * token + normed + lse)  # input, q, attention's output
    total += L * (2 * token + normed)
    hidden = int(config.width * config.mlp_ratio)
    return total + N * (normed_in + 2 * hidden * size + after(gated=True))


def _kept_by_attention(config: STIVConfig, size: int, *, over_time: bool) -> int:
    """Bytes per token from the output of the qkv layer to the input of the last one."""
    token, heads = config.width * size, config.heads
    total = token + heads * _F32  # attention's output and log-sum-exp
    if config.qk_norm:
        total += 2 * heads * _F32
    if config.qk_norm or config.position == "rope" or over_time:
        total += 2 * token  # q and k as attention reads them
    # v is part of the layer's output, which stays whole as long as any part of it is needed;
    # over time it is copied into its own order.
    whole_stays = not over_time or config.qk_norm
    return total + (3 * token if whole_stays else 0) + (token if over_time else 0)


def _input_bytes(config: STIVConfig, grid: Grid, size: int) -> int:
    return grid.T * grid.S * config.width * size


def _attention_bytes(config: STIVConfig, grid: Grid, size: int) -> int:
    """Outputs of a block's self-attentions with their log-sum-exps."""
    count = 1 + (config.temporal_attention and grid.T > 1)
    return count * grid.T * grid.S * (config.width * size + config.heads * _F32)


def _outer_bytes(config: STIVConfig, grid: Grid, size: int, text_tokens: int) -> int:
    """Patches, the last norm and its modulation, and the text's projection."""
    D, N = config.width, grid.T * grid.S
    volume = config.latent_channels * config.temporal_patch * config.patch**2
    last = N * (3 * D * size + 2 * _F32)
    text = text_tokens * (config.text_width + 3 * D) * size
    return N * volume * size + last + text


@dataclass(frozen=True)
class StateBytes:
    """Memory of one device that a run holds whatever its batch."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    copies: int
    """Weights in the dtype computed in, which backward reads: all of them (with checkpointing
    fewer), or the blocks in flight when weights are sharded."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.copies


def state_bytes(
    config: STIVConfig,
    optimizer: Literal["adafactor", "adamw"] = "adafactor",
    momentum: Literal["fp32", "bf16"] = "fp32",
    *,
    world: int = 1,
    precision: Precision = "bf16",
    ema: bool = True,
) -> StateBytes:
    """Memory of the training state per device.

    world: devices that share the weights (FSDP2; HSDP's dp_shard size); 1 for one device and for
    DDP. momentum: AdaFactor's. AdaFactor's second moments (one number per row and column) stay
    whole on every device, at most a thousandth of the weights.
    """
    shapes = expected_shapes(config)
    count = sum(math.prod(shape) for shape in shapes.values())
    shard = -(-count // world)
    copies = 0
    if world > 1:
        # two blocks gathered at a time: the one that computes and the next
        copies = 2 * _BYTES[precision] * _block_parameters(shapes)
    elif precision == "bf16":
        copies = 2 * count
    return StateBytes(
        weights=_F32 * shard,
        gradients=_F32 * shard,
        optimizer=_optimizer_bytes(shapes, optimizer, momentum, shard),
        ema=_F32 * shard if ema else 0,
        copies=copies,
    )


def _block_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(s) for name, s in shapes.items() if name.startswith("blocks.0."))


def _optimizer_bytes(shapes, kind: str, momentum: str, shard: int) -> int:
    if kind == "adamw":
        return 2 * _F32 * shard
    if kind != "adafactor":
        raise ValueError(f"optimizer kind is {kind!r}: expected 'adafactor' or 'adamw'")
    factored = sum(sum(shape) for shape in shapes.values())  # a vector's second moment is whole
    return {"fp32": 4, "bf16": 2}[momentum] * shard + _F32 * factored


def lora_parameters(config: STIVConfig, rank: int, targets: Sequence[str]) -> int:
    """Trainable numbers of a LoRA, see `training.lora.add_lora`."""
    return sum(rank * (outer + inner) for outer, inner in _lora_layers(config, targets))


def _lora_layers(config: STIVConfig, targets: Sequence[str]) -> list[tuple[int, int]]:
    found = []
    for name, shape in expected_shapes(config).items():
        layer = name.removesuffix(".weight")
        ends = any(layer == t or (_in_blocks(layer) and layer.endswith(f".{t}")) for t in targets)
        if layer != name and ends and len(shape) == 2:
            found.append(shape)
    return found


def _in_blocks(name: str) -> bool:
    return name.startswith(("blocks.", "decoder_blocks."))


def lora_state_bytes(
    config: STIVConfig,
    rank: int,
    targets: Sequence[str],
    base: Literal["fp32", "bf16", "fp8"] = "fp32",
    optimizer: Literal["adafactor", "adamw"] = "adafactor",
    momentum: Literal["fp32", "bf16"] = "fp32",
    *,
    precision: Precision = "bf16",
    ema: bool = True,
) -> StateBytes:
    """Memory of a LoRA's training state: a frozen base, and all the rest for the adapter alone."""
    shapes = expected_shapes(config)
    large = [math.prod(s) for n, s in shapes.items() if _in_blocks(n) and len(s) == 2]
    small = parameters(config) - sum(large)
    count = lora_parameters(config, rank, targets)
    adapter = {
        f"{i}.{part}": size
        for i, (outer, inner) in enumerate(_lora_layers(config, targets))
        for part, size in (("A", (rank, inner)), ("B", (outer, rank)))
    }
    copies = 0  # a stored weight is widened for one product at a time
    if precision == "bf16":
        copies = 2 * (count + small + (sum(large) if base == "fp32" else 2 * max(large)))
    return StateBytes(
        weights={"fp32": 4, "bf16": 2, "fp8": 1}[base] * sum(large) + _F32 * (small + count),
        gradients=_F32 * count,
        optimizer=_optimizer_bytes(adapter, optimizer, momentum, count),
        ema=_F32 * count if ema else 0,
        copies=copies,
    )


# --- devices -------------------------------------------------------------------------------------

# Dense bfloat16 with float32 accumulation, from the vendors' data sheets. First match counts.
_PEAKS: tuple[tuple[str, float | None], ...] = (
    (r"laptop|max-q|mobile|\bmig\b", None),  # as many peaks as power limits
    (r"\bgb200\b", 2500e12),
    (r"\bb200\b", 2250e12),
    (r"\bh[12]00 nvl\b", 835e12),
    (r"\bh100 pcie\b", 756e12),
    (r"\b(gh200|h200|h100|h800)\b", 989e12),
    (r"\bh20\b", 148e12),
    (r"\b(a100|a800)\b", 312e12),
    (r"\bl40s\b", 362e12),
    (r"\bl40\b", 181e12),
    (r"\bl4\b", 121e12),
    (r"\ba40\b", 149.7e12),
    (r"\ba10\b", 125e12),
    (r"\brtx 6000 ada\b", 364e12),
    (r"\brtx a6000\b", 154.8e12),
    (r"\brtx 5090$", 209.5e12),
    (r"\brtx 4090$", 165e12),
    (r"\brtx 4080$", 97.5e12),
    (r"\brtx 3090 ti$", 80e12),
    (r"\brtx 3090$", 71e12),
    (r"\bmi300x\b", 1307e12),
    (r"\bmi250x\b", 383e12),
)


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by the name torch gives it; None where it is not known."""
    name = re.sub(r"[\s_-]+", " ", device_name.lower()).strip()
    name = name.replace("max q", "max-q")
    return next((peak for pattern, peak in _PEAKS if re.search(pattern, name)), None)


def mfu(flops_per_step: float, seconds: float, devices: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation in 0 … 1: the step's FLOPs over what all devices could do meanwhile.

    flops_per_step: of the global batch. None where the peak is unknown. Raises ValueError for a
    time or a number of devices that is not positive.
    """
    if seconds <= 0 or devices < 1:
        raise ValueError(f"mfu over {seconds} s on {devices} devices: expected both above 0")
    return None if peak is None else flops_per_step / (seconds * devices * peak)
