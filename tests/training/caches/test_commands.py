"""`cache latents` on a real folder of pictures."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from training.caches.commands import encode_clips
from training.caches.latents import samples
from training.config import TrainConfig
from training.data import clips as clip_data


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


def test_samples_of_deleted_clips_are_pruned_on_request(config: TrainConfig, caplog) -> None:
    caplog.set_level(logging.INFO, "training")
    encode_clips(config, workers=1)
    assert cached(config) == {f"set/{name}.png#0" for name in "abc"}
    (config.data.sets[0].path / "b.png").unlink()
    encode_clips(config, workers=1)
    assert len(cached(config)) == 3 and "removed" not in caplog.text
    encode_clips(config, workers=1, part=(0, 2), prune=True)
    assert "1 samples removed" in caplog.text
    assert cached(config) == {"set/a.png#0", "set/c.png#0"}


def test_a_disk_that_is_not_mounted_costs_no_cache(config: TrainConfig) -> None:
    folder = config.data.sets[0].path
    names = [f"{name}.png" for name in "abc"]
    rows = [{"path": name, "caption": name} for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    encode_clips(config, workers=1)
    before = cached(config)
    assert len(before) == 3
    for name in names:
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"none of the set's files is there.*mount their disk"):
        encode_clips(config, workers=1, prune=True)
    assert cached(config) == before


def test_pruning_is_part_0s(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="--prune is with --part 1/2: give it to part 0"):
        encode_clips(config, workers=1, part=(1, 2), prune=True)
    assert not config.data.folder("set").exists()


def test_only_pruning_reads_a_set_twice_and_looks_for_its_files(
    config: TrainConfig, monkeypatch
) -> None:
    """Once for each file, however many clips a list cuts from it."""
    folder = config.data.sets[0].path
    rows = [{"path": "a.png", "caption": f"{i}", "start": i, "end": i + 1} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read, looked = [], []
    sources, exists = clip_data.sources, Path.exists

    def counted(*words, **options):
        read.append(words)
        return sources(*words, **options)

    def looked_for(path: Path, **options) -> bool:
        looked.append(path.name)
        return exists(path, **options)

    monkeypatch.setattr(clip_data, "sources", counted)
    monkeypatch.setattr(Path, "exists", looked_for)
    encode_clips(config, workers=1)
    assert len(read) == 1 and "a.png" not in looked
    encode_clips(config, workers=1, prune=True)
    assert len(read) == 3 and looked.count("a.png") == 1
    assert len(cached(config)) == 1
