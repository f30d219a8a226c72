"""Clips of the shapes domain as VAE latents on disk, in shards, and the shards of all drawn sets.

A shard is a safetensors file with `latents` (n, C, T, H, W) float16, as the VAE gives them, and
`seeds` (n,) int64; scenes and captions are regenerated from the seeds. Its metadata says what it
was made with, and a shard made with anything else is made again. `stats.json` holds each latent
channel's mean and deviation over the training clips.

Legend: n clips, C channels, T frames, H, W latent height and width.

    python -m training.shapes.cache --vae vae.safetensors --out latents --train 10000 --held-out 256
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..encoders.vae import FrameVAE, open_vae
from ..files import atomic
from . import DOMAIN_VERSION
from .render import render_clips
from .scene import scene_from_seed

log = logging.getLogger("training.shapes.cache")

_STATS = "stats.json"
_CHUNK = 8  # clips that are drawn at once


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the clips of a cache were made with; part of every shard's metadata."""

    vae: str  # `encoder_hash`: latents stay valid when only the decoder is trained further
    domain: int = DOMAIN_VERSION
    frames: int = 16
    size: int = 64


def encode_clips(
    vae: FrameVAE,
    out: Path,
    split: str,
    count: int,
    *,
    frames: int = 16,
    size: int = 64,
    shard: int = 500,
    low_precision: bool = True,
) -> list[Path]:
    """Renders and encodes the clips of seeds 0 … count - 1 of a split; returns the shards' paths.

    Shards that are there and were made the same way are kept, so a stopped run is taken up where
    it ended and a larger `count` adds to a cache. With `low_precision` the VAE runs in bfloat16
    autocast.
    """

    def render(seeds: Sequence[int]) -> np.ndarray:
        return render_clips([scene_from_seed(seed, split) for seed in seeds], frames, size)

    provenance = asdict(Provenance(vae=vae.hash, frames=frames, size=size))
    return encode_shards(
        vae, out, split, count, render, provenance, shard=shard, low_precision=low_precision
    )


def encode_shards(
    vae: FrameVAE,
    out: Path,
    split: str,
    count: int,
    render: Callable[[Sequence[int]], np.ndarray],
    provenance: dict,
    *,
    shard: int = 500,
    low_precision: bool = True,
) -> list[Path]:
    """Encodes what `render` makes of seeds, uint8 (n, T, H, W, 3), as `encode_clips` says.

    provenance: what decides the latents besides seed and split; plain JSON values.
    """
    made_with = json.dumps(provenance)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, count, shard):
        seeds = range(first, min(first + shard, count))
        path = out / f"{split}-{first:06d}.safetensors"
        paths.append(path)
        metadata = {"split": split, "clips": str(len(seeds)), "provenance": made_with}
        if path.exists() and _metadata(path) == metadata:
            continue
        began = time.monotonic()
        chunks = (seeds[i : i + _CHUNK] for i in range(0, len(seeds), _CHUNK))
        parts = []
        for pictures in map(render, chunks):  # not in low precision: some renderers use torch
            with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
                parts.append(vae.encode(pictures))
        latents = torch.cat(parts)
        tensors = {"latents": latents.half().contiguous(), "seeds": torch.tensor(seeds)}
        with atomic(path) as part:
            save_file(tensors, part, metadata)
        log.info("%s: %.1f clips/s", path.name, len(seeds) / (time.monotonic() - began))
    return paths


def write_stats(out: Path, shards: Sequence[Path]) -> dict:
    """Writes each channel's mean and deviation over the shards to `stats.json`; returns them."""
    total, squares, count = 0.0, 0.0, 0
    for path in shards:
        z = load_file(path)["latents"].double()
        total = total + z.sum((0, 2, 3, 4))
        squares = squares + z.square().sum((0, 2, 3, 4))
        count += z.numel() // z.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).sqrt()
    stats = {"mean": mean.tolist(), "std": deviation.tolist(), "values": count}
    stats["provenance"] = json.loads(_metadata(shards[0])["provenance"])
    with atomic(out / _STATS) as part:
        part.write_text(json.dumps(stats, indent=1))
    return stats


def read_stats(directory: Path) -> dict:
    """What `write_stats` wrote. Raises ValueError where it has not."""
    path = directory / _STATS
    if not path.exists():
        raise ValueError(
            f"{directory} holds no finished 'train' clips of shapes: encode them first"
        )
    return json.loads(path.read_text())


def read_shards(directory: Path, split: str, provenance: dict) -> tuple[Tensor, list[int]]:
    """All of a split: latents (N, C, T, H, W) float16, and their seeds.

    Raises ValueError where there are none, or one was made with anything else.
    """
    shards = sorted(directory.glob(f"{split}-*.safetensors"))
    if not shards:
        raise ValueError(f"{directory} holds no finished {split!r} clips: encode them first")
    for path in shards:
        if json.loads(_metadata(path)["provenance"]) != provenance:
            raise ValueError(f"{path} and {_STATS} were not made alike: encode again")
    parts = [load_file(path) for path in shards]
    seeds = torch.cat([part["seeds"] for part in parts]).tolist()
    return torch.cat([part["latents"] for part in parts]), seeds


def normalised(latents: Tensor, shift: Sequence[float], scale: Sequence[float]) -> Tensor:
    """VAE latents (n, C, T, H, W) as the model sees them; shift and scale are one per channel."""
    return (latents - _per_channel(shift)) * _per_channel(scale)


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def encode_command(
    module: str,
    description: str,
    encode: Callable[[FrameVAE, Path, str, int], list[Path]],
    *,
    train: int,
    folder: str = "latents",
    frames_at_once: int = 64,
) -> tuple[Path, list[Path]]:
    """`python -m module`: encodes both splits by `encode(vae, folder, split, count)`.

    train: default number of the training split. folder: the option that names where clips lie.
    Returns that folder, and the training split's shards.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument(f"--{folder}", type=Path, required=True, help="folder of the clips' shards")
    parser.add_argument("--train", type=int, default=train, help="samples of the training split")
    parser.add_argument("--held-out", type=int, default=256, help="of the held-out split")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae, out = open_vae(args.vae, frames_at_once=frames_at_once), getattr(args, folder)
    encode(vae, out, "held_out", args.held_out)
    return out, encode(vae, out, "train", args.train)


def main() -> None:
    out, shards = encode_command(
        "training.shapes.cache",
        __doc__,
        encode_clips,
        train=10000,
        folder="out",
        frames_at_once=16 * _CHUNK,
    )
    log.info("stats %s", json.dumps(write_stats(out, shards)))


if __name__ == "__main__":
    main()
