"""From a plan's steps to batches: what each rank trains on, read ahead by threads or processes.

A batch is a pure function of (seed, step): there is no loader state. A run resumes exactly by
starting at the step it reached, whatever the number of ranks and workers was or is.

Nothing that a worker process imports (this, `index`, `plan`) imports torch: of it alone a process
holds half a gigabyte.
"""

from __future__ import annotations

import json
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .index import DAMAGE, Index
from .plan import FRAMES, STRIDE, Dataset, Plan, Sample

if TYPE_CHECKING:
    from torch import Tensor

STILL = 7
"""Purpose of the draw of a still's frame, last of (seed, step, position, purpose)."""

_OPEN_TEXT = 2**23  # characters of captions and keys that open shards may hold


@dataclass
class RawBatch:
    """A rank's part of a step's global batch; all samples are of one bucket.

    `positions`: (b,) places in the global batch. `latents`: (b, C, T, h, w) float32, normalised.
    `micro`: (b, 6) float32. `captions`: each sample's variants. `stream`: number in the plan.
    """

    bucket: str
    step: int
    positions: np.ndarray
    latents: Tensor
    micro: Tensor
    captions: list[tuple[str, ...]]
    keys: list[str]
    stream: int = 0


class Loader:
    """Iterates over this rank's batches from `start_step` to the end of the plan.

    Rank r of `world` gets positions [r * b / world, (r + 1) * b / world) of every global batch
    of b samples. With `workers` 0 no process is started: `prefetch` steps are read ahead by as
    many threads (0: none, each step is read when it is asked for). With workers, step i is read
    by worker i % workers, each `prefetch` steps ahead; the program must then be importable
    without side effects (`if __name__ == "__main__"`), as for every use of multiprocessing.

    `seed` is for the frame of stills; the order is the plan's. An error in a data set is raised
    at the step it belongs to. Use `close()`, or the loader as a context, to end the workers.

    Raises ValueError for a batch that does not divide by `world`, or numbers out of range.
    """

    def __init__(
        self,
        plan: Plan,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        workers: int = 0,
        prefetch: int = 2,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} ranks")
        if not 0 <= start_step <= plan.steps:
            raise ValueError(f"start step {start_step} is outside of the run's {plan.steps} steps")
        if workers < 0 or prefetch < 0:
            raise ValueError(f"workers {workers} and prefetch {prefetch} must not be negative")
        plan.check_world(world)
        self._batches = iter(
            _pipeline(_ReadStep(plan, seed, rank, world), start_step, workers, prefetch)
        )

    def __iter__(self) -> Iterator[RawBatch]:
        return self

    def __next__(self) -> RawBatch:
        import torch  # the module is also that of worker processes

        parts = next(self._batches)
        for name in ("latents", "micro"):
            parts[name] = torch.from_numpy(parts[name])
        return RawBatch(**parts)

    def close(self) -> None:
        """End threads and worker processes; what they read ahead is discarded."""
        self._batches.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pipeline(read: _ReadStep, start: int, workers: int, prefetch: int) -> Any:
    """The steps as a grain data set. (grain takes a second to import: only who loads pays.)"""
    import grain

    threads = 0 if workers else prefetch
    steps = grain.MapDataset.range(start, read.plan.steps).map(read)
    dataset = steps.to_iter_dataset(grain.ReadOptions(threads, threads))
    if workers:
        ahead = max(1, prefetch)
        options = grain.MultiprocessingOptions(workers, ahead)
        dataset = dataset.mp_prefetch(options, _leave_interrupts)
    return dataset


def _leave_interrupts(*_: int) -> None:
    """Ctrl-C in a terminal goes to workers too: it is for the run, which needs them to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _ReadStep:
    """Reads a rank's part of a step, as arrays: these pass between processes at no cost."""

    plan: Plan
    seed: int
    rank: int
    world: int

    def __call__(self, step: int) -> dict[str, Any]:
        spec = self.plan.batch(step, self.rank, self.world)
        stream = self.plan.streams[spec.stream]
        samples = [stream.dataset.load(spec.bucket, int(index)) for index in spec.indices]
        if stream.still:
            samples = [
                still(sample, np.random.default_rng([self.seed, step, position, STILL]))
                for sample, position in zip(samples, spec.positions, strict=True)
            ]
        return {
            "bucket": spec.bucket,
            "step": step,
            "positions": np.array(spec.positions),
            "latents": np.stack([np.asarray(sample.latents, np.float32) for sample in samples]),
            "micro": np.stack([np.asarray(sample.micro, np.float32) for sample in samples]),
            "captions": [tuple(sample.captions) for sample in samples],
            "keys": [sample.key for sample in samples],
            "stream": spec.stream,
        }


def still(sample: Sample, rng: np.random.Generator) -> Sample:
    """One random frame of a clip, as an image: stride and frames of its micro conditions are 1."""
    frame = int(rng.integers(sample.latents.shape[1]))
    micro = np.array(sample.micro)
    micro[STRIDE] = micro[FRAMES] = 1.0
    return Sample(sample.latents[:, frame : frame + 1], sample.captions, micro, sample.key)


class CacheDataset:
    """The samples of a latent cache folder: a `Dataset` over its compiled index.

    `open_shards`: how many shards are kept open, with their samples' captions, per process; fewer
    where the captions are so long that they would take much memory.

    Raises ValueError as `Index.open` does, or where scale or shift do not fit the channels.
    """

    def __init__(self, folder: Path | str, *, open_shards: int = 32):
        if open_shards < 1:
            raise ValueError(f"open_shards {open_shards} must be at least 1")
        self.index = Index.open(folder)
        self._open_shards = open_shards
        self._scale = _per_channel(self.latents, "scale", self.index)
        self._shift = _per_channel(self.latents, "shift", self.index)
        self._shards: OrderedDict[Path, _Shard] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def buckets(self) -> Mapping[str, int]:
        """Samples of each bucket, named TxHxW in latent units."""
        return {name: len(entries) for name, entries in self.index.buckets.items()}

    @property
    def provenance(self) -> dict[str, Any]:
        """Of the first shard; `encoder` and `latents` (the latent space) are those of all."""
        return self.index.provenance

    @property
    def strides(self) -> tuple[int, int]:
        """Frames of the original clip per frame, least and most of the videos, to whole numbers."""
        found = [ends for name, ends in self.index.strides.items() if not name.startswith("1x")]
        least, most = zip(*found or [(1, 1)], strict=True)
        return max(1, round(min(least))), max(1, round(max(most)))

    @property
    def latents(self) -> dict[str, Any]:
        """The latent space, as in `stiv.public.LATENT_SPACES`."""
        return self.provenance["latents"]

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.index.folder.resolve().name

    def __len__(self) -> int:
        return sum(self.buckets.values())

    def digest(self) -> str:
        """SHA-256 over what the cache says of itself: sources' hashes, captions, encoder."""
        return self.index.digest

    def load(self, bucket: str, index: int) -> Sample:
        """Sample `index` of a bucket, normalised. Safe to call from several threads.

        Raises ValueError, naming the shard, where it is not what was indexed.
        """
        path, size, row = self.index.find(bucket, index)
        try:
            shard = self._shard(path, size)
            raw, micro, described = shard.latents[row], shard.micro[row], shard.samples[row]
            captions, key = tuple(map(str, described["captions"])), str(described["key"])
        except (SafetensorError, *DAMAGE) as error:
            raise ValueError(
                f"{path}, row {row} of bucket {bucket}: {error!r}. The shard changed since the "
                "data was opened, or is damaged: start again, or delete it and run "
                "`python -m training cache latents` again"
            ) from error
        if "x".join(map(str, raw.shape[1:])) != bucket or len(raw) != self.index.channels:
            raise ValueError(f"{path}: latents {raw.shape} are not of the indexed bucket {bucket}")
        latents = (raw.astype(np.float32) - self._shift) * self._scale
        return Sample(latents, captions, micro.astype(np.float32), key)

    def _shard(self, path: Path, size: int) -> _Shard:
        """An open shard; the one that was not used for the longest time makes room for it."""
        with self._lock:
            if path in self._shards:
                self._shards.move_to_end(path)
                return self._shards[path]
        shard = _Shard(path, size)
        with self._lock:
            self._shards[path] = shard
            while len(self._shards) > 1 and (
                len(self._shards) > self._open_shards
                or sum(shard.text for shard in self._shards.values()) > _OPEN_TEXT
            ):
                self._shards.popitem(last=False)
        return shard

    def __getstate__(self) -> dict[str, Any]:
        """Without what cannot go to another process: it opens shards of its own."""
        return {**self.__dict__, "_shards": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class _Shard:
    """An open shard of `size` bytes: its tensors are read by row."""

    def __init__(self, path: Path, size: int):
        if path.stat().st_size != size:  # rows were removed, say, and others have their place
            raise ValueError(f"{path.stat().st_size} bytes where {size} were indexed")
        file = safe_open(path, "np")
        self.latents = file.get_slice("latents")
        self.micro = file.get_slice("micro")
        samples = (file.metadata() or {})["samples"]
        self.text = len(samples)
        self.samples = json.loads(samples)


def _per_channel(space: Mapping[str, Any], name: str, index: Index) -> np.ndarray:
    """(C or 1, 1, 1, 1) float32 of a number or a list of one number per channel."""
    value = np.asarray(space.get(name), np.float32).reshape(-1, 1, 1, 1)
    if len(value) not in (1, index.channels) or not np.isfinite(value).all():
        raise ValueError(
            f"{index.folder}: {name} of the latent space is {space.get(name)}, not a number or "
            f"{index.channels} of them, one per channel"
        )
    return value


__all__ = ["CacheDataset", "Dataset", "Loader", "RawBatch", "Sample", "still"]
