"""Plans of initialisation: their order, what they refuse, what they leave in the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stiv.card import Card
from stiv.checkpoint import expected_shapes, read_checkpoint
from stiv.config import MODELS, STIVConfig
from stiv.convert.initialise import Aim, Temporal, grow, initialised, plan, stages
from stiv.convert.weights import Weights
from stiv.flow import velocity_target
from stiv.public import EPSILON, LATENT_SPACES, TEXT_ENCODERS
from stiv.rope import rope_1d, rope_2d
from tests.models import random_model
from tests.stiv.convert.starts import IMAGE, PIXART, STDIT, STIV, inputs_for, outputs, trained

VIDEO = replace(STIV, mask_decoder_blocks=0)
CPU = torch.device("cpu")


def card(config: STIVConfig, **changes) -> Card:
    widths = {"width": config.text_width, "pooled_width": config.pooled_width}
    values = {
        "config": config,
        "latents": LATENT_SPACES["sd"],
        "text": {"encoder": "custom", "max_tokens": 8, **widths},
        "tasks": [{"task": "t2i", "height": [64, 64]}, {"task": "t2v", "frames": [8, 8]}],
        "modelspec": {"title": "Tiny", "license": "Apache-2.0", "resolution": "64x64"},
        "tensor_hash": "ab" * 32,
    }
    return Card(**values | changes)


def test_an_imported_ancestor_becomes_stiv_in_this_order() -> None:
    steps = plan(STDIT, Aim(config=STIV, velocity=True))
    assert [step.name for step in steps] == [
        "null text", "pooled text", "rotary positions", "temporal gate", "QK norm",
        "sandwich norm", "condition norm", "micro conditions", "temporal patch",
        "mask decoder blocks", "velocity",
    ]  # fmt: skip
    assert all(step.exact or step.trained for step in steps)
    result = grow(trained(STDIT), STDIT, Aim(config=STIV, velocity=True))
    assert {name: tuple(t.shape) for name, t in result.items()} == expected_shapes(STIV)
    assert {t.dtype for t in result.values()} == {torch.float32}


def test_released_sizes_are_planned_without_their_weights() -> None:
    """PixArt-alpha XL/2 and STDiT-XL/2 have 16 heads; everything else of XL is reached."""
    pixart = replace(PIXART, width=1152, depth=28, heads=16, text_width=4096)
    target = replace(MODELS["xl"], heads=16)
    assert plan(pixart, Aim(config=target, velocity=True))[-1].after == target
    assert plan(replace(pixart, temporal_attention=True), Aim(config=target))[-1].after == target
    with pytest.raises(ValueError, match=r"^heads 16 cannot become 18: .*keep 16"):
        plan(pixart, Aim(config=MODELS["xl"]))


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (STIV, {"width": 32}, "width 16 cannot become 32: no step widens"),
        (STIV, {"heads": 4}, "heads 2 cannot become 4"),
        (STIV, {"depth": 3}, "depth 2 cannot become 3: say which block each of the 3 is"),
        (STIV, {"mlp_ratio": 2.0}, "mlp_ratio 4.0 cannot become 2.0"),
        (STIV, {"patch": 4}, "patch 2 cannot become 4"),
        (STIV, {"temporal_patch": 4}, "temporal_patch 2 cannot become 4: only a model of single"),
        (STIV, {"qk_norm": False}, "qk_norm True cannot become False"),
        (STIV, {"sandwich_norm": False}, "sandwich_norm True cannot become False"),
        (STIV, {"condition_norm": False}, "condition_norm True cannot become False"),
        (STIV, {"position": "sincos"}, "position 'rope' cannot become 'sincos'"),
        (STIV, {"micro_conditions": False}, "micro_conditions True cannot become False"),
        (STIV, {"temporal_attention": False}, "temporal_attention True cannot become False"),
        (STIV, {"temporal_gate": "spatial"}, "temporal_gate 'none' cannot become 'spatial'"),
        (STIV, {"mask_decoder_blocks": 0}, "mask_decoder_blocks 1 cannot become 0"),
        (replace(PIXART, width=12), {"position": "rope"}, "rope needs a multiple of 4"),
    ],
)
def test_what_no_step_does_is_refused_with_the_reason(source, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        plan(source, Aim(config=replace(source, **changes)))


@pytest.mark.parametrize(
    ("blocks", "depth", "message"),
    [
        ((0, 1, 2), 3, "names block 2: the source has 0 to 1"),
        ((0, -1), 2, "names block -1"),
        ((0, 1), 3, "names 2 blocks, the new model has 3"),
    ],
)
def test_bad_depth_maps_are_named(blocks: tuple, depth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(STIV, Aim(config=replace(STIV, depth=depth), depth_map=blocks))


# --- joint ---------------------------------------------------------------------------------------


def test_a_joint_start_is_spatial_of_one_and_temporal_of_the_other() -> None:
    image, video = trained(IMAGE, 0), trained(STIV, 1)
    aim = Aim(config=STIV, temporal=Temporal(tensors=video, config=STIV, tensor_hash="cd" * 32))
    steps = plan(IMAGE, aim)
    state = stages(steps, image)[-1]
    for name in expected_shapes(STIV):
        if ".temporal_attn." in name:
            assert torch.equal(state[name], video[name])
        elif "final" not in name and "patch" not in name:
            assert torch.equal(state[name], image[name])
    assert [step.name for step in steps][-1] == "joint start" and not steps[-1].exact


def test_a_joint_start_takes_the_gate_too() -> None:
    own = replace(STIV, temporal_gate="own")
    image, video = trained(IMAGE, 0), trained(own, 1)
    state = grow(image, IMAGE, Aim(config=own, temporal=Temporal(tensors=video, config=own)))
    rows = 6 * STIV.width
    taken = state["modulation.weight"].double()
    torch.testing.assert_close(taken[rows:], video["modulation.weight"][rows:])
    torch.testing.assert_close(taken[:rows], image["modulation.weight"])
    table = state["blocks.1.modulation_table"].double()
    torch.testing.assert_close(table[6:], video["blocks.1.modulation_table"][6:])


@pytest.mark.parametrize(
    "change", [{"depth": 3}, {"qk_norm": False}, {"temporal_patch": 1}, {"temporal_gate": "own"}]
)
def test_a_joint_start_from_another_kind_of_attention_is_refused(change: dict) -> None:
    other = replace(STIV, **change)
    (field,) = change
    with pytest.raises(ValueError, match=rf"has {field} .*, the new one .*start of its own first"):
        plan(IMAGE, Aim(config=STIV, temporal=Temporal(tensors={}, config=other)))
    with pytest.raises(ValueError, match="the new model has none"):
        plan(IMAGE, Aim(config=IMAGE, temporal=Temporal(tensors={}, config=STIV)))


# --- positions, prediction, text -----------------------------------------------------------------


def test_interpolated_positions_are_the_old_ones_at_scaled_places() -> None:
    """Of a grid twice as large and a clip twice as long, every second place is a trained one."""
    target = replace(STIV, space_scale=STIV.space_scale * 256 / 512, time_scale=20 / 40)
    (step,) = plan(STIV, Aim(config=target))
    new, old, dim = step.after, STIV, STIV.head_dim
    assert not step.changes_tensors and not step.exact
    place = (CPU, torch.float64)
    long = rope_1d(20, dim, new.rope_theta, new.time_scale, *place)
    short = rope_1d(10, dim, old.rope_theta, old.time_scale, *place)
    torch.testing.assert_close(long[:, ::2], short, atol=1e-12, rtol=0)
    large = rope_2d(32, 24, dim, new.rope_theta, new.space_scale, *place)
    small = rope_2d(16, 12, dim, old.rope_theta, old.space_scale, *place)
    coarse = large.unflatten(1, (32, 24))[:, ::2, ::2].flatten(1, 2)
    torch.testing.assert_close(coarse, small, atol=1e-12, rtol=0)


def test_noise_becomes_the_noises_part_of_the_velocity() -> None:
    """A network that knew the noise gives data - noise, but for the data."""
    (step,) = plan(IMAGE, Aim(config=IMAGE, velocity=True))
    before, after = stages([step], trained(IMAGE))
    inputs = inputs_for(IMAGE)
    noise = outputs(before, IMAGE, inputs)
    data = torch.zeros_like(noise)
    torch.testing.assert_close(outputs(after, IMAGE, inputs), velocity_target(data, noise))


def test_another_text_width_changes_one_layer() -> None:
    target = replace(PIXART, text_width=9, null_text_tokens=0)
    before, *_, after = stages(plan(PIXART, Aim(config=target)), trained(PIXART))
    changed = [
        name for name in after if name not in before or not torch.equal(before[name], after[name])
    ]
    assert changed == ["text_embed.fc1.weight"]
    assert after["text_embed.fc1.weight"].shape == (16, 9)


# --- what is new ---------------------------------------------------------------------------------


def test_new_weights_are_those_of_the_models_own_initialisation() -> None:
    """Of the same spread, but for last layers, which are zero."""
    source = replace(PIXART, width=64, heads=4)
    target = replace(STIV, width=64, heads=4, depth=4)
    state = grow(trained(source), source, Aim(config=target, depth_map=(0, None, 1, None)))
    reference = random_model(target).float()
    reference.init_weights(torch.Generator().manual_seed(0))
    new = ("blocks.1.", "decoder_blocks.", "micro_embed.", "mask_token")
    zero = (".proj.", "mlp.fc2.", ".size.fc2.", ".crop.fc2.", ".stride.fc2.", ".frames.fc2.")
    for name, wanted in reference.state_dict().items():
        if not name.startswith(new) or (wanted.ndim == 1 and name != "mask_token"):
            continue
        if any(part in name for part in zero):
            assert not state[name].any(), name
        else:
            torch.testing.assert_close(state[name].std(), wanted.std(), rtol=0.35, atol=0)


def test_a_seed_determines_what_is_new_block_by_block() -> None:
    target = replace(STIV, temporal_patch=1)
    aims = [Aim(config=target, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (grow(trained(IMAGE), IMAGE, aim) for aim in aims)
    name = "blocks.{}.temporal_attn.qkv.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.allclose(first[name.format(0)], other[name.format(0)])
    assert not torch.allclose(first[name.format(0)], first[name.format(1)])
    state = torch.random.get_rng_state()
    grow(trained(IMAGE), IMAGE, aims[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_two_starts_are_one(tmp_path: Path) -> None:
    """Stopped after any step, written, read and gone on: the same file as in one go."""
    aim = Aim(config=STIV, velocity=True)
    source = {name: tensor.float() for name, tensor in trained(PIXART).items()}
    base = Weights(card(PIXART, sampling=EPSILON), source)
    steps = plan(PIXART, aim)
    text = {"encoder": "custom", "max_tokens": 8, "width": 6, "pooled_width": 5}
    whole = initialised(base, aim, steps, text=text)
    middle = Aim(config=steps[4].after)
    half = initialised(base, middle, plan(PIXART, middle), text=text)
    half.write(tmp_path / "half.safetensors")
    half = Weights.read(tmp_path / "half.safetensors")
    rest = plan(half.card.config, aim)
    assert [*steps[:5], *rest] and [s.name for s in rest] == [s.name for s in steps[5:]]
    gone_on = initialised(half, aim, rest)
    assert all(
        torch.equal(gone_on.diffusion_model[name], whole.diffusion_model[name])
        for name in expected_shapes(STIV)
    )
    done = [entry["step"] for entry in gone_on.card.training["operations"]]
    assert done == [step.name for step in steps]
    assert gone_on.card.training["operations"][5]["parents"] == [half.card.tensor_hash]


# --- the card ------------------------------------------------------------------------------------


def test_card_says_what_was_done_with_which_parents(tmp_path: Path) -> None:
    video = trained(VIDEO, 1)
    aim = Aim(
        config=VIDEO,
        temporal=Temporal(tensors=video, config=VIDEO, tensor_hash="cd" * 32),
        seed=3,
    )
    source = replace(IMAGE, mask_decoder_blocks=0)
    base = Weights(card(source), {name: t.bfloat16() for name, t in trained(source).items()})
    made = initialised(base, aim, plan(source, aim))
    made.write(tmp_path / "made.safetensors")
    found, parts = read_checkpoint(tmp_path / "made.safetensors", verify=True)
    operations = found.training["operations"]
    assert [(o["step"], o["parents"]) for o in operations] == [
        ("temporal patch", ["ab" * 32]), ("temporal attention", []), ("joint start", ["cd" * 32]),
    ]  # fmt: skip
    assert all(o["operation"] == "init" and o["seed"] == 3 for o in operations)
    assert operations[1]["trained"] == ["blocks.*.temporal_attn"]
    assert found.modelspec["title"] == "Start from Tiny"
    assert found.modelspec["license"] == "Apache-2.0" and "resolution" not in found.modelspec
    assert {t.dtype for t in parts["diffusion_model"].values()} == {torch.bfloat16}


def test_tasks_stay_listed_as_long_as_every_step_keeps_them() -> None:
    def tasks(source: STIVConfig, **changes) -> list[str]:
        aim = Aim(config=replace(source, **changes))
        base = Weights(card(source), trained(source))
        return [t["task"] for t in initialised(base, aim, plan(source, aim)).card.tasks]

    assert tasks(STIV, mask_decoder_blocks=2) == ["t2i", "t2v"]
    assert tasks(STIV, temporal_causal=True) == ["t2i"]
    assert tasks(IMAGE, temporal_attention=True, temporal_patch=2) == ["t2i"]
    assert tasks(STIV, space_scale=0.5) == []


def test_other_latents_and_prompts_leave_the_parts_inside_behind() -> None:
    source = replace(STIV, latent_channels=4)
    target = replace(STIV, latent_channels=16, text_width=4096, pooled_width=0)
    aim = Aim(config=target, latents=("sd", "flux"), encoders=("custom", "t5xxl"), velocity=True)
    base = Weights(
        card(source, sampling=EPSILON), trained(source), {"a": torch.ones(1)}, {"b": torch.ones(1)}
    )
    steps = plan(source, aim)
    made = initialised(base, aim, steps, latents=LATENT_SPACES["flux"], text=TEXT_ENCODERS["t5xxl"])
    assert made.card.latents["name"] == "flux" and made.card.text["encoder"] == "t5xxl"
    assert made.card.prediction == "velocity" and made.card.tasks == []
    assert not made.text_encoder and not made.vae
    for name in ("latent space", "text encoder"):
        (step,) = (step for step in steps if step.name == name)
        assert step.trained and step.keeps == "nothing" and not step.changes_tensors
