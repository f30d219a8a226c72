"""Folders of tiny clips whose figures are known, and networks as a user would name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stiv.checkpoint import Card, write_checkpoint
from stiv.config import STIVConfig
from stiv.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer, build_vocabulary
from tests.models import random_model
from tests.training.evaluation.networks import Clips, Pictures, write_script
from tests.training.vaes import make_vae
from training.shapes.captions import held_out_prompts, vocabulary
from training.shapes.render import render_clips
from training.video import write_lossless

COUNT, FRAMES, SIZE = 6, 4, 32


@pytest.fixture(scope="session")
def shapes() -> tuple[np.ndarray, list[str]]:
    """Clips uint8 (6, 4, 32, 32, 3) of the shapes domain, and their captions."""
    prompts, scenes = zip(*held_out_prompts(COUNT), strict=True)
    return render_clips(scenes, FRAMES, SIZE), list(prompts)


def write_folder(folder: Path, clips: np.ndarray, captions: list[str] | None = None) -> Path:
    """`00.mkv`, … exactly as they are, with captions beside them."""
    folder.mkdir(parents=True)
    for index, clip in enumerate(clips):
        write_lossless(folder / f"{index:02d}.mkv", clip, 8)
        if captions:
            (folder / f"{index:02d}.txt").write_text(captions[index], encoding="utf-8")
    return folder


def noisy(clips: np.ndarray, seed: int = 0) -> np.ndarray:
    """The clips with noise of about 12 levels."""
    noise = np.random.default_rng(seed).normal(0, 12, clips.shape)
    return np.clip(clips + noise.round(), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def folders(shapes, tmp_path_factory) -> tuple[Path, Path]:
    """(made, true): captioned clips, with and without noise."""
    base, (clips, captions) = tmp_path_factory.mktemp("folders"), shapes
    return (
        write_folder(base / "made", noisy(clips), captions),
        write_folder(base / "true", clips, captions),
    )


@pytest.fixture(scope="session")
def inception(tmp_path_factory) -> Path:
    return write_script(Pictures(), tmp_path_factory.mktemp("networks") / "inception.pt")


@pytest.fixture(scope="session")
def i3d(tmp_path_factory) -> Path:
    return write_script(Clips(), tmp_path_factory.mktemp("networks") / "i3d.pt")


def write_tiny(path: Path, *, frames: int = FRAMES, side: int = SIZE, **config) -> Path:
    """A checkpoint of random weights with all parts inside, for 32 x 32 pixels."""
    sizes = {"width": 32, "depth": 1, "heads": 2, "text_width": 16, "pooled_width": 16}
    network = random_model(STIVConfig(**{**sizes, "mask_decoder_blocks": 0, **config}), std=0.1)
    tokenizer = Tokenizer(build_vocabulary(vocabulary()), 40)
    sizes = TextEncoderConfig(width=16, depth=1, heads=2, max_tokens=40, vocab_size=len(tokenizer))
    encoder = TextEncoder(sizes)
    encoder.init_weights(torch.Generator().manual_seed(0))
    ranges = {"height": [side] * 2, "width": [side] * 2, "frames": [frames] * 2, "stride": [3, 3]}
    card = Card(
        config=network.config,
        latents={"name": "custom", "channels": 4, "scale": 1.0, "shift": 0.0, "downscale": 8},
        text={
            "encoder": "nano",
            "width": 16,
            "pooled_width": 16,
            "max_tokens": 40,
            "config": sizes.to_dict(),
            "vocab": list(tokenizer.vocab),
        },
        tasks=[{"task": "ti2v", **ranges}],
        modelspec={"title": "Tiny"},
    )
    vae = make_vae().network.export()
    write_checkpoint(path, card, network.state_dict(), encoder.state_dict(), vae)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")
