"""The batch plan: which samples a step trains on, as a pure function of (seed, step).

Steps are shared out between streams by weight. A stream runs through its data set in epochs: its
batches in shuffled order, each of one bucket, each bucket's samples shuffled anew every epoch.
Orders are computed per index (grain's `index_shuffle`; small ones from a table), so a plan over
90 million samples takes no memory for them, and any step is reached at once: resuming needs the
step's number only.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import isfinite, lcm
from typing import Protocol

import numpy as np

log = logging.getLogger(__name__)

MAX_PERIOD = 100_000
"""Longest cycle of streams: weights whose exact cycle is longer are rounded to shares of this."""

STRIDE, FRAMES = 4, 5
"""Columns of `Sample.micro`: frames of the original clip per frame, and frames."""

_MAX_COUNT = 2**32  # what index_shuffle permutes
_SMALL = 2**16  # it walks through at least so many: for fewer, a table is faster (10 ms to 1 us)
_BATCHES, _SAMPLES = 0, 1  # what is shuffled, as part of a seed


@dataclass
class Sample:
    """One clip of a data set.

    `latents`: (C, T, h, w) float32, normalised: (VAE latent - shift) * scale. `captions`: its
    variants, () = none. `micro`: (6,) float32, columns as in `stiv.model.MICRO_CONDITIONS`.
    `key`: its name, unique in the data set. Arrays and no tensors: the processes that read samples
    need no torch, which would be most of their memory.
    """

    latents: np.ndarray
    captions: tuple[str, ...]
    micro: np.ndarray
    key: str


class Dataset(Protocol):
    """What a plan draws from. `load` must give the same sample for the same arguments."""

    @property
    def buckets(self) -> Mapping[str, int]:
        """Samples of each bucket; a bucket is what has one shape."""

    def load(self, bucket: str, index: int) -> Sample:
        """Sample `index` in [0, buckets[bucket]). Called from several threads or processes."""


class Without:
    """A data set less the last samples of one of its buckets."""

    def __init__(self, dataset: Dataset, bucket: str, count: int):
        self.dataset = dataset
        self.buckets: Mapping[str, int] = {
            name: size - count if name == bucket else size for name, size in dataset.buckets.items()
        }

    def load(self, bucket: str, index: int) -> Sample:
        """As the data set's."""
        return self.dataset.load(bucket, index)

    def digest(self) -> str:
        """The data set's, and how many samples are left."""
        return f"{self.dataset.digest()}:{sum(self.buckets.values())}"


@dataclass(frozen=True)
class StreamSpec:
    """A data set as part of a mixture.

    `batch`: samples of a global batch, one number or one per bucket. `weight`: its share of the
    steps, relative to the other streams. `still`: every sample is one random frame of its clip.
    `repeats`: times an epoch goes through the samples; each time they are shuffled anew.
    """

    dataset: Dataset
    batch: int | Mapping[str, int]
    weight: float = 1.0
    still: bool = False
    repeats: int = 1
    name: str = ""


@dataclass(frozen=True)
class BatchSpec:
    """A rank's part of a step's global batch, or all of it.

    `stream`: number in the plan. `epoch`: of the stream. `positions`: places in the global batch.
    `indices`: (b,) int64, the samples at these places, in the bucket.
    """

    step: int
    stream: int
    bucket: str
    epoch: int
    positions: range
    indices: np.ndarray


@dataclass(frozen=True)
class Bucket:
    """A bucket in a stream's plan. `count` samples, `batches` per epoch, each of `batch` samples.

    An epoch passes `repeats` times over the samples and leaves out the last of them, that do not
    fill a batch. Other samples are left out in every epoch.
    """

    name: str
    count: int
    batch: int
    repeats: int

    @property
    def batches(self) -> int:
        """Global batches per epoch."""
        return self.count * self.repeats // self.batch


class Plan:
    """The batches of a run of `steps` steps.

    In an epoch of its stream a sample comes `repeats` times, once less where it is among those
    that fill no batch. A bucket with fewer samples than its batch is repeated until it fills one,
    with a warning: four clips can be overfitted with a batch of eight. There, too, samples come
    equally often give or take one.

    The order depends on the seed, the streams' order, batches, repeats and counts, and not on
    ranks, workers or `steps`: a run may be prolonged.

    Raises ValueError for streams, batches or weights that make no plan.
    """

    def __init__(self, streams: Sequence[StreamSpec], seed: int, steps: int):
        if not streams:
            raise ValueError("a plan needs at least one stream: give data to train on")
        if seed < 0 or steps < 0:
            raise ValueError(f"seed {seed} and steps {steps} must not be negative")
        self.streams = tuple(streams)
        self.seed = seed
        self.steps = steps
        self.buckets = tuple(_buckets(_name(i, s), s) for i, s in enumerate(self.streams))
        self._ends = [[*accumulate(b.batches for b in buckets)] for buckets in self.buckets]
        self._cycle = Cycle([stream.weight for stream in self.streams])

    def batch(self, step: int, rank: int = 0, world: int = 1) -> BatchSpec:
        """What step `step` in [0, steps) trains on: the part of one of `world` ranks, or all.

        Raises IndexError outside the run, ValueError for a batch that does not divide by `world`.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside of the run's {self.steps}")
        stream, turn = self._cycle[step]
        ends = self._ends[stream]
        epoch, turn = divmod(turn, ends[-1])
        number = self._shuffle(turn, ends[-1], stream, epoch, _BATCHES)
        which = bisect_right(ends, number)
        bucket = self.buckets[stream][which]
        first = (number - (ends[which - 1] if which else 0)) * bucket.batch
        positions = _part(bucket.batch, rank, world)
        indices = np.empty(len(positions), np.int64)
        for slot, position in enumerate(positions):
            passes, place = divmod(first + position, bucket.count)
            purpose = (stream, epoch, _SAMPLES, which, passes)
            indices[slot] = self._shuffle(place, bucket.count, *purpose)
        return BatchSpec(step, stream, bucket.name, epoch, positions, indices)

    def check_world(self, world: int) -> None:
        """Raises ValueError where a global batch does not divide by the number of ranks."""
        for buckets in self.buckets:
            for bucket in buckets:
                _part(bucket.batch, 0, world)

    def stream_name(self, stream: int) -> str:
        """The stream's name, or its number where it has none."""
        return _name(stream, self.streams[stream])

    def _shuffle(self, index: int, count: int, *purpose: int) -> int:
        """Place of `index` in the permutation of [0, count) that belongs to a purpose."""
        if count <= _SMALL:
            return int(_permutation(count, self.seed, *purpose)[index])
        from grain.experimental import index_shuffle  # here: it takes a second to import

        key = _key(self.seed, *purpose)
        return index_shuffle(index, max_index=count - 1, seed=key, rounds=4)


class Cycle:
    """Takes turns in the ratio of weights: `cycle[k]` is (who, for the how-manieth time) at k.

    After any number of turns everyone had their exact share of them but for less than one turn
    (Tijdeman, The chairman assignment problem, 1980). Repeats after the smallest number of turns
    in which the shares are whole; where that is more than MAX_PERIOD, shares are rounded to
    MAX_PERIOD-ths. Raises ValueError for weights that are not positive numbers.
    """

    def __init__(self, weights: Sequence[float]):
        self.turns = _whole_shares(weights)
        self.period = sum(self.turns)
        self._who, self._nth = _chairmen(self.turns)

    def __getitem__(self, k: int) -> tuple[int, int]:
        cycles, place = divmod(k, self.period)
        who = int(self._who[place])
        return who, cycles * self.turns[who] + int(self._nth[place])


def _whole_shares(weights: Sequence[float]) -> list[int]:
    """Turns of each in a cycle."""
    for weight in weights:
        if not (isfinite(weight) and weight > 0):
            raise ValueError(f"weight {weight}: give a number above 0, or leave the stream out")
    exact = [Fraction(weight).limit_denominator(10**6) or Fraction(weight) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    period = lcm(*(share.denominator for share in shares))
    if period <= MAX_PERIOD:
        return [int(share * period) for share in shares]
    turns = [max(1, round(share * MAX_PERIOD)) for share in shares]
    turns[turns.index(max(turns))] += MAX_PERIOD - sum(turns)
    return turns


def _chairmen(turns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Who is next, and for the how-manieth time, over one cycle.

    Of those whose surplus (share of the turns so far, less turns had) allows a turn, it is the
    one whose surplus would be the first to become too large. Whole numbers throughout: surplus in
    units of 1 / (period * slack).
    """
    period, slack = sum(turns), max(1, 2 * len(turns) - 2)
    who = np.empty(period, np.uint16)
    nth = np.empty(period, np.uint32)
    had = [0] * len(turns)
    for k in range(period):
        surplus = [(t * (k + 1) - period * h) * slack for t, h in zip(turns, had, strict=True)]
        due = min(
            ((period * (slack - 1) - s) // t, i)
            for i, (s, t) in enumerate(zip(surplus, turns, strict=True))
            if s >= period or len(turns) == 1
        )[1]
        who[k], nth[k] = due, had[due]
        had[due] += 1
    return who, nth


def _part(batch: int, rank: int, world: int) -> range:
    """A rank's positions of a global batch."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world} ranks")
    size, rest = divmod(batch, world)
    if rest:
        near = [n * world for n in (size, size + 1) if n]
        raise ValueError(
            f"a global batch of {batch} does not divide by {world} ranks: "
            f"make it {' or '.join(map(str, near))}"
        )
    return range(rank * size, (rank + 1) * size)


@lru_cache(maxsize=256)  # of at most 128 KiB each
def _permutation(count: int, *purpose: int) -> np.ndarray:
    return np.random.default_rng(purpose).permutation(count).astype(np.uint16)


@lru_cache(maxsize=256)
def _key(*purpose: int) -> int:
    """A 32-bit seed for every purpose."""
    return int(np.random.SeedSequence(purpose).generate_state(1)[0])


def _name(number: int, stream: StreamSpec) -> str:
    return stream.name or f"stream {number}"


def _buckets(name: str, stream: StreamSpec) -> tuple[Bucket, ...]:
    """The stream's buckets by name, without empty ones."""
    if stream.repeats < 1:
        raise ValueError(f"{name}: repeats {stream.repeats} must be at least 1")
    buckets = []
    for bucket, count in sorted(stream.dataset.buckets.items()):
        if not count:
            continue
        if isinstance(stream.batch, Mapping):
            batch = stream.batch.get(bucket, 0)
        else:
            batch = stream.batch
        if batch < 1:
            raise ValueError(
                f"{name}: batch {batch} for bucket {bucket}: give a number of at least 1"
                " for every bucket"
            )
        repeats = max(stream.repeats, -(-batch // count))
        if repeats > stream.repeats:
            log.warning(
                "%s: bucket %s has %d samples for batches of %d: they are repeated %d times",
                name, bucket, count, batch, repeats,
            )  # fmt: skip
        buckets.append(Bucket(bucket, count, batch, repeats))
    if not buckets:
        raise ValueError(f"{name} has no samples: look at what the cache was made from")
    if sum(bucket.count * bucket.repeats for bucket in buckets) >= _MAX_COUNT:
        raise ValueError(
            f"{name}: an epoch of 2^32 samples or more: lower repeats {stream.repeats}"
        )
    return tuple(buckets)
