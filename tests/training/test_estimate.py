"""Estimates against torch's FLOP counter, the tensors autograd keeps, and real optimizers."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from stiv import MODELS, STIVConfig, STIVTransformer
from training.estimate import (
    Grid,
    activation_bytes,
    flops,
    lora_parameters,
    lora_state_bytes,
    mfu,
    parameters,
    peak_flops,
    state_bytes,
)
from training.layers import Linear
from training.lora import add_lora
from training.low_precision import freeze_in
from training.networks import DTYPES
from training.optimizer import build_optimizer, optimizer_state

TINY = STIVConfig(width=64, depth=2, heads=2, text_width=24, pooled_width=16, mask_decoder_blocks=0)


def inputs(config: STIVConfig, shape, text_tokens: int) -> dict:
    C, (T, h, w) = config.latent_channels, shape
    given = {
        "x_BCTHW": torch.zeros(1, C, T, h, w),
        "t_B": torch.zeros(1),
        "text_BLD": torch.zeros(1, text_tokens, config.text_width),
        "pooled": torch.zeros(1, config.pooled_width),
        "micro": torch.zeros(1, 6),
    }
    if config.image_cross_attention:
        given["image"] = torch.zeros(1, C, h, w)
    return given


# --- FLOPs ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    text_tokens=st.integers(1, 20),
    changes=st.fixed_dictionaries(
        {
            "shared_adaln": st.booleans(),
            "temporal_attention": st.booleans(),
            "temporal_patch": st.sampled_from([1, 2, 4]),
            "mask_decoder_blocks": st.integers(0, 2),
            "micro_conditions": st.booleans(),
            "pooled_width": st.sampled_from([0, 16]),
            "image_cross_attention": st.booleans(),
            "mlp_ratio": st.sampled_from([2.5, 4.0]),
        }
    ),
    mask=st.sampled_from([0.0, 0.5, 0.75]),
)
def test_flops_are_those_that_torch_counts(shape, text_tokens, changes, mask) -> None:
    config = replace(TINY, width=32, depth=1, **changes)
    mask = mask if config.mask_decoder_blocks else 0.0
    model = STIVTransformer(config)
    model.init_weights()
    given = inputs(config, shape, text_tokens)
    if mask:
        tokens = Grid.of(config, shape).S
        kept = tokens - int(tokens * mask)  # as training.tasks draws them
        given["keep"] = torch.arange(kept)[None]
    estimate = {"text_tokens": text_tokens, "kept": 1 - mask}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        out = model(**given)
        assert flops(config, shape, **estimate, train=False) == counter.get_total_flops()
        out.sum().backward()
    assert flops(config, shape, **estimate) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("size", "pixels", "forward", "full", "masked"),
    [
        ("xl", 256, 3.55, 10.7, 6.0),
        ("xl", 512, 15.2, 45.5, 25.0),
        ("xxl", 256, 8.5, 25.5, 14.0),
        ("xxl", 512, 35.7, 107, 57.5),
        ("m", 256, 40.6, 122, 66),
        ("m", 512, 167, 500, 267),
    ],
)
def test_flops_of_the_papers_sizes(size, pixels, forward, full, masked) -> None:
    """TFLOP of 20 frames; the masked step counts the two blocks after unmasking as well."""
    shape = (20, pixels // 8, pixels // 8)
    plain = replace(MODELS[size], mask_decoder_blocks=0)
    assert flops(plain, shape, train=False) / 1e12 == pytest.approx(forward, rel=0.01)
    assert flops(plain, shape) / 1e12 == pytest.approx(full, rel=0.01)
    assert flops(MODELS[size], shape, kept=0.5) / 1e12 == pytest.approx(masked, rel=0.01)


def test_parameters_are_those_of_the_network() -> None:
    network = STIVTransformer(MODELS["nano"])
    assert parameters(MODELS["nano"]) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("size", "billions"), [("xl", 0.6), ("xxl", 1.5), ("m", 8.7)])
def test_parameters_are_near_what_the_paper_calls_them(size, billions) -> None:
    image = replace(MODELS[size], mask_decoder_blocks=0, temporal_attention=False, temporal_patch=1)
    video = replace(MODELS[size], mask_decoder_blocks=0)
    assert parameters(image) / 1e9 < 1.03 * billions
    assert 0.97 * billions < parameters(video) / 1e9 < 1.28 * billions


# --- activations ---------------------------------------------------------------------------------


class FusedRMSNorm(torch.autograd.Function):
    """What the GPU's fused kernel keeps: its input and one number per row (the CPU's composite
    keeps its intermediate results, too)."""

    @staticmethod
    def forward(ctx, x, weight):
        scale = (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx, grad):
        return torch.zeros_like(ctx.saved_tensors[0]), torch.zeros_like(ctx.saved_tensors[2])


class Norm(nn.RMSNorm):
    def forward(self, x):
        return FusedRMSNorm.apply(x, self.weight.to(x.dtype))


class Copies(TorchDispatchMode):
    """Finds the storages that weights are cast into."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.found = weights, {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        is_copy = operation is torch.ops.aten._to_copy.default
        if is_copy and args[0].untyped_storage().data_ptr() in self.weights:
            self.found[out.untyped_storage().data_ptr()] = out  # alive: no address twice
        return out


def kept_bytes(config: STIVConfig, shape, precision: str, text_tokens: int) -> tuple[int, int]:
    """Bytes of the distinct storages that autograd keeps after a forward pass on the CPU: of
    activations, and of weights that were cast."""
    operations = SimpleNamespace(Linear=Linear, RMSNorm=Norm)
    dtype = DTYPES[precision]
    model = STIVTransformer(config, operations=operations)
    model.init_weights()
    given = inputs(config, shape, text_tokens)
    given = {
        k: v.to(dtype) if k in ("x_BCTHW", "text_BLD", "pooled") else v for k, v in given.items()
    }
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no address is used twice
        return tensor

    keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with keeping, Copies(weights) as copies:
        model(**given)
    cast = sum(size for storage, size in sizes.items() if storage in copies.found)
    return sum(sizes.values()) - cast, cast


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": False, "sandwich_norm": False},
        {"temporal_gate": "own"},
        {"temporal_gate": "spatial", "position": "sincos"},
        {"temporal_attention": False, "temporal_patch": 1},
        {"mlp_ratio": 2.0, "mask_decoder_blocks": 1},
    ],
    ids=str,
)
def test_activations_are_those_that_autograd_keeps(changes, precision) -> None:
    config = replace(TINY, width=128, **changes)
    shape, text_tokens = (8, 16, 16), 7
    found, _ = kept_bytes(config, shape, precision, text_tokens)
    estimate = activation_bytes(config, shape, "none", precision, text_tokens=text_tokens)
    assert estimate == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_copies_of_weights_are_those_that_autograd_keeps(precision) -> None:
    """All but biases and the layers that read data, whose input needs no gradient."""
    config = replace(TINY, width=128, depth=12, micro_conditions=False)
    _, found = kept_bytes(config, (4, 4, 4), precision, text_tokens=7)
    estimate = state_bytes(config, precision=precision).copies
    assert estimate == pytest.approx(found, rel=0.03)
    assert found <= estimate


def test_checkpointing_keeps_what_was_measured() -> None:
    """GB a sample, in bfloat16: XL and M at 256 and 512 px, without blocks after unmasking.

    Selective was measured with the outputs of cross-attention, 4.1 numbers per token and width;
    without them, as here, it is 3.1.
    """
    table = {
        ("xl", 256): (6.0, 0.68, 0.18),
        ("xl", 512): (23.9, 2.7, 0.70),
        ("m", 256): (26, 3.0, 0.77),
        ("m", 512): (105, 11.9, 3.1),
    }
    for (size, pixels), (none, selective, full) in table.items():
        config = replace(MODELS[size], mask_decoder_blocks=0)
        shape = (20, pixels // 8, pixels // 8)
        found = [
            activation_bytes(config, shape, how, "bf16") / 1e9
            for how in ("none", "selective", "full")
        ]
        assert found == pytest.approx((none, selective * 3.1 / 4.1, full), rel=0.07)


@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_masking_and_batch_shape_scale_activations(how) -> None:
    config, shape = MODELS["xl"], (20, 32, 32)
    whole = activation_bytes(config, shape, how)
    assert 0.5 < activation_bytes(config, shape, how, kept=0.5) / whole < 0.6
    assert activation_bytes(config, (40, 32, 32), how) / whole == pytest.approx(2, rel=0.02)


# --- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "momentum"), [("adafactor", "fp32"), ("adafactor", "bf16"), ("adamw", "fp32")]
)
def test_state_is_that_of_the_real_optimizer(kind, momentum) -> None:
    model = STIVTransformer(replace(TINY, mask_decoder_blocks=1))
    named = dict(model.named_parameters())
    optimizer = build_optimizer(named.items(), kind, momentum=momentum)
    state = optimizer_state(optimizer, named).values()
    found = sum(t.numel() * t.element_size() for t in state if t.ndim)
    estimate = state_bytes(model.config, kind, momentum, precision="fp32")
    assert estimate.optimizer == pytest.approx(found, rel=0.01)
    assert estimate.weights == sum(p.numel() * 4 for p in named.values())
    assert estimate.total == 3 * estimate.weights + estimate.optimizer


def test_the_8b_models_optimizer_fits_where_adamws_does_not() -> None:
    """GB for M: 37 (float32 momentum) or 18 (bfloat16), AdamW 73."""
    for kind, momentum, expected in (
        ("adafactor", "fp32", 37),
        ("adafactor", "bf16", 18),
        ("adamw", "fp32", 73),
    ):
        found = state_bytes(MODELS["m"], kind, momentum).optimizer / 1e9
        assert found == pytest.approx(expected, rel=0.03)
    adafactor, adamw = (
        state_bytes(MODELS["xl"], kind).optimizer for kind in ("adafactor", "adamw")
    )
    assert adafactor <= 0.55 * adamw


@pytest.mark.parametrize("targets", [("qkv", "proj", "q", "kv", "fc1", "fc2"), ("cross_attn.q",)])
def test_lora_trains_as_many_numbers_as_the_real_one(targets) -> None:
    model = STIVTransformer(replace(TINY, mask_decoder_blocks=1))
    config = model.config
    frozen = sum(p.numel() for p in model.parameters())
    add_lora(model, 3, 3.0, targets=targets)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert lora_parameters(config, 3, targets) == sum(trained)
    sizes = {
        base: lora_state_bytes(config, 3, targets, base, precision="fp32")
        for base in ("fp32", "bf16", "fp8")
    }
    assert sizes["fp32"].weights == 4 * (frozen + sum(trained))
    assert sizes["fp32"].gradients == sizes["fp8"].gradients == 4 * sum(trained)
    freeze_in(model, torch.bfloat16)
    stored = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    assert sizes["bf16"].weights == pytest.approx(stored, rel=0.01)


@given(world=st.integers(1, 300))
def test_shards_hold_everything_once(world) -> None:
    one, part = state_bytes(TINY), state_bytes(TINY, world=world)
    for field in ("weights", "gradients", "ema"):
        assert math.ceil(getattr(one, field) / world) <= getattr(part, field)
        assert getattr(part, field) <= getattr(one, field) / world + 4


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10G", None),
        ("Tesla T4", None),
        ("AMD Radeon RX 7900 XTX", None),
        ("", None),
    ],
)
def test_peaks_are_known_by_name_or_not_at_all(name, tera) -> None:
    assert peak_flops(name) == (tera and tera * 1e12)


def test_mfu_is_the_share_of_the_devices_peak() -> None:
    assert mfu(8 * 989e12, seconds=2, devices=8, peak=989e12) == 0.5
    assert mfu(1e12, 1, 1, None) is None
    with pytest.raises(ValueError, match="0 s"):
        mfu(1e12, 0, 1, 1e12)


def test_bad_shapes_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(20, 0, 32\)"):
        flops(TINY, (20, 0, 32))
    with pytest.raises(ValueError, match="kept is 0"):
        flops(TINY, (20, 32, 32), kept=0)
    with pytest.raises(ValueError, match="'lion'"):
        state_bytes(TINY, "lion")
