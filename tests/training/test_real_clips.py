"""From real clips to a checkpoint: cache, image model, video model, STIV, export, sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from scripts.prepare import ROOT
from stiv.checkpoint import read_checkpoint

NANO = ROOT / "models" / "stiv_nano.safetensors"


def command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "training", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr + done.stdout


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for line in lines if "loss" in (entry := json.loads(line))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real clips with their prompts."""
    pytest.importorskip("comfyui_workflow_templates")
    folder = tmp_path_factory.mktemp("real")
    subprocess.run(
        [sys.executable, "-m", "scripts.real_clips", "--out", folder / "clips", "--count", "4"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def recipe(folder: Path, name: str, **changes) -> Path:
    sizes = {"width": 96, "depth": 2, "heads": 3, "text_width": 32, "pooled_width": 32}
    values = {
        "name": name,
        "steps": 60,
        "run": str(folder / "runs" / name),
        "vae": str(NANO),
        "model": {"size": "nano", "changes": sizes},
        "text": {"width": 32, "depth": 1, "heads": 2, "max_tokens": 64, "dropout": 0.0},
        "data": {
            "sets": [{"path": str(folder / "clips"), "sizes": [[64, 64]], "frames": [8]}],
            "latents": str(folder / "latents"),
            "streams": [{"batch": 8}],
            "tasks": {"t2v": 1.0},
            "image_dropout": 0.0,
        },
        "optimizer": {"lr": 2e-3, "warmup": 10, "cooldown": 0.3, "ema": 0.9},
        "watch": {"log_every": 1},
        **changes,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_from_clips_to_a_stiv_checkpoint(folder: Path) -> None:
    """The paper's stages, each from the one before; the last overfits the four clips."""
    image = recipe(
        folder,
        "t2i",
        model={
            "size": "nano",
            "changes": {
                "width": 96, "depth": 2, "heads": 3, "text_width": 32, "pooled_width": 32,
                "temporal_attention": False, "temporal_patch": 1,
            },
        },
    )  # fmt: skip
    values = yaml.safe_load(image.read_text())
    values["data"]["streams"] = [{"batch": 16, "still": True}]
    image.write_text(yaml.safe_dump(values))
    said = command("cache", "latents", "--config", image)
    assert "4 clips from 4 entries" in said
    assert "4 more were there already" in command("cache", "latents", "--config", image)
    stages = {"t2i": image}
    for name, before in (("t2v", "t2i"), ("stiv", "t2v")):
        init = {"weights": str(folder / f"{before}.safetensors")}
        stages[name] = recipe(folder, name, init=init, steps=60 if name == "t2v" else 700)
    values = yaml.safe_load(stages["stiv"].read_text())
    values["data"]["tasks"] = {"t2v": 0.5, "ti2v": 0.5}
    stages["stiv"].write_text(yaml.safe_dump(values))
    hashes = {}
    for name, file in stages.items():
        command("train", "--config", file)
        out = folder / f"{name}.safetensors"
        command("export", "--config", file, "--out", out)
        card, _ = read_checkpoint(out, verify=True)
        hashes[name] = card.tensor_hash
        assert card.training["steps"] == (700 if name == "stiv" else 60)
        assert card.latents["name"] == "custom"
    assert card.training["parents"] == [hashes["t2v"]]
    assert {task["task"] for task in card.tasks} == {"t2v", "ti2v"}
    found = losses(folder / "runs" / "t2i")
    assert np.mean(found[-10:]) < 0.75 * np.mean(found[:5])
    found = losses(folder / "runs" / "stiv")
    print("stiv loss", np.mean(found[:5]), np.mean(found[-20:]))


def test_samples_reconstruct_what_was_overfitted(folder: Path) -> None:
    import torch

    from training.data.loader import CacheDataset
    from training.sampling import Sampler

    sampler = Sampler.from_checkpoint(
        folder / "stiv.safetensors", vae=NANO, steps=20, guidance_scale=1.0
    )
    data = CacheDataset(folder / "latents")
    (bucket,) = data.buckets
    samples = [data.load(bucket, i) for i in range(4)]
    clean = torch.stack([s.latents for s in samples])
    mask = torch.zeros(4, clean.shape[2], dtype=torch.bool)
    mask[:, 0] = True
    made = sampler.latents([s.captions[0] for s in samples], clean, mask, seed=1)
    assert torch.equal(made[:, :, 0], clean[:, :, 0])
    error = (made - clean)[:, :, 1:].square().mean()
    still = (clean[:, :, :1] - clean)[:, :, 1:].square().mean()
    frames, truth = sampler.codec.decode(made), sampler.codec.decode(clean)
    psnr = 10 * np.log10(255**2 / np.mean((frames.astype(float) - truth) ** 2))
    print("PSNR", psnr, "latent error", float(error), "still", float(still))
    assert psnr > 20
