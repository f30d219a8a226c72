"""Packed linear layers: the same function, whatever happens to the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from stiv import STIVConfig, STIVTransformer
from stiv.packed import PackedForward, can_pack, pack, packable

CONFIG = STIVConfig(width=64, depth=2, heads=4, text_width=32, pooled_width=16)
needs_packing = pytest.mark.skipif(
    not can_pack(torch.float32), reason="this torch has no oneDNN for x86"
)


def network() -> STIVTransformer:
    model = STIVTransformer(CONFIG).requires_grad_(False)
    model.init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():  # zeros would hide errors
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


def inputs(T: int, H: int, W: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    mask = torch.ones(2, 7)
    mask[0, 4:] = 0
    return {
        "x_BCTHW": torch.randn(2, 4, T, H, W, generator=g).to(dtype),
        "t_B": torch.tensor([0.3, 0.8]),
        "text_BLD": torch.randn(2, 7, 32, generator=g).to(dtype),
        "text_mask": mask,
        "pooled": torch.randn(2, 16, generator=g).to(dtype),
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).float().norm() / wanted.float().norm())


@needs_packing
@pytest.mark.parametrize("size", [(4, 8, 8), (3, 5, 7), (1, 6, 6)], ids=str)
def test_packed_is_plain_within_rounding(size: tuple[int, int, int]) -> None:
    plain = network()
    packed = copy.deepcopy(plain)
    pack(packed)
    given = inputs(*size)
    assert relative(packed(**given), plain(**given)) < 1e-5
    uses = [
        m.forward for m in packed.modules() if isinstance(vars(m).get("forward"), PackedForward)
    ]
    blocks = CONFIG.depth + CONFIG.mask_decoder_blocks
    assert len(uses) == len(list(packable(plain))) == 9 * blocks  # 2 + 2 + 3 of attention, FFN
    assert all(use.packed is not None and use.has_gelu == use.gelu for use in uses)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16")
def test_bfloat16_is_within_its_rounding() -> None:
    plain = network()
    reference = plain(**inputs(4, 8, 8))
    plain = plain.bfloat16()
    packed = copy.deepcopy(plain)
    pack(packed)
    given = inputs(4, 8, 8, torch.bfloat16)
    error = relative(packed(**given), reference)
    assert error < 1.5 * relative(plain(**given), reference)


@needs_packing
def test_weights_that_change_are_followed() -> None:
    layer = nn.Linear(8, 8).requires_grad_(False)
    forward, x = PackedForward(layer), torch.randn(3, 8)

    def is_right() -> bool:
        return relative(forward(x), nn.functional.linear(x, layer.weight, layer.bias)) < 1e-5

    assert is_right()
    layer.weight.mul_(2)  # in place
    assert is_right()
    layer.weight = nn.Parameter(torch.randn(8, 8), requires_grad=False)  # as a LoRA is applied
    assert is_right()
    with torch.inference_mode():
        layer.weight = nn.Parameter(torch.randn(8, 8), requires_grad=False)
        assert is_right()


@needs_packing
def test_what_is_added_to_a_layer_comes_before_gelu() -> None:
    plain = network()
    packed = copy.deepcopy(plain)
    pack(packed)
    for model in (plain, packed):  # as a LoRA beside the weights
        layer = model.blocks[0].mlp.fc1
        layer.forward = lambda x, inner=layer.forward: inner(x) + x.mean(-1, keepdim=True)
    given = inputs(2, 4, 4)
    assert relative(packed(**given), plain(**given)) < 1e-5


def test_what_cannot_be_packed_is_done_plainly() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(3, 8, requires_grad=True)
    wanted = nn.functional.gelu(layer(x), approximate="tanh")
    layer.forward = forward = PackedForward(layer, gelu=True)
    assert torch.equal(forward(x), wanted)
    forward(x).sum().backward()
    assert forward.packed is None and layer.weight.grad.any()  # gradients flow
    layer.double().requires_grad_(False)
    assert forward(x.detach().double()).dtype == torch.float64
    special = PackedForward(nn.Linear(8, 8).requires_grad_(False), is_plain=lambda layer: False)
    special(x.detach())
    assert special.packed is None
