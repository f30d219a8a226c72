"""The loop on real latents of a small random VAE: resume, learning, export, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from scripts.prepare import ROOT
from stiv.checkpoint import read_checkpoint
from training.cache import encode_clips, write_stats
from training.config import TrainConfig, load_config
from training.export import export
from training.loop import Trainer
from training.sampling import Sampler
from training.vae import TinyVAE


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    torch.manual_seed(0)
    return TinyVAE(8, blocks=1).eval()


@pytest.fixture(scope="module")
def latents(vae: TinyVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    write_stats(folder, encode_clips(vae, folder, "train", 12, frames=4, size=32))
    return folder


@pytest.fixture
def config(latents: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "seed": 3,
            "steps": 6,
            "state": tmp_path / "run",
            "save_every": 100,
            "log_every": 2,
            "model": {
                "size": "nano",
                "changes": {
                    "width": 48,
                    "depth": 1,
                    "heads": 3,
                    "text_width": 16,
                    "pooled_width": 16,
                },
            },
            "text": {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2},
            "data": {
                "latents": latents,
                "batch": 3,
                "image_batch": 4,
                "image_steps": 0.3,
                "tasks": {"t2v": 0.5, "ti2v": 0.5},
            },
            "optimizer": {"lr": 1e-3, "warmup": 2, "cooldown": 0.5},
        }
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_continues_bit_for_bit(config: TrainConfig, tmp_path: Path, precision) -> None:
    def finish(state: str, *stops: int) -> dict[str, torch.Tensor]:
        run = config.model_copy(update={"state": tmp_path / state, "precision": precision})
        for stop in (*stops, run.steps):
            trainer = Trainer(run)
            trainer.start()
            trainer.run(stop)
        return {**trainer.master, **{f"ema.{k}": v for k, v in trainer.ema.tensors.items()}}

    whole, parts = finish("whole"), finish("parts", 2, 5)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_loss_falls_and_given_frames_do_not_count(config: TrainConfig) -> None:
    trainer = Trainer(config.model_copy(update={"steps": 60}))
    trainer.start()
    losses = torch.stack([trainer.train_step() for _ in range(60)])
    assert losses[-15:].mean() < 0.8 * losses[:15].mean()


def test_learning_rate_rises_holds_and_falls(config: TrainConfig) -> None:
    trainer = Trainer(config)
    rates = [trainer.learning_rate(step) / 1e-3 for step in range(6)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 2 / 3, 1 / 3])


def test_export_is_the_average_in_a_file_the_sampler_opens(
    config: TrainConfig, vae: TinyVAE, tmp_path: Path
) -> None:
    trainer = Trainer(config)
    trainer.start()
    trainer.run()
    path = tmp_path / "tiny.safetensors"
    card = export(trainer, vae, path)
    _, parts = read_checkpoint(path, verify=True)
    name = "blocks.0.mlp.fc1.weight"
    averaged = trainer.ema.tensors[f"diffusion_model.{name}"]
    assert torch.equal(parts["diffusion_model"][name], averaged.half())
    assert [task["task"] for task in card.tasks] == ["t2i", "t2v", "ti2v"]
    assert (card.training["steps"], card.training["dataset"]) == (6, "shapes")

    sampler = Sampler.from_checkpoint(path, steps=3)
    assert sampler.shape == (4, 4, 4, 4)
    clean = torch.randn(2, 4, 4, 4, 4)
    mask = torch.tensor([[True, False, False, False]] * 2)
    made = sampler.latents(["a red circle", "a square"], clean, mask)
    assert torch.equal(made[:, :, 0], clean[:, :, 0])
    assert torch.equal(made, sampler.latents(["a red circle", "a square"], clean, mask))
    assert sampler.clips(["a red circle"], None, None, 0).shape == (1, 4, 32, 32, 3)


def test_the_state_of_other_networks_is_refused(config: TrainConfig) -> None:
    first = Trainer(config)
    first.save()
    config.model.changes["depth"] = 2
    with pytest.raises(ValueError, match=r"state\.safetensors holds the state of other networks"):
        Trainer(config).start()


def test_a_run_starts_from_a_checkpoint(config: TrainConfig, vae: TinyVAE, tmp_path: Path) -> None:
    first = Trainer(config)
    first.start()
    first.run(2)
    path = tmp_path / "parent.safetensors"
    parent = export(first, vae, path)
    child = Trainer(config.model_copy(update={"init": path, "state": tmp_path / "child"}))
    child.start()
    assert child.step == 0
    assert all(
        torch.equal(child.master[n], first.ema.tensors[n].half().float()) for n in child.master
    )
    child.run(1)
    resumed = Trainer(child.config)
    resumed.start()
    card = export(resumed, vae, tmp_path / "child.safetensors")
    assert card.training["parents"] == [parent.tensor_hash]

    other = config.model_copy(deep=True, update={"init": path, "state": tmp_path / "other"})
    other.model.changes["depth"] = 2
    with pytest.raises(ValueError, match=r"parent\.safetensors: .* other sizes"):
        Trainer(other).start()


def test_the_command_trains_and_continues(config: TrainConfig, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    command = [sys.executable, "-m", "training", "train", "--config", str(recipe)]
    for until, words in ((2, "step 1 of 2"), (4, "resumed at step 2")):
        done = subprocess.run(
            [*command, "--until", str(until)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimiser.lr=1", "optimiser"),
        ("data.tasks={t2v: 0.5}", "sum to 0.5"),
        ("data.tasks={t2v: 0.5, inpaint: 0.5}", "inpaint"),
        ("steps=0", "steps"),
        ("model.size=huge", "huge"),
        ("steps", "key=value"),
    ],
)
def test_a_bad_recipe_ends_before_any_work(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_config(ROOT / "training" / "recipes" / "nano.yaml", [override])


def test_missing_latents_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "training", "train"),
            *("--config", "training/recipes/nano.yaml"),
            *("--set", f"data.latents={tmp_path}", "--set", f"state={tmp_path}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert str(tmp_path) in done.stderr
