"""`cache latents` on a real folder of pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from training.caches.commands import encode_clips
from training.caches.latents import samples
from training.config import TrainConfig


@pytest.fixture
def config(tiny, tiny_vae, tmp_path: Path) -> TrainConfig:
    """Three pictures with captions, of a set that has a name."""
    save_file(tiny_vae.export(), tmp_path / "vae.safetensors")
    clips = tmp_path / "clips"
    clips.mkdir()
    for index, name in enumerate("abc"):
        pixels = np.full((32, 32, 3), 50 * index, np.uint8)
        Image.fromarray(pixels).save(clips / f"{name}.png")
        (clips / f"{name}.txt").write_text(f"picture {name}")
    sets = [{"name": "set", "path": str(clips), "sizes": [[32, 32]], "frames": [1]}]
    data = {"latents": str(tmp_path / "latents"), "sets": sets, "streams": [{"set": "set"}]}
    return tiny(vae=str(tmp_path / "vae.safetensors"), data=data)


def cached(config: TrainConfig) -> set[str]:
    return {sample["key"] for sample in samples(config.data.folder("set"))}


def test_samples_of_deleted_clips_are_told_and_pruned(config: TrainConfig, caplog) -> None:
    caplog.set_level(logging.INFO, "training")
    encode_clips(config, workers=1)
    assert cached(config) == {f"set/{name}.png#0" for name in "abc"}
    assert "--prune" not in caplog.text
    (config.data.sets[0].path / "b.png").unlink()
    encode_clips(config, workers=1)
    assert "1 samples are of clips that" in caplog.text and "--prune removes them" in caplog.text
    assert len(cached(config)) == 3
    encode_clips(config, workers=1, prune=True)
    assert "1 samples removed" in caplog.text
    assert cached(config) == {"set/a.png#0", "set/c.png#0"}
