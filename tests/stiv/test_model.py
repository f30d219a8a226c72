"""The network against closed forms and symmetries."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from stiv import STIVConfig, STIVTransformer
from stiv.layers import SelfAttention, modulate, norm, sinusoid
from stiv.tokens import Positions, patchify, unpatchify
from tests.models import random_model

TINY = STIVConfig(width=32, depth=2, heads=2, text_width=12, pooled_width=8, mask_decoder_blocks=1)
SWITCHES = [
    {},
    {"qk_norm": False},
    {"sandwich_norm": False},
    {"condition_norm": False},
    {"shared_adaln": False},
    {"position": "sincos"},
    {"micro_conditions": False},
    {"temporal_patch": 1},
    {"temporal_patch": 4},
    {"temporal_attention": False},
    {"temporal_causal": True},
    {"temporal_gate": "own"},
    {"temporal_gate": "spatial", "sandwich_norm": False, "position": "sincos"},
    {"mask_decoder_blocks": 0},
    {"pooled_width": 0},
]


def build(config: STIVConfig = TINY, seed: int = 0) -> STIVTransformer:
    return random_model(config, seed=seed, dtype=torch.float64).requires_grad_(False)


def inputs(frames: int = 4, height: int = 6, width: int = 8, batch: int = 2) -> dict:
    torch.manual_seed(1)
    return {
        "x_BCTHW": torch.randn(batch, 4, frames, height, width, dtype=torch.float64),
        "t_B": torch.rand(batch, dtype=torch.float64),
        "text_BLD": torch.randn(batch, 5, TINY.text_width, dtype=torch.float64),
        "pooled": torch.randn(batch, TINY.pooled_width, dtype=torch.float64),
    }


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_gives_a_velocity_and_gradients(switch: dict) -> None:
    model = build(replace(TINY, **switch)).requires_grad_(True)
    given = inputs(frames=8)  # more than one token over time, whatever the patch
    velocity = model(**given)
    assert velocity.shape == given["x_BCTHW"].shape
    velocity.square().mean().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused <= {"mask_token"}


@given(
    frames=st.integers(1, 5),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    temporal_patch=st.sampled_from([1, 2, 3]),
)
@settings(max_examples=25, deadline=None)
def test_any_length_and_size(frames: int, height: int, width: int, temporal_patch: int) -> None:
    model = build(replace(TINY, temporal_patch=temporal_patch, depth=1))
    given = inputs(frames, height, width)
    velocity = model(**given)
    assert velocity.shape == given["x_BCTHW"].shape
    assert velocity.isfinite().all()


def test_padding_repeats_the_ends() -> None:
    """An odd video is the same as one whose last frame, row and column were repeated by hand."""
    model, given = build(), inputs(3, 5, 7)
    x = given["x_BCTHW"]
    longer = F.pad(x, (0, 1, 0, 1, 0, 1), mode="replicate")
    micro = x.new_tensor([[40, 56, 0, 0, 1, 3]])
    torch.testing.assert_close(
        model(**given, micro=micro),
        model(**{**given, "x_BCTHW": longer}, micro=micro)[..., :3, :5, :7],
    )


def test_patches_come_back_in_place() -> None:
    """Patchify then unpatchify is the identity once channels are put in the output's order."""
    config = replace(TINY, temporal_patch=2)
    x = torch.arange(2 * 4 * 4 * 6 * 8.0).view(2, 4, 4, 6, 8)
    tokens, grid = patchify(x, config.patch, config.temporal_patch)
    assert (tokens.shape, grid) == ((2, 2, 12, 32), (2, 3, 4))
    ordered = tokens.unflatten(-1, (4, 8)).transpose(-1, -2).flatten(-2)
    assert torch.equal(unpatchify(ordered, grid, config, x.shape), x)


def test_zero_temporal_attention_is_the_image_model() -> None:
    """Temporal patch 1 and a zero temporal projection: each frame as the image model sees it."""
    config = replace(TINY, temporal_patch=1)
    video = build(config)
    for block in [*video.blocks, *video.decoder_blocks]:
        block.temporal_attn.proj.weight.zero_()
        block.temporal_attn.proj.bias.zero_()
    image = STIVTransformer(replace(config, temporal_attention=False), dtype=torch.float64)
    image.load_state_dict({k: v for k, v in video.state_dict().items() if "temporal" not in k})
    given = inputs(3)
    micro = given["x_BCTHW"].new_tensor([[48, 64, 0, 0, 1, 3]])
    together = video(**given, micro=micro)
    for frame in range(3):
        alone = image(
            **{**given, "x_BCTHW": given["x_BCTHW"][:, :, frame : frame + 1]}, micro=micro
        )
        torch.testing.assert_close(together[:, :, frame : frame + 1], alone, rtol=1e-10, atol=1e-10)


def test_one_frame_needs_no_temporal_softmax() -> None:
    """The short cut for one frame is attention over one frame."""
    attention = SelfAttention(TINY, torch.nn, dtype=torch.float64)
    x = torch.randn(2, 1, 5, TINY.width, dtype=torch.float64)
    twice = x.expand(2, 2, 5, TINY.width)
    once = attention(x, None, F.scaled_dot_product_attention, over_time=True)
    both = attention(twice, None, F.scaled_dot_product_attention, over_time=True)
    torch.testing.assert_close(once.expand_as(both), both)


def test_one_frame_asks_a_changed_layer_for_all_it_has() -> None:
    """As with a LoRA beside it: only a bare product is cut short."""
    attention = SelfAttention(TINY, torch.nn, dtype=torch.float64)
    x, layer = torch.randn(1, 1, 5, TINY.width, dtype=torch.float64), attention.qkv
    plain = attention(x, None, F.scaled_dot_product_attention, over_time=True)
    layer.forward = lambda x: torch.nn.Linear.forward(layer, x) + 1
    changed = attention(x, None, F.scaled_dot_product_attention, over_time=True)
    torch.testing.assert_close(changed, plain + attention.proj.weight.sum(1))


def without_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Positions.__init__

    def init(self, *args) -> None:
        plain(self, *args)
        self.space_table = self.time_table = None

    monkeypatch.setattr(Positions, "__init__", init)


@pytest.mark.parametrize("temporal_patch", [1, 2])
def test_without_positions_frames_permute(monkeypatch, temporal_patch: int) -> None:
    model, given = build(replace(TINY, temporal_patch=temporal_patch)), inputs(6)
    index = torch.arange(6).view(-1, temporal_patch)
    order = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(3))].flatten()
    swapped = {**given, "x_BCTHW": given["x_BCTHW"][:, :, order]}
    assert not torch.allclose(model(**given)[:, :, order], model(**swapped))
    without_positions(monkeypatch)
    torch.testing.assert_close(model(**given)[:, :, order], model(**swapped))


def test_causal_frames_do_not_see_the_future() -> None:
    model = build(replace(TINY, temporal_causal=True, temporal_patch=1))
    given = inputs(4)
    later = given["x_BCTHW"].clone()
    later[:, :, 3] += 1
    changed = (model(**given) - model(**{**given, "x_BCTHW": later})).abs().amax((0, 1, 3, 4))
    assert changed[:3].max() == 0
    assert changed[3] > 0


def test_masked_text_is_not_read() -> None:
    model, given = build(), inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    other = given["text_BLD"].clone()
    other[0, 3:] = 100
    torch.testing.assert_close(
        model(**given, text_mask=mask), model(**{**given, "text_BLD": other}, text_mask=mask)
    )
    short = {k: v[:1] for k, v in given.items()}
    short["text_BLD"] = short["text_BLD"][:, :3]
    torch.testing.assert_close(model(**short), model(**given, text_mask=mask)[:1])


def test_text_without_real_tokens_is_finite() -> None:
    assert build()(**inputs(), text_mask=torch.zeros(2, 5)).isfinite().all()


def test_keeping_every_token_is_no_masking() -> None:
    model, given = build(), inputs()
    keep = torch.stack([torch.randperm(12), torch.randperm(12)])
    torch.testing.assert_close(model(**given, keep=keep), model(**given))


@pytest.mark.parametrize("position", ["rope", "sincos"])
def test_main_blocks_see_the_kept_tokens_only(position: str) -> None:
    """Dropped tokens reach the output only through their place."""
    model, given = build(replace(TINY, position=position)), inputs()
    keep = torch.tensor([[0, 1, 5, 7], [2, 3, 4, 11]])
    dropped = given["x_BCTHW"].clone()
    for sample, kept in enumerate(keep):
        for token in set(range(12)) - set(kept.tolist()):
            row, column = divmod(token, 4)
            dropped[sample, :, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
    masked = model(**given, keep=keep)
    torch.testing.assert_close(masked, model(**{**given, "x_BCTHW": dropped}, keep=keep))
    assert not torch.allclose(masked, model(**given))


@pytest.mark.parametrize("position", ["rope", "sincos"])
def test_only_embeddings_tell_where_a_token_is(position: str) -> None:
    """Rotary positions are relative: where all tokens are alike, so is what comes out."""
    model, given = build(replace(TINY, position=position)), inputs()
    given["x_BCTHW"] = torch.ones_like(given["x_BCTHW"])
    velocity, grid = patchify(model(**given), TINY.patch, TINY.temporal_patch)
    assert min(grid) > 1
    apart = (velocity - velocity[:, :1, :1]).abs().amax((0, 3))  # from the first token
    if position == "rope":
        assert apart.max() < 1e-9
    else:
        assert apart.flatten()[1:].min() > 1e-6


def test_samples_do_not_see_each_other() -> None:
    model, given = build(), inputs(batch=3)
    alone = [model(**{k: v[i : i + 1] for k, v in given.items()}) for i in range(3)]
    torch.testing.assert_close(model(**given), torch.cat(alone))


def test_checkpoint_hook_runs_every_block_and_keeps_the_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    def gradients(hook) -> list[torch.Tensor]:
        model = build().requires_grad_(True)
        model.checkpoint = hook
        model(**inputs()).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    calls = []

    def hook(block, *args):
        calls.append(block)
        return checkpoint(block, *args, use_reentrant=False)

    for plain, recomputed in zip(gradients(None), gradients(hook), strict=True):
        assert torch.equal(plain, recomputed)
    assert len(calls) == TINY.depth + TINY.mask_decoder_blocks


def test_image_cross_attention_reads_the_image() -> None:
    model, given = build(replace(TINY, image_cross_attention=True)), inputs()
    image = given["x_BCTHW"][:, :, 0]
    assert not torch.allclose(model(**given, image=image), model(**given, image=image + 1))


def test_initial_output_is_zero_and_seeded() -> None:
    models = [STIVTransformer(TINY) for _ in range(2)]
    for model in models:
        model.init_weights(torch.Generator().manual_seed(5))
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    single = {k: v.float() for k, v in inputs().items()}
    assert models[0](**single).abs().max() == 0


def test_modulation_is_the_formula() -> None:
    x, shift, scale = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    expected = (x - mean) / (var + 1e-6).sqrt() * (1 + scale) + shift
    torch.testing.assert_close(modulate(norm(x), shift, scale), expected)


def test_sinusoid_is_the_formula() -> None:
    values = torch.tensor([0.0, 3.0, 999.0])
    table = sinusoid(values)
    assert table.shape == (3, 256)
    assert torch.equal(table[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    three = torch.tensor(3.0)  # the first frequency is 1
    torch.testing.assert_close(table[1, [0, 128]], torch.stack([three.cos(), three.sin()]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_BCTHW": torch.zeros(1, 3, 2, 4, 4)}, "latents have shape"),
        ({"x_BCTHW": torch.zeros(1, 4, 4, 4)}, "latents have shape"),
        ({"text_BLD": torch.zeros(1, 5, 13)}, "expected (batch, tokens, 12)"),
    ],
)
def test_wrong_shapes_are_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        build()(**{**inputs(), **change})


def test_masking_needs_decoder_blocks() -> None:
    with pytest.raises(ValueError, match="mask_decoder_blocks"):
        build(replace(TINY, mask_decoder_blocks=0))(**inputs(), keep=torch.zeros(2, 3).long())
