"""From real clips to a checkpoint that the real server renders: the whole of training/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml

from scripts.host import ComfyServer
from scripts.prepare import ROOT
from stiv.checkpoint import read_checkpoint
from tests.commands import Command

NANO = ROOT / "models" / "stiv_nano.safetensors"
SIZES = {"width": 96, "depth": 2, "heads": 3, "text_width": 32, "pooled_width": 32}
IMAGE = {**SIZES, "temporal_attention": False, "temporal_patch": 1}


def command(folder: Path, module: str, *words: object) -> str:
    done = Command(module, *words, folder=folder / "output")
    assert done.wait(seconds=3600) == 0, done.stderr[-3000:]
    return done.stderr + done.stdout


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for line in lines if "loss" in (entry := json.loads(line))]


def recipe(folder: Path, name: str, steps: int, **changes: Any) -> Path:
    """A stage's YAML; `changes` replace keys of `data`, `init` and the model's sizes."""
    values = {
        "name": name,
        "steps": steps,
        "run": str(folder / name),
        "vae": str(NANO),
        "model": {"size": "nano", "changes": changes.get("model", SIZES)},
        "text": {"width": 32, "depth": 1, "heads": 2, "max_tokens": 64, "dropout": 0.0},
        "data": {
            "sets": [{"path": str(folder / "clips"), "sizes": [[64, 64]], "frames": [8]}],
            "latents": str(folder / "latents"),
            "streams": [changes.get("stream", {"batch": 8})],
            "tasks": changes.get("tasks", {"t2v": 1.0}),
            "image_dropout": 0.0,
        },
        "optimizer": {"lr": 2e-3, "warmup": 10, "cooldown": 0.3, "ema": 0.9},
        "watch": {"log_every": 1},
    }
    if "init" in changes:
        values["init"] = {"weights": str(changes["init"])}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real clips with their prompts, cached."""
    pytest.importorskip("comfyui_workflow_templates")
    folder = tmp_path_factory.mktemp("real")
    command(folder, "scripts.real_clips", "--out", folder / "clips", "--count", 4)
    caching = (folder, "training", "cache", "latents", "--config", recipe(folder, "t2i", 40))
    assert "4 clips from 4 entries" in command(*caching)
    assert "4 more were there already" in command(*caching)
    return folder


def stage(folder: Path, name: str, steps: int, **changes: Any) -> str:
    """Train and export a stage; returns the checkpoint's tensor hash."""
    file = recipe(folder, name, steps, **changes)
    command(folder, "training", "train", "--config", file)
    out = folder / f"{name}.safetensors"
    command(folder, "training", "export", "--config", file, "--out", out, "--vae", NANO)
    card, _ = read_checkpoint(out, verify=True)
    assert card.training["steps"] == steps
    return card.tensor_hash


def test_the_papers_stages_end_in_a_video_of_the_real_server(
    folder: Path, server: ComfyServer
) -> None:
    stage(folder, "t2i", 60, model=IMAGE, stream={"batch": 16, "still": True})
    parent = stage(folder, "t2v", 20, init=folder / "t2i.safetensors")
    tasks = {"t2v": 0.5, "ti2v": 0.5}
    stage(folder, "stiv", 40, init=folder / "t2v.safetensors", tasks=tasks)
    found = losses(folder / "t2i")
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:5])
    started, ended = losses(folder / "t2v"), losses(folder / "stiv")
    assert np.mean(ended[-10:]) < 0.9 * np.mean(started[:5])
    card, _ = read_checkpoint(folder / "stiv.safetensors")
    assert card.training["parents"] == [parent]
    assert [task["task"] for task in card.tasks] == ["t2v", "ti2v"]

    checkpoints = server.base / "models" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "stiv.safetensors", checkpoints / "trained.safetensors")
    workflow = json.loads((ROOT / "workflows" / "text_to_video.json").read_text(encoding="utf-8"))
    prompt = server.to_prompt(workflow)
    for node in prompt.values():
        if node["class_type"] == "STIVLoadCheckpoint":
            node["inputs"]["ckpt_name"] = "trained.safetensors"
        if node["class_type"] == "STIVEmptyLatent":
            node["inputs"].update(width=64, height=64, frames=8)
    run = server.run(prompt)
    (saved,) = (file for file in run.files if server.output_dir in file.parents)
    with av.open(str(saved)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8


@pytest.mark.slow
def test_four_clips_are_learned_by_heart(folder: Path) -> None:
    """A picture of the clip's first frame brings back the clip."""
    import torch

    from training.data.loader import CacheDataset
    from training.sampling import Sampler

    wide = {**SIZES, "width": 192, "depth": 4}
    stage(folder, "heart", 2500, model=wide, stream={"batch": 4}, tasks={"ti2v": 1.0})
    sampler = Sampler.from_checkpoint(
        folder / "heart.safetensors", dtype=torch.float32, guidance_scale=1.0
    )
    data = CacheDataset(folder / "latents")
    (bucket,) = data.buckets
    samples = [data.load(bucket, i) for i in range(4)]
    clean = torch.stack([torch.from_numpy(sample.latents) for sample in samples])
    mask = torch.zeros(4, clean.shape[2], dtype=torch.bool)
    mask[:, 0] = True
    made = sampler.latents([s.captions[0] for s in samples], clean, mask, seed=1)
    still = clean[:, :, :1].expand_as(clean).contiguous()
    truth = sampler.codec.decode(clean).astype(float)[:, 1:]

    def psnr(latents: torch.Tensor) -> float:
        error = sampler.codec.decode(latents)[:, 1:] - truth
        return float(10 * np.log10(255**2 / np.square(error).mean()))

    print(f"PSNR {psnr(made):.2f} dB, of the first frame repeated {psnr(still):.2f} dB")
    assert psnr(made) > psnr(still) + 3
