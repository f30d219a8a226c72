"""Masked training against loops that do one sample, frame and token at a time."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from stiv import STIVConfig, STIVTransformer
from stiv.flow import flow_loss
from stiv.tokens import Positions, patchify, unpatchify
from tests.models import random_model
from training.masking import draw_kept_tokens

TINY = STIVConfig(
    width=16,
    depth=2,
    heads=2,
    mlp_ratio=1.0,
    latent_channels=2,
    text_width=6,
    pooled_width=3,
    mask_decoder_blocks=1,
)


def rngs(seed: int, batch: int) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, position]) for position in range(batch)]


@given(
    tokens=st.integers(1, 300),
    ratio=st.floats(0.01, 0.99),
    batch=st.integers(0, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_kept_tokens_are_distinct_sorted_and_as_many_as_asked(tokens, ratio, batch, seed) -> None:
    keep = draw_kept_tokens(rngs(seed, batch), tokens, ratio)
    assert keep.shape == (batch, tokens - int(tokens * ratio)) and keep.shape[1] >= 1
    assert keep.dtype == torch.int64
    for row in keep.tolist():
        assert row == sorted(set(row)) and row[0] >= 0 and row[-1] < tokens
    # a sample's draw is its own: the same in another batch
    for position in range(batch):
        alone = draw_kept_tokens(rngs(seed, batch)[position : position + 1], tokens, ratio)
        assert torch.equal(alone[0], keep[position])


def test_every_token_is_kept_equally_often() -> None:
    keep = draw_kept_tokens(rngs(0, 4000), 10, 0.5)
    counts = torch.bincount(keep.flatten(), minlength=10)
    assert (counts - 2000).abs().max() < 5 * (4000 * 0.25) ** 0.5  # five standard deviations


def test_no_masking_and_bad_ratios() -> None:
    assert draw_kept_tokens(rngs(0, 2), 10, 0.0) is None
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"ratio is {bad}"):
            draw_kept_tokens(rngs(0, 2), 10, bad)
    with pytest.raises(ValueError, match="0 tokens"):
        draw_kept_tokens(rngs(0, 2), 0, 0.5)


def build(config: STIVConfig = TINY) -> STIVTransformer:
    return random_model(config, dtype=torch.float64)


def inputs(batch: int = 2, frames: int = 4, height: int = 4, width: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "x_BCTHW": torch.randn(batch, 2, frames, height, width, dtype=torch.float64),
        "t_B": torch.rand(batch, dtype=torch.float64),
        "text_BLD": torch.randn(batch, 5, TINY.text_width, dtype=torch.float64),
        "text_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])[:batch],
        "pooled": torch.randn(batch, TINY.pooled_width, dtype=torch.float64),
        "micro": torch.rand(batch, 6, dtype=torch.float64) * 100,
    }


def test_kept_tokens_come_back_in_place() -> None:
    """With main blocks that mark what they see, each kept place holds its own token's mark."""
    model, given = build(replace(TINY, depth=1)), inputs()
    seen = []

    class Mark(nn.Module):
        def forward(self, x, *args):
            return 1000 + x

    class Show(nn.Module):
        def forward(self, x, *args):
            seen.append(x)
            return x

    model.blocks, model.decoder_blocks = nn.ModuleList([Mark()]), nn.ModuleList([Show()])
    keep = draw_kept_tokens(rngs(3, 2), 6, 0.5)
    model(**given, keep=keep)
    tokens = model.patch_embed(patchify(given["x_BCTHW"], 2, 2)[0])
    (found,) = seen
    for b in range(2):
        for frame in range(2):
            for place in range(6):
                if place in keep[b]:
                    expected = 1000 + tokens[b, frame, place]
                else:
                    expected = model.mask_token
                assert torch.equal(found[b, frame, place], expected)


@pytest.mark.parametrize("position", ["rope", "sincos"])
def test_masked_model_is_the_loop_over_samples(position: str) -> None:
    """The whole masked forward, written as a loop: gather by hand, one sample at a time, with
    positions taken from the kept places, then the mask token everywhere else."""
    config = replace(TINY, position=position)
    model, given = build(config), inputs()
    keep = draw_kept_tokens(rngs(3, 2), 6, 0.5)
    found = model(**given, keep=keep)
    tokens, grid = patchify(given["x_BCTHW"], config.patch, config.temporal_patch)
    for b in range(2):
        one = {name: value[b : b + 1] for name, value in given.items()}
        condition = model.condition(one["x_BCTHW"], one["t_B"], one["pooled"], one["micro"])
        text, mask = model.context(one["text_BLD"], one["text_mask"], None)
        shared = model.modulation(nn.functional.silu(condition)).view(1, 6, -1)
        x = model.patch_embed(tokens[b : b + 1])
        positions = Positions(config, grid, x)
        if positions.space_embedding is not None:
            x = x + positions.space_embedding
        kept = torch.stack([x[:, :, place] for place in keep[b].tolist()], dim=2)
        places = Positions(config, grid, x)
        if position == "rope":
            table = positions.space_table
            places.space_table = torch.stack([table[:, p] for p in keep[b].tolist()], dim=1)
        for i, block in enumerate(model.blocks):
            if i:
                places.time_embedding = positions.time_embedding = None
            kept = block(kept, shared, text, mask, places, model.attention)
        columns = []
        for place in range(6):
            if place in keep[b]:
                columns.append(kept[:, :, keep[b].tolist().index(place)])
            else:
                fill = model.mask_token
                if positions.space_embedding is not None:
                    fill = fill + positions.space_embedding[place]
                columns.append(fill.expand(1, 2, -1))
        x = torch.stack(columns, dim=2)
        x = model.decoder_blocks[0](x, shared, text, mask, positions, model.attention)
        x = unpatchify(model.final(x, condition), grid, config, one["x_BCTHW"].shape)
        torch.testing.assert_close(found[b : b + 1], x, rtol=1e-10, atol=1e-10)


def test_keeping_every_token_masks_nothing() -> None:
    model, given = build(), inputs()
    keep = torch.arange(6).expand(2, 6)
    torch.testing.assert_close(model(**given, keep=keep), model(**given), rtol=1e-12, atol=1e-12)


@given(
    frames=st.integers(1, 4),
    bits=st.lists(st.booleans(), min_size=8, max_size=8),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_masked_loss_is_the_loop_over_numbers(frames: int, bits: list[bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    velocity, target = torch.from_numpy(rng.standard_normal((2, 2, 2, frames, 2, 3)))
    mask = torch.tensor(bits).view(2, 4)[:, :frames]
    found = flow_loss(velocity, target, mask)
    for b in range(2):
        total = count = 0.0
        for c in range(2):
            for t in range(frames):
                for y in range(2):
                    for x in range(3):
                        if not mask[b, t]:
                            total += float(velocity[b, c, t, y, x] - target[b, c, t, y, x]) ** 2
                            count += 1
        assert found[b].item() == pytest.approx(total / count if count else 0.0, rel=1e-5)


FAST = {"fast_mode": True, "check_undefined_grad": False}


def masked_loss(velocity: Tensor, target: Tensor, frame_mask: Tensor) -> Tensor:
    """`flow_loss`, which rounds to float32, in float64 for finite differences."""
    error = (velocity - target).square().mean(dim=(1, 3, 4))
    return (error * ~frame_mask).sum(1) / (~frame_mask).sum(1)


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"position": "sincos", "shared_adaln": False, "temporal_gate": "own"},
        {"temporal_causal": True, "temporal_patch": 1},
    ],
    ids=str,
)
def test_gradients_are_finite_differences(switch: dict) -> None:
    """Of the masked loss of the whole masked model, in every weight, the latents and the text."""
    model, given = build(replace(TINY, **switch)), inputs()
    keep = draw_kept_tokens(rngs(3, 2), 6, 0.5)
    frame_mask = torch.tensor([[True, False, False, False], [False, False, False, True]])
    target = torch.randn(given["x_BCTHW"].shape, dtype=torch.float64)
    differentiated = ("x_BCTHW", "text_BLD", "pooled")
    names, weights = zip(*model.named_parameters(), strict=True)
    checked: list[Tensor] = []

    def loss(x, text, pooled, *weights):
        now = {**given, "x_BCTHW": x, "text_BLD": text, "pooled": pooled, "keep": keep}
        velocity = torch.func.functional_call(
            model, dict(zip(names, weights, strict=True)), (), now
        )
        found = masked_loss(velocity, target, frame_mask)
        if not checked:
            checked.append(flow_loss(velocity, target, frame_mask).double())
            torch.testing.assert_close(checked[0], found, rtol=1e-5, atol=1e-6)
        return found.sum()

    variables = [given[name].requires_grad_() for name in differentiated]
    # fast mode: one random direction through all numbers of each input, the model as it is
    assert torch.autograd.gradcheck(loss, (*variables, *weights), **FAST)


def test_gradients_of_small_tensors_number_by_number() -> None:
    """Finite differences of every single number of the tensors that masking adds or moves."""
    model, given = build(replace(TINY, depth=1)), inputs(frames=2, height=2, width=4)
    keep = draw_kept_tokens(rngs(5, 2), 2, 0.5)
    frame_mask = torch.tensor([[True, False], [False, False]])
    target = torch.randn(given["x_BCTHW"].shape, dtype=torch.float64)
    names = ("mask_token", "blocks.0.temporal_attn.q_norm.weight", "patch_embed.bias")
    weights = [model.get_parameter(name) for name in names]

    def loss(*weights):
        now = {**given, "keep": keep}
        changed = dict(zip(names, weights, strict=True))
        velocity = torch.func.functional_call(model, changed, (), now)
        return masked_loss(velocity, target, frame_mask).sum()

    assert torch.autograd.gradcheck(loss, weights, check_undefined_grad=False)
