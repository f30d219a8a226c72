"""Slowed clips: gaps between key frames as latents, key frames as clips with a stride."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.conftest import changed
from tests.training.vaes import make_vae
from training.batches import make_batch
from training.codec import SpaceCodec
from training.config import parse_config
from training.data.loader import Loader
from training.data.plan import Plan
from training.doctor import doctor
from training.export import export
from training.loop import Trainer
from training.shapes.cache import encode_clips, write_stats
from training.shapes.captions import caption
from training.shapes.dataset import ShapesDataset
from training.shapes.render import render_clip, render_times
from training.shapes.scene import scene_from_seed
from training.shapes.slow import STRIDE, STRIDES, Gaps, KeyFrames, gap
from training.streams import open_streams

STREAMS = [
    {"batch": 4, "weight": 0.4},
    {"batch": 2, "weight": 0.3, "set": "keys", "tasks": {"keyframes": 1.0}},
    {"batch": 2, "weight": 0.3, "set": "gaps", "tasks": {"first_last": 1.0}},
]


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips and gaps of one VAE, 32 pixels square."""
    folder = tmp_path_factory.mktemp("latents")
    write_stats(folder, encode_clips(make_vae(), folder, "train", 8, frames=4, size=32))
    Gaps.encode(make_vae(), folder, "train", 5, size=32, low_precision=False)
    return folder


@pytest.fixture
def config(recipe: dict, latents: Path):
    return parse_config(changed(recipe, {"data.latents": latents, "data.streams": STREAMS}))


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_a_gap_lies_between_two_neighbouring_frames_of_its_clip(seed: int) -> None:
    scene, times = gap(seed, "train")
    assert scene == scene_from_seed(seed, "train") and len(times) == STRIDE + 1
    assert np.allclose(np.diff(times), 1 / STRIDE**2)
    number = round(times[0] * STRIDE)
    clip = render_clip(scene, STRIDE + 1, 32)
    assert np.array_equal(render_times(scene, times, 32)[[0, -1]], clip[[number, number + 1]])


def test_samples_are_gaps_in_the_clips_latent_space(latents: Path) -> None:
    data = Gaps(latents / "gaps")
    assert data.latents == ShapesDataset(latents).latents
    assert data.buckets == {"16x4x4": 5}
    codec = SpaceCodec(make_vae(), data.latents)
    for index in (0, 4):
        sample = data.load("16x4x4", index)
        frames = render_times(*gap(index, "train"), 32)
        encoded = codec.encode(frames[None])[0]
        assert torch.allclose(encoded, torch.from_numpy(sample.latents), atol=0.02)
        scene = scene_from_seed(index, "train")
        assert sample.captions[0] == caption(scene, np.random.default_rng([index, 13]))
        assert sample.micro.tolist() == [32, 32, 0, 0, 1, 16]


def test_key_frames_are_the_clips_with_a_stride(latents: Path) -> None:
    keys, clips = KeyFrames(latents), ShapesDataset(latents)
    found = set()
    for index in range(8):
        key, clip = keys.load("4x4x4", index), clips.load("4x4x4", index)
        assert np.array_equal(key.latents, clip.latents) and key.captions == clip.captions
        assert key.micro[4] == keys.load("4x4x4", index).micro[4]
        assert np.array_equal(np.delete(key.micro, 4), np.delete(clip.micro, 4))
        found.add(int(key.micro[4]))
    assert len(found) > 2 and found <= set(range(STRIDES[0], STRIDES[1] + 1))


def test_batches_carry_stride_and_task(config) -> None:
    streams = open_streams(config)
    assert streams.facts["dataset"] == "shapes, keys, gaps"
    seen = set()
    with Loader(Plan(streams.specs, config.seed, 40), config.seed) as loader:
        for raw in loader:
            batch = make_batch(raw, config, config.model.build())
            if raw.bucket == "16x4x4":
                assert not batch.frame_mask[:, 1:-1].any()
                assert (batch.micro[:, 4] == 1).all()
                seen.add("gaps")
            elif (batch.micro[:, 4] > 1).all():
                seen.add("keys")
            else:
                assert (batch.micro[:, 4] == 1).all()
                seen.add("clips")
    assert seen == {"gaps", "keys", "clips"}


def test_the_card_names_the_strides(config, tmp_path: Path) -> None:
    trainer = Trainer(config)
    trainer.start()
    trainer.run()
    card = export(config, tmp_path / "slow.safetensors")
    strides = {task["task"]: task["stride"] for task in card.tasks}
    assert strides["keyframes"] == list(STRIDES)
    assert strides["first_last"] == [1, 1]


def test_missing_gaps_are_named(recipe: dict, latents: Path, tmp_path: Path) -> None:
    write_stats(tmp_path, encode_clips(make_vae(), tmp_path, "train", 2, frames=4, size=32))
    config = parse_config(changed(recipe, {"data.latents": tmp_path, "data.streams": STREAMS}))
    with pytest.raises(ValueError, match="gaps"):
        open_streams(config)
    findings = [str(finding) for finding in doctor(config, dry_step=False)]
    assert any("gaps: " in f and "python -m training.shapes.slow" in f for f in findings)
