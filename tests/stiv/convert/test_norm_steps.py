"""Norms that enter: the sizes that a norm takes away are kept as the steps' docstrings say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stiv.config import STIVConfig
from stiv.convert.difference import relative_rms
from stiv.convert.initialise import Aim, plan, stages
from stiv.layers import NORM_EPS, modulate, norm, sinusoid
from stiv.model import STIVTransformer
from stiv.rope import sincos_1d, sincos_2d
from tests.stiv.convert.starts import PIXART, STDIT, inputs_for, outputs, trained

WIDE = replace(PIXART, width=64, heads=4, temporal_attention=True)
CPU = torch.device("cpu")


def one_step(
    source: STIVConfig, seed: int = 0, std: float = 0.2, **changes
) -> tuple[dict, dict, STIVConfig]:
    """Tensors before and after the only step of a plan, and the network after."""
    target = replace(source, **changes)
    (step,) = plan(source, Aim(config=target))
    assert not step.exact
    before, after = stages([step], trained(source, seed, std))
    return before, dict(after), target


def network(tensors: dict[str, Tensor], config: STIVConfig) -> STIVTransformer:
    model = STIVTransformer(config, dtype=torch.float64).requires_grad_(False)
    model.load_state_dict(dict(tensors))
    return model


def white(config: STIVConfig, tokens: int = 4000) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return norm(torch.randn(1, 1, tokens, config.width, generator=generator, dtype=torch.float64))


def test_queries_and_keys_keep_their_mean_size() -> None:
    before, after, config = one_step(WIDE, qk_norm=True)
    model, new = network(before, WIDE), network(after, config)
    latents, t = torch.zeros(9, 4, 1, 32, 32).double(), torch.linspace(0, 1, 9).double()
    shared = model.shared_modulation(model.condition(latents, t, None, None))
    for old_block, block in zip(model.blocks, new.blocks, strict=True):
        shift, scale, *_ = old_block.modulations(shared)
        read = {"spatial_attn": modulate(white(WIDE), shift, scale), "temporal_attn": white(WIDE)}
        for name, h in read.items():
            q, k, _ = getattr(old_block, name).qkv(h).chunk(3, -1)
            for part, values in (("q_norm", q), ("k_norm", k)):
                weight = getattr(getattr(block, name), part).weight
                assert weight.std() == 0
                size = values.square().mean().sqrt().item()
                assert weight[0].item() == pytest.approx(size, rel=0.05)
        assert torch.equal(block.cross_attn.q_norm.weight, torch.ones(16).double())


@pytest.mark.parametrize("is_shared", [True, False])
def test_branches_add_as_much_behind_a_sandwich_norm(is_shared: bool) -> None:
    source = replace(WIDE, shared_adaln=is_shared, temporal_gate="own")
    before, after, config = one_step(source, sandwich_norm=True)
    old_model, new_model = network(before, source), network(after, config)
    t = torch.linspace(0, 1, 101).double()
    latents = torch.zeros(101, 4, 1, 32, 32).double()
    gates = []
    for model in (old_model, new_model):
        shared = model.shared_modulation(model.condition(latents, t, None, None))
        gates.append([block.modulations(shared) for block in model.blocks])
    h = white(source, 64)
    for i, (old, new) in enumerate(zip(*gates, strict=True)):
        block = old_model.blocks[i]
        for gate, out in (
            (2, block.spatial_attn(modulate(h, old[0], old[1]), None,
                                   F.scaled_dot_product_attention)),
            (5, block.mlp(modulate(h, old[3], old[4]))),
            (8, block.temporal_attn(modulate(h, old[6], old[7]), None,
                                    F.scaled_dot_product_attention, over_time=True)),
        ):  # fmt: skip
            size = (out - out.mean(-1, keepdim=True)).square().mean().sqrt()
            was, now = (old[gate] * size).mean(0), new[gate].mean(0)
            assert (now - was).norm() < 0.2 * was.norm()


def test_an_ungated_branch_is_nearly_what_it_was_while_it_is_small() -> None:
    before, after, _ = one_step(WIDE, sandwich_norm=True)
    name = "blocks.1.temporal_attn.proj."
    h = 0.05 * white(WIDE, 100)
    weight, bias = (before[name + part] for part in ("weight", "bias"))
    branch = F.linear(h, 0.1 * weight)  # of a size below one
    scale = after[name + "weight"] / weight
    assert torch.allclose(scale, torch.full_like(scale, NORM_EPS**0.5))
    assert torch.allclose(after[name + "bias"], bias * NORM_EPS**0.5)
    centred = branch - branch.mean(-1, keepdim=True)
    expected = centred / (1 + branch.var(-1, correction=0, keepdim=True)).sqrt()
    torch.testing.assert_close(norm(branch * NORM_EPS**0.5), expected)
    assert relative_rms(expected[0].mT, centred[0].mT) < 0.01


@pytest.mark.parametrize("is_shared", [True, False])
def test_modulations_follow_the_condition_over_time(is_shared: bool) -> None:
    source = replace(PIXART, width=64, shared_adaln=is_shared)
    before, after, config = one_step(source, condition_norm=True)
    latents, t = torch.zeros(7, 4, 1, 32, 32).double(), torch.rand(7).double()

    def modulations(tensors: dict[str, Tensor], config: STIVConfig) -> Tensor:
        model = network(tensors, config)
        shared = model.shared_modulation(model.condition(latents, t, None, None))
        return torch.stack([torch.cat(block.modulations(shared)) for block in model.blocks])

    wanted, got = modulations(before, source), modulations(after, config)
    plain = modulations(before, config)
    assert (got - wanted).square().mean() < 0.1 * (plain - wanted).square().mean()
    at = torch.linspace(0, 1, 1001).double()
    curve = F.linear(
        F.silu(F.linear(sinusoid(1000 * (1 - at)).double(), before["time_embed.fc1.weight"],
                        before["time_embed.fc1.bias"])),
        before["time_embed.fc2.weight"], before["time_embed.fc2.bias"],
    )  # fmt: skip
    moved = after["final.modulation_table"] - before["final.modulation_table"]
    torch.testing.assert_close(moved[0], (curve - norm(curve)).mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moved[0], moved[1])


def test_rotary_positions_keep_the_embeddings_means() -> None:
    source = replace(STDIT, temporal_gate="none")
    before, after, _ = one_step(source, position="rope")
    width = source.width
    space = sincos_2d(16, 16, width, 1.0, 0, 10000.0, CPU, torch.float64)
    time = sincos_1d(16, width, 1.0, 10000.0, CPU, torch.float64)
    torch.testing.assert_close(
        after["patch_embed.bias"], before["patch_embed.bias"] + space.mean(0)
    )
    qkv = "blocks.0.temporal_attn.qkv."
    torch.testing.assert_close(
        after[qkv + "bias"], before[qkv + "bias"] + before[qkv + "weight"] @ time.mean(0)
    )
    untouched = set(before) - {"patch_embed.bias", qkv + "bias"}
    assert all(torch.equal(before[name], after[name]) for name in untouched)


def test_a_spatial_gate_leaves_its_mean_behind() -> None:
    before, after, _ = one_step(STDIT, temporal_gate="none")
    model = network(before, STDIT)
    latents, t = torch.zeros(1001, 4, 1, 32, 32).double(), torch.linspace(0, 1, 1001).double()
    shared = model.shared_modulation(model.condition(latents, t, None, None))
    for i, block in enumerate(model.blocks):
        gate = block.modulations(shared)[2].mean(0).flatten()
        weight = before[f"blocks.{i}.temporal_attn.proj.weight"]
        torch.testing.assert_close(
            after[f"blocks.{i}.temporal_attn.proj.weight"], gate[:, None] * weight,
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        (WIDE, {"qk_norm": True}),
        (WIDE, {"sandwich_norm": True}),
        (WIDE, {"condition_norm": True}),
        (PIXART, {"position": "rope"}),
        (replace(STDIT, width=64, heads=4), {"temporal_gate": "none"}),
    ],
)
def test_it_stays_nearer_than_without_keeping_sizes(source: STIVConfig, changes: dict) -> None:
    """Against the plain hand-over: the same tensors, norms' weights of one."""
    kept, plain = [], []
    for seed in range(3):
        before, after, config = one_step(source, seed, 0.05, **changes)
        naive = {name: before.get(name, torch.ones_like(tensor)) for name, tensor in after.items()}
        inputs = inputs_for(source, seed=seed)
        expected = outputs(before, source, inputs)
        kept.append(relative_rms(outputs(after, config, inputs), expected))
        plain.append(relative_rms(outputs(naive, config, inputs), expected))
    assert sum(kept) < 0.8 * sum(plain), (kept, plain)
