"""Steps that call themselves exact are, in float64, for any pair of networks."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from stiv.config import STIVConfig
from stiv.convert.initialise import Aim, Step, plan, stages
from stiv.shapes import expected_shapes
from tests.stiv.convert.starts import (
    IMAGE,
    PIXART,
    STDIT,
    STIV,
    inputs_after,
    inputs_for,
    outputs,
    trained,
)


def check_exact_steps(source: STIVConfig, aim: Aim, seed: int = 0) -> list[Step]:
    """Every step of a plan keeps its promise."""
    steps = plan(source, aim)
    states = stages(steps, trained(source, seed))
    before = source
    for step, old, new in zip(steps, states, states[1:], strict=False):
        assert {name: tuple(t.shape) for name, t in new.items()} == expected_shapes(step.after)
        if step.exact:
            inputs = inputs_for(before, step.exact)
            expected = outputs(old, before, inputs)
            got = outputs(new, step.after, inputs_after(step, before, inputs))
            shared = min(before.latent_channels, step.after.latent_channels)
            torch.testing.assert_close(
                got[:, :shared], expected[:, :shared], atol=1e-10, rtol=1e-9, msg=step.line()
            )
        before = step.after
    assert before == aim.config
    return steps


@pytest.mark.parametrize(
    ("source", "changes", "exact"),
    [
        (IMAGE, {"temporal_patch": 2}, "pictures and videos whose frames are all the same"),
        (IMAGE, {"temporal_patch": 4}, "pictures and videos whose frames are all the same"),
        (replace(STIV, temporal_patch=1), {"temporal_patch": 2}, "pictures and videos"),
        (IMAGE, {"temporal_attention": True}, "every input"),
        (IMAGE, {"temporal_attention": True, "temporal_gate": "own"}, "every input"),
        (PIXART, {"temporal_attention": True, "temporal_gate": "spatial"}, "every input"),
        (STIV, {"temporal_gate": "own"}, "every input"),
        (replace(STIV, shared_adaln=False), {"temporal_gate": "own"}, "every input"),
        (STIV, {"temporal_causal": True}, "clips of 2 frames or fewer"),
        (STIV, {"latent_channels": 8}, "the first 4 channels"),
        (replace(STIV, image_cross_attention=True), {"latent_channels": 16}, "the first 4"),
        (STIV, {"latent_channels": 3}, "the first 3 channels where the others are zero"),
        (STIV, {"shared_adaln": False}, "every input"),
        (PIXART, {"shared_adaln": False}, "every input"),
        (STIV, {"mask_decoder_blocks": 3}, "every input"),
        (PIXART, {"mask_decoder_blocks": 2}, "every input"),
        (PIXART, {"micro_conditions": True}, "every input"),
        (replace(PIXART, condition_norm=True), {"micro_conditions": True}, "every input"),
        (PIXART, {"pooled_width": 5}, "every input"),
        (replace(PIXART, condition_norm=True), {"pooled_width": 5}, "every input"),
        (STIV, {"pooled_width": 9}, "inputs without pooled text"),
        (replace(STIV, condition_norm=False), {"pooled_width": 0}, "inputs without pooled text"),
        (PIXART, {"null_text_tokens": 0}, "every prompt"),
        (STIV, {"null_text_tokens": 7}, "every prompt"),
        (STIV, {"image_cross_attention": True}, "inputs without an image"),
        (replace(STIV, image_cross_attention=True), {"image_cross_attention": False}, "inputs w"),
    ],
)  # fmt: skip
def test_one_step_is_exact_as_it_says(source: STIVConfig, changes: dict, exact: str) -> None:
    (step,) = check_exact_steps(source, Aim(config=replace(source, **changes)))
    assert step.exact.startswith(exact)


@pytest.mark.parametrize("source", [STIV, PIXART, STDIT, replace(STIV, shared_adaln=False)])
def test_new_blocks_in_between_change_nothing(source: STIVConfig) -> None:
    blocks = (0, None, 1, None)
    (step,) = check_exact_steps(source, Aim(config=replace(source, depth=4), depth_map=blocks))
    assert step.exact == "every input" and step.trained == ("blocks.1", "blocks.3")


@pytest.mark.parametrize("blocks", [(0, 0, 1), (1, 0), (0,), (None, 1, 0)])
def test_other_orders_are_copies_and_called_inexact(blocks: tuple) -> None:
    aim = Aim(config=replace(STIV, depth=len(blocks)), depth_map=blocks)
    (step,) = plan(STIV, aim)
    old, new = stages([step], trained(STIV))
    assert not step.exact
    for i, source in enumerate(blocks):
        for name in (n for n in new if n.startswith(f"blocks.{i}.") and source is not None):
            assert torch.equal(new[name], old[name.replace(f"blocks.{i}.", f"blocks.{source}.", 1)])


def test_sin_cos_frames_need_the_first_block_first() -> None:
    (step,) = plan(STDIT, Aim(config=replace(STDIT, depth=3), depth_map=(None, 0, 1)))
    assert not step.exact


def test_a_picture_stays_itself_on_the_way_to_video() -> None:
    target = replace(IMAGE, temporal_patch=2, temporal_attention=True, mask_decoder_blocks=2)
    steps = plan(IMAGE, Aim(config=target))
    image, *_, video = stages(steps, trained(IMAGE))
    inputs = inputs_for(IMAGE, "pictures")
    torch.testing.assert_close(
        outputs(video, target, inputs), outputs(image, IMAGE, inputs), atol=1e-10, rtol=1e-9
    )
    assert [step.name for step in steps if not step.exact] == []


# --- any pair ------------------------------------------------------------------------------------

CHOICES: dict[str, list[Any]] = {
    "latent_channels": [3, 4, 8],
    "depth": [2, 3],
    "heads": [2, 4],
    "temporal_patch": [1, 2],
    "text_width": [6, 9],
    "pooled_width": [0, 5, 9],
    "null_text_tokens": [0, 3, 5],
    "qk_norm": [True, False],
    "sandwich_norm": [True, False],
    "condition_norm": [True, False],
    "shared_adaln": [True, False],
    "position": ["rope", "sincos"],
    "micro_conditions": [True, False],
    "temporal_attention": [True, False],
    "temporal_causal": [True, False],
    "temporal_gate": ["none", "own", "spatial"],
    "mask_decoder_blocks": [0, 1, 2],
    "image_cross_attention": [True, False],
    "space_scale": [1.0, 0.5],
    "time_scale": [1.0, 0.5],
    "sincos_base": [0, 4],
}


FORWARD: dict[str, list[Any]] = {
    "latent_channels": [8],
    "text_width": [9],
    "pooled_width": [5],
    "null_text_tokens": [0],
    "qk_norm": [True],
    "sandwich_norm": [True],
    "condition_norm": [True],
    "position": ["rope"],
    "micro_conditions": [True],
    "temporal_attention": [True],
    "temporal_gate": ["own"],
    "mask_decoder_blocks": [2],
    "time_scale": [0.5],
}
"""The paper's direction, in which no step is refused."""


@st.composite
def pairs(draw: st.DrawFn) -> tuple[STIVConfig, STIVConfig]:
    """Any two networks that differ in a few fields, or an ancestor and what it can become."""
    if draw(st.booleans()):
        source, choices = draw(st.sampled_from([PIXART, STDIT, IMAGE])).to_dict(), FORWARD
    else:
        source = {name: draw(st.sampled_from(values)) for name, values in CHOICES.items()}
        source, choices = {"width": 16, **source}, CHOICES
    changed = draw(st.lists(st.sampled_from(list(choices)), min_size=1, max_size=5, unique=True))
    target = source | {name: draw(st.sampled_from(choices[name])) for name in changed}
    for config in (source, target):
        if not config["temporal_attention"]:
            config["temporal_gate"] = "none"  # there is nothing to gate
    return STIVConfig(**source), STIVConfig(**target)


@settings(max_examples=30, deadline=None)
@given(pair=pairs(), seed=st.integers(0, 3))
def test_any_pair_is_reached_or_refused_by_name(pair: tuple, seed: int) -> None:
    source, target = pair
    blocks = None if source.depth == target.depth else (0, 1, None)[: target.depth]
    aim = Aim(config=target, depth_map=blocks, velocity=bool(seed % 2), seed=seed)
    try:
        steps = plan(source, aim)
    except ValueError as error:
        field = str(error).split()[0]
        assert getattr(source, field) != getattr(target, field), error
        assert field in {f.name for f in fields(STIVConfig)}
        event(f"{field} refused")
        return
    event("reached")
    assert bool(steps) == (source != target or aim.velocity)
    check_exact_steps(source, aim, seed)
    result = stages(steps, trained(source))[-1]
    assert torch.isfinite(outputs(result, target, inputs_for(target))).all()
