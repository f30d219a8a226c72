"""Runs that start from checkpoints of other networks: the steps, what they say, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stiv.card import Card
from stiv.checkpoint import read_card, write_checkpoint
from stiv.config import STIVConfig
from stiv.public import EPSILON, LATENT_SPACES
from tests.models import random_model
from training.checks.files import init
from training.export import export
from training.loop import Trainer
from training.outlook import plan
from training.start import build_networks, cached_latents, start_steps

ANCESTOR = {
    "temporal_patch": 1,
    "temporal_attention": False,
    "pooled_width": 0,
    "qk_norm": False,
    "sandwich_norm": False,
    "condition_norm": False,
    "micro_conditions": False,
    "position": "sincos",
}
"""What PixArt-alpha has not."""
NEW_TEXT = {"text_encoder": False}


def parent(path: Path, config: STIVConfig, **card) -> Path:
    widths = {"width": config.text_width, "pooled_width": config.pooled_width}
    text = {"encoder": "custom", "max_tokens": 40, **widths}
    values = {"config": config, "latents": LATENT_SPACES["sd"], "text": text, **card}
    write_checkpoint(path, Card(**values), random_model(config, std=0.05).state_dict())
    return path


def test_a_run_starts_from_an_imported_ancestor(tiny, tmp_path: Path) -> None:
    path = tmp_path / "ancestor.safetensors"
    config = tiny(init={"weights": str(path), **NEW_TEXT})
    ancestor = replace(config.model.build(), **ANCESTOR)
    parent(path, ancestor, sampling=EPSILON)
    source = random_model(ancestor, std=0.05).state_dict()
    names = [step.name for step in start_steps(config)]
    assert {"rotary positions", "QK norm", "temporal attention", "velocity"} <= set(names)
    networks, origin = build_networks(config)
    state = networks["diffusion_model"].state_dict()
    bias = source["final.linear.bias"]
    assert torch.equal(state["final.linear.bias"], -torch.cat([bias, bias]))
    assert torch.equal(state["blocks.0.mlp.fc1.weight"], source["blocks.0.mlp.fc1.weight"])
    assert origin.parents == [read_card(path).tensor_hash]
    trainer = Trainer(config)
    trainer.start()
    trainer.run(2)
    assert trainer.progress.step == 2
    trainer.save()
    card = export(config, tmp_path / "exported.safetensors")
    done = card.training["operations"]
    assert [entry["step"] for entry in done] == ["latent space", *names]
    assert done[0]["parents"] == origin.parents


def test_plan_and_doctor_list_the_steps(tiny, tmp_path: Path) -> None:
    path = tmp_path / "image.safetensors"
    config = tiny(init={"weights": str(path), **NEW_TEXT})
    assert "temporal attention" not in plan(config)  # not there yet: nothing can be said
    image = {"temporal_attention": False, "temporal_patch": 1}
    parent(path, replace(config.model.build(), **image))
    steps = start_steps(config)
    assert [step.name for step in steps] == ["text encoder", "temporal patch", "temporal attention"]
    assert all(step.line() in plan(config) for step in steps)
    found = [finding.text for finding in init(config) if finding.level == "ok"]
    assert [line for line in found[1:] if "latent" not in line] == [step.line() for step in steps]


def test_a_parent_of_other_latents_is_named(tiny, tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    config = tiny(init={"weights": str(path), **NEW_TEXT})
    parent(path, config.model.build())
    own = cached_latents(config)
    (step, _) = start_steps(config, own)
    assert step.name == "latent space" and f"latents of sd become those of {own}" in plan(config)
    warned = [finding.text for finding in init(config) if finding.level == "warn"]
    assert any(f"latents of sd, this run's are of {own}" in text for text in warned)
    parent(path, config.model.build(), latents={**LATENT_SPACES["sd"], "name": own})
    assert [step.name for step in start_steps(config, own)] == ["text encoder"]


def test_depth_map_of_a_recipe(tiny, tmp_path: Path) -> None:
    path = tmp_path / "shallow.safetensors"
    changes = {"model.changes.depth": 3}
    start = {"weights": str(path), **NEW_TEXT}
    config = tiny(init={**start, "depth_map": [0, "new", 0]}, **changes)
    parent(path, replace(config.model.build(), depth=1))
    networks, _ = build_networks(config)
    blocks = networks["diffusion_model"].blocks
    assert torch.equal(blocks[2].mlp.fc2.weight, blocks[0].mlp.fc2.weight)
    assert not blocks[1].mlp.fc2.weight.any() and blocks[1].mlp.fc1.weight.any()
    with pytest.raises(ValueError, match="depth 1 cannot become 3: say which block"):
        build_networks(tiny(init=start, **changes))
    with pytest.raises(ValueError, match=r"init\.depth_map names 2 blocks: the model has 3"):
        tiny(init={**start, "depth_map": [0, "new"]}, **changes)
    with pytest.raises(ValueError, match=r"init\.depth_map"):
        tiny(init={**start, "depth_map": [0, "copy", 0]}, **changes)


def test_a_lora_goes_on_with_the_base_that_it_began_with(tiny, tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"

    def base(steps: int) -> str:
        trainer = Trainer(tiny(run=str(tmp_path / str(steps)), seed=steps))
        trainer.start()
        trainer.run(steps)
        return export(trainer.config, path).tensor_hash

    first = base(1)
    config = tiny(init={"weights": str(path)}, lora={"rank": 2})
    for until in (1, 2):
        lora = Trainer(config)
        lora.start()
        lora.run(until)
    second = base(2)
    said = rf"step-00000002 .* base {first[:16]}, but init.weights {path} is {second[:16]}"
    with pytest.raises(ValueError, match=said):
        Trainer(config).start()
    changed = Trainer(config, allow_changes=True)
    changed.start()
    assert changed.progress.parents == [second] and changed.progress.step == 2


def test_a_lora_is_trained_on_the_model_as_it_is(tiny, tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    config = tiny(init={"weights": str(path)}, lora={"rank": 2})
    parent(path, replace(config.model.build(), mask_decoder_blocks=0, condition_norm=False))
    with pytest.raises(ValueError, match=r"a LoRA is trained on .* \(condition norm\)"):
        start_steps(config)
    parent(path, replace(config.model.build(), space_scale=0.5))  # positions alone: no weight
    assert [step.name for step in start_steps(config)] == ["text encoder", "positions"]
