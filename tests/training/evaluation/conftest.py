"""Folders of tiny clips whose figures are known, and networks as a user would name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.evaluation.networks import Clips, Pictures, write_script
from training.shapes.captions import held_out_prompts
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
