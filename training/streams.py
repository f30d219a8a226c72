"""The data of a run: its streams, and the clips kept out of them for the held-out loss."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .config import GAPS, KEYS, SOLIDS, StreamSection, TrainConfig
from .data.loader import CacheDataset
from .data.plan import Dataset, Sample, StreamSpec, Without
from .shapes.dataset import ShapesDataset
from .shapes.slow import Gaps, KeyFrames
from .solids.dataset import SolidsDataset

log = logging.getLogger(__name__)


Key = tuple[str, bool, int]
"""Of a data set: the set's name, whether its captions are of stills, one frame of so many."""


@dataclass(frozen=True)
class Streams:
    """What a run trains on.

    latents: the latent space of all of it, as in a checkpoint's card. digests: of each data set.
    """

    specs: tuple[StreamSpec, ...]
    held_out: tuple[Sample, ...]
    latents: dict[str, Any]
    digests: dict[str, str]
    facts: dict[str, Any]
    """What a card says of the data: kind, clips, provenance."""


def open_streams(config: TrainConfig) -> Streams:
    """Open the caches of a run.

    Held-out clips are the last ones of the largest bucket of the first stream's set. Raises
    ValueError where a cache is missing, damaged or of another latent space than the first.
    """
    data, held_out = config.data, ()
    keys = [_key(config, stream) for stream in data.streams]
    datasets: dict[Key, Dataset] = {}
    for key, stream in zip(keys, data.streams, strict=True):
        if key not in datasets:
            datasets[key] = _open(config, stream)
    if config.watch.heldout_every:
        held_out = _hold_out(config, datasets)
    specs = [
        StreamSpec(
            datasets[key],
            stream.batch,
            weight=stream.weight,
            still=stream.still,
            repeats=stream.repeats,
            name=(stream.set or data.latents.name) + (" (stills)" if stream.still else ""),
        )
        for key, stream in zip(keys, data.streams, strict=True)
    ]
    first = _inner(next(iter(datasets.values())))
    for (name, *_), dataset in datasets.items():
        if _inner(dataset).latents != first.latents:
            raise ValueError(
                f"{data.folder(name)}: latent space {_inner(dataset).latents}, the first cache has "
                f"{first.latents}: a model learns one space"
            )
    clips = {data.folder(name): sum(d.buckets.values()) for (name, *_), d in datasets.items()}
    return Streams(
        specs=tuple(specs),
        held_out=held_out,
        latents=first.latents,
        digests={str(i): dataset.digest() for i, dataset in enumerate(datasets.values())},
        facts={
            "dataset": _names(datasets.values()) if data.kind == "shapes" else first.name,
            "dataset_digest": first.digest(),
            "dataset_provenance": first.provenance,
            "clips": sum(clips.values()),  # once, however many streams take them
        },
    )


def strides_of(dataset: Dataset) -> tuple[int, int]:
    """Frames of the original clip per frame, least and most, of a data set's videos."""
    return getattr(_inner(dataset), "strides", (1, 1))


def _key(config: TrainConfig, stream: StreamSection) -> Key:
    """Streams with the same share a data set."""
    return stream.set, stream.still and config.data.kind == "shapes", stream.every or 1


def _open(config: TrainConfig, stream: StreamSection) -> Dataset:
    name, folder = stream.set, config.data.folder(stream.set)
    if config.data.kind != "shapes":
        return CacheDataset(folder)
    if name in (SOLIDS, GAPS):
        return {SOLIDS: SolidsDataset, GAPS: Gaps}[name](folder)
    kind = KeyFrames if name == KEYS else ShapesDataset
    reverse = config.data.reverse
    return kind(folder, reverse=reverse, still=stream.still, every=stream.every or 1)


def _hold_out(config: TrainConfig, datasets: dict[Key, Dataset]) -> tuple[Sample, ...]:
    """Take clips out of the first data set, and out of all others that read the same folder.

    At most a quarter of the largest bucket, so that a small data set is trained on.
    """
    (name, *_), dataset = next(iter(datasets.items()))
    bucket, size = _largest(dataset)
    wanted = config.watch.heldout_clips
    clips = min(wanted, size // 4)
    if clips < 1:
        raise ValueError(
            f"the largest bucket ({bucket}) has {size} clips: none can be held out; set "
            "watch.heldout_every: 0"
        )
    if clips < wanted:
        log.warning("watch.heldout_clips: %d wanted, %d of %d held out", wanted, clips, size)
    folder = config.data.folder(name)
    for key, other in datasets.items():
        if config.data.folder(key[0]) == folder:
            datasets[key] = Without(other, _largest(other)[0], clips)
    return tuple(dataset.load(bucket, size - clips + i) for i in range(clips))


def _largest(dataset: Dataset) -> tuple[str, int]:
    """A data set's bucket with the most samples, and how many they are."""
    return max(dataset.buckets.items(), key=lambda item: item[1])


def _names(datasets: Iterable[Dataset]) -> str:
    return ", ".join(dict.fromkeys(_inner(dataset).name for dataset in datasets))


def _inner(dataset: Dataset) -> Any:
    return getattr(dataset, "dataset", dataset)
