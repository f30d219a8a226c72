"""Caches of the drawn sets stay what they were: the same files, and the same samples from them.

The numbers were taken before the sets had a common class. A change of them makes every cache that
people have worthless: then DOMAIN_VERSION has to rise too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.training.vaes import make_vae
from training.shapes.cache import encode_clips
from training.shapes.dataset import ShapesDataset
from training.shapes.slow import Gaps, KeyFrames
from training.solids.dataset import SolidsDataset

CLIPS = '{"vae": "%s", "domain": 1, "frames": 16, "size": 64}'
GAPS = '{"vae": "%s", "domain": 1, "size": 64, "stride": 15}'
RIG = "30,30; -20,90; 30,150; -20,210; 30,270; -20,330"
SOLIDS = '{"vae": "%s", "domain": 2, "size": 64, "rig": "' + RIG + '"}'
VAE = "c" * 64


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up latents of six seeds each, as they would have been stored."""
    folder = tmp_path_factory.mktemp("latents")
    for name, frames, provenance in (("", 16, CLIPS), ("gaps", 16, GAPS), ("solids", 7, SOLIDS)):
        (folder / name).mkdir(exist_ok=True)
        for first, count in ((0, 4), (4, 2)):
            numbers = torch.arange(count * 4 * frames * 4) * 37 + first
            values = (numbers % 101 - 50).reshape(count, 4, frames, 2, 2) / 32
            save_file(
                {"latents": values.half(), "seeds": torch.arange(first, first + count)},
                folder / name / f"train-{first:06d}.safetensors",
                {"split": "train", "clips": str(count), "provenance": provenance % VAE},
            )
    stats = {"mean": [0.25, -0.5, 0.0, 1.0], "std": [0.5, 2.0, 1.0, 4.0]}
    text = json.dumps({**stats, "provenance": json.loads(CLIPS % VAE)})
    (folder / "stats.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("kind", "inside", "options", "digest", "samples"),
    [
        (ShapesDataset, "", {}, "5e45df0f122460a3", "c8e27209b365c19e"),
        (ShapesDataset, "", {"reverse": True}, "5e45df0f122460a3", "5bd720b8f44efa74"),
        (ShapesDataset, "", {"still": True}, "5e45df0f122460a3", "c45c5e93b74fc2c6"),
        (KeyFrames, "", {"reverse": True}, "5e45df0f122460a3", "43e6688163bd0337"),
        (Gaps, "gaps", {}, "5e45df0f122460a3", "0d56733e7c2b83e7"),
        (SolidsDataset, "solids", {}, "ff334cb473c44fdf", "f88cbdcf7acb109f"),
    ],
)
def test_samples(latents: Path, kind, inside: str, options: dict, digest: str, samples: str):
    data = kind(latents / inside, **options)
    ((bucket, count),) = data.buckets.items()
    assert bucket == ("7x2x2" if inside == "solids" else "16x2x2")
    assert count == (11 if options.get("reverse") else 6)
    found = hashlib.sha256()
    for index in range(count):
        sample = data.load(bucket, index)
        assert sample.latents.dtype == sample.micro.dtype == "float32"
        found.update(sample.latents.tobytes())
        found.update(repr((sample.captions, sample.micro.tolist(), sample.key)).encode())
    assert (data.digest()[:16], found.hexdigest()[:16]) == (digest, samples)
    text = {"gaps": GAPS, "solids": SOLIDS}.get(inside, CLIPS)
    assert json.dumps(data.provenance) == text % VAE
    assert data.latents == {
        "name": "custom", "channels": 4, "downscale": 8,
        "scale": [2.0, 0.5, 1.0, 0.25], "shift": [0.25, -0.5, 0.0, 1.0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("encode", "inside", "provenance"),
    [
        (encode_clips, "", CLIPS),
        (Gaps.encode, "gaps", GAPS),
        (SolidsDataset.encode, "solids", SOLIDS),
    ],
)
def test_files(tmp_path: Path, encode, inside: str, provenance: str) -> None:
    vae = make_vae()
    paths = encode(vae, tmp_path, "held_out", 3, shard=2)
    names = ("held_out-000000.safetensors", "held_out-000002.safetensors")
    assert paths == [tmp_path / inside / name for name in names]
    with safe_open(paths[1], "pt") as file:
        assert file.metadata() == {
            "split": "held_out", "clips": "1", "provenance": provenance % vae.hash,
        }  # fmt: skip
        assert set(file.keys()) == {"latents", "seeds"}
        assert file.get_tensor("seeds").tolist() == [2]
        assert file.get_tensor("latents").dtype == torch.float16
