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

    Held-out clips are the last ones of the first video stream's largest bucket. Raises ValueError
    where a cache is missing, damaged or of another latent space than the first.
    """
    data, specs, held_out = config.data, [], ()
    datasets: dict[tuple[str, bool, int], Dataset] = {}
    for stream in data.streams:
        folder = data.folder(stream.set)
        key = (stream.set, stream.still and data.kind == "shapes", stream.every or 1)
        if key not in datasets:
            datasets[key] = _open(config, stream)
            if not held_out and config.watch.heldout_every:
                datasets[key], held_out = _hold_out(datasets[key], config.watch.heldout_clips)
        dataset = datasets[key]
        specs.append(
            StreamSpec(
                dataset,
                stream.batch,
                weight=stream.weight,
                still=stream.still,
                repeats=stream.repeats,
                name=(stream.set or folder.name) + (" (stills)" if stream.still else ""),
            )
        )
    first = _inner(next(iter(datasets.values())))
    for (name, *_), dataset in datasets.items():
        if _inner(dataset).latents != first.latents:
            raise ValueError(
                f"{data.folder(name)}: latent space {_inner(dataset).latents}, the first cache has "
                f"{first.latents}: a model learns one space"
            )
    return Streams(
        specs=tuple(specs),
        held_out=held_out,
        latents=first.latents,
        digests={str(i): dataset.digest() for i, dataset in enumerate(datasets.values())},
        facts={
            "dataset": _names(datasets.values()) if data.kind == "shapes" else first.name,
            "dataset_digest": first.digest(),
            "dataset_provenance": first.provenance,
            "clips": sum(sum(dataset.buckets.values()) for dataset in datasets.values()),
        },
    )


def strides_of(dataset: Dataset) -> tuple[int, int]:
    """Frames of the original clip per frame, least and most, of a data set's samples."""
    inner = _inner(dataset)
    stride = inner.provenance.get("spec", {}).get("stride") or 1
    return getattr(inner, "strides", (stride, stride))


def _open(config: TrainConfig, stream: StreamSection) -> Dataset:
    name, folder = stream.set, config.data.folder(stream.set)
    if config.data.kind != "shapes":
        return CacheDataset(folder)
    if name in (SOLIDS, GAPS):
        return {SOLIDS: SolidsDataset, GAPS: Gaps}[name](folder)
    kind = KeyFrames if name == KEYS else ShapesDataset
    reverse = config.data.reverse
    return kind(folder, reverse=reverse, still=stream.still, every=stream.every or 1)


def _hold_out(dataset: Dataset, wanted: int) -> tuple[Dataset, tuple[Sample, ...]]:
    """At most a quarter of the largest bucket, so that a small data set is trained on."""
    bucket, size = max(dataset.buckets.items(), key=lambda item: item[1])
    clips = min(wanted, size // 4)
    if clips < 1:
        raise ValueError(
            f"the largest bucket ({bucket}) has {size} clips: none can be held out; set "
            "watch.heldout_every: 0"
        )
    if clips < wanted:
        log.warning("watch.heldout_clips: %d wanted, %d of %d held out", wanted, clips, size)
    chosen = tuple(dataset.load(bucket, size - clips + i) for i in range(clips))
    return Without(dataset, bucket, clips), chosen


def _names(datasets: Iterable[Dataset]) -> str:
    return ", ".join(dict.fromkeys(_inner(dataset).name for dataset in datasets))


def _inner(dataset: Dataset) -> Any:
    return getattr(dataset, "dataset", dataset)
