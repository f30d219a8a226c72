"""The latents of a data set's clips, encoded once (paper, section 3.1: a frozen per-frame VAE).

`latents-<bucket>-<writer>-<n>.safetensors`, one bucket (shape) per shard:

- `latents` (n, C, T, h, w) float16, raw as the VAE gives them: (raw - shift) * scale is for the
  reader;
- `micro` (n, 6) float32, in the order of `stiv.model.MICRO_CONDITIONS`;
- metadata `provenance` {encoder, latents, spec} and `samples` [{key, content, captions, fps}].

A sample is known by its key and the hash of its source's bytes. A rerun encodes what is not
there, replaces samples whose source changed, and takes over captions that changed without
encoding anything.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stiv.header import CheckpointError

from ..names import readable
from .shards import (
    SHARD_BYTES,
    SHARD_SAMPLES,
    CacheWriteError,
    Stale,
    half,
    in_part,
    next_path,
    prepare,
    read_header,
    read_tensors,
    revising,
    shard_paths,
    survey,
    write_shard,
)

log = logging.getLogger(__name__)

PENDING_BYTES = 2**30
"""Encoded samples that may wait for their shards to fill, over all buckets."""


class ClipLike(Protocol):
    """What is needed of `training.data.clips.Clip`."""

    frames: np.ndarray  # uint8 (T, H, W, 3)
    captions: tuple[str, ...]
    micro: tuple[float, ...]
    key: str
    content: str
    fps: float


class Encoder(Protocol):
    """What is needed of `training.encoders.vae.FrameVAE`."""

    latents: Mapping[str, Any]
    hash: str
    frames_at_once: int

    def encode(self, frames: np.ndarray) -> Tensor: ...


@dataclass
class CacheReport:
    """What a run did. Counts of samples, and the names of the shards that it wrote."""

    written: int = 0
    skipped: int = 0
    replaced: int = 0
    """Samples dropped because their source's bytes changed."""
    recaptioned: int = 0
    rejected: int = 0
    shards: list[str] = field(default_factory=list)


def provenance(vae: Encoder, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What makes latents what they are: encoder, latent space, and how the clips were cut.

    spec: JSON values, as `DataSpec.provenance(seed)` gives them. Only what changes the clips, no
    paths or numbers of workers: a change of anything in it makes every shard stale.
    """
    return {"encoder": vae.hash, "latents": dict(vae.latents), "spec": dict(spec)}


def done(
    out: Path | str, provenance: Mapping[str, Any], *, stale: Stale = "refuse"
) -> set[tuple[str, str]]:
    """(key, content) of every sample in the cache: what a rerun need not even decode.

    Raises ValueError for damaged shards or those of another provenance, see `survey`.
    """
    headers = survey(out, "latents", provenance, stale)
    return {(s["key"], s["content"]) for header in headers for s in header.samples}


def cache_latents(
    clips: Iterable[ClipLike],
    vae: Encoder,
    out: Path | str,
    *,
    spec: Mapping[str, Any],
    shard: int = SHARD_SAMPLES,
    writer: str = "0",
    part: tuple[int, int] | None = None,
    stale: Stale = "refuse",
    reject: Callable[[str, str], None] | None = None,
    progress: Callable[[CacheReport], None] | None = None,
) -> CacheReport:
    """Encodes the clips that are not in the cache yet.

    Can be killed at any time: finished shards stay, a rerun goes on. When the clips end, or their
    iterator raises, or Ctrl-C is pressed, what is encoded is written before anything else.

    Args:
        clips: clips of bucket sizes. To save decoding, leave out those in `done`.
        spec: what the clips were cut by, see `provenance`.
        shard: samples per shard, at most 512; fewer where they are large.
        writer: name of this process among those that write to the folder at once.
        part: (i, n): only the clips whose key's hash says i of n.
        stale: what to do about shards that were made differently, see `survey`.
        reject: called with (key, reason) for a clip that cannot be encoded; the run goes on.
            Without it, such a clip is an error.
        progress: called after every clip.

    Raises:
        CacheWriteError: for a full disk; finished shards are untouched.
        ValueError: for stale shards, or a clip that cannot be encoded.
    """
    if not 1 <= shard <= SHARD_SAMPLES:
        raise ValueError(f"shard is {shard}: expected 1 to {SHARD_SAMPLES} samples")
    folder = prepare(out, "latents", writer)
    run = _Run(folder, vae, provenance(vae, spec), shard, writer, stale, reject)
    try:
        for clip in clips:
            if in_part(clip.key, part):
                run.add(clip)
                if progress:
                    progress(run.report)
    except CacheWriteError:
        raise
    except BaseException:
        run.finish()
        raise
    run.finish()
    return run.report


@dataclass
class _Pending:
    """Samples of one bucket on their way to a shard."""

    clips: list[ClipLike] = field(default_factory=list)
    """Not yet encoded."""
    rows: list[tuple[Tensor, tuple[float, ...], dict[str, Any]]] = field(default_factory=list)
    """latents (C, T, h, w) float16, micro, sample."""

    @property
    def bytes(self) -> int:
        return sum(latents.nbytes for latents, _, _ in self.rows)


class _Run:
    """One call of `cache_latents`."""

    def __init__(self, folder, vae, made_by, shard, writer, stale, reject) -> None:
        self.folder, self.vae, self.made_by = folder, vae, made_by
        self.shard, self.writer, self.reject = shard, writer, reject
        self.report = CacheReport()
        self.pending: dict[tuple[int, ...], _Pending] = defaultdict(_Pending)
        self.waiting = 0  # bytes
        # key -> content -> hash of the captions and shard; None until it is written
        self.known: dict[str, dict[str, tuple[int, Path | None]]] = defaultdict(dict)
        for header in survey(folder, "latents", made_by, stale):
            for s in header.samples:
                known = (hash(tuple(s["captions"])), header.path)
                self.known[s["key"]][s["content"]] = known
        self.outdated: dict[Path, set[tuple[str, str]]] = defaultdict(set)
        self.captions: dict[Path, dict[str, list[str]]] = defaultdict(dict)

    def add(self, clip: ClipLike) -> None:
        """Encodes a clip, or takes note of what changed about one that is there."""
        key, captions = readable(clip.key), [readable(c) for c in clip.captions]
        known = self.known[key]
        for content in [c for c in known if c != clip.content]:
            _, path = known.pop(content)
            if path is not None:
                self.outdated[path].add((key, content))
        if clip.content in known:
            self.report.skipped += 1
            described, path = known[clip.content]
            if path is not None and described != hash(tuple(captions)):
                self.captions[path][key] = captions
            return
        try:
            _check(clip)
        except ValueError as error:
            self._refuse(clip, str(error))
            return
        known[clip.content] = (hash(tuple(captions)), None)
        pending = self.pending[clip.frames.shape]
        pending.clips.append(clip)
        if len(pending.clips) * len(clip.frames) >= self.vae.frames_at_once:
            self._encode(clip.frames.shape)

    def finish(self) -> None:
        """Writes everything that waits."""
        for shape in list(self.pending):
            self._encode(shape)
            if self.pending[shape].rows:
                self._write(shape)
        self._drop_outdated()
        for path, captions in self.captions.items():
            self.report.recaptioned += _revise(
                path, lambda s, new=captions: {**s, "captions": new.get(s["key"], s["captions"])}
            )
        self.captions.clear()

    def _encode(self, shape: tuple[int, ...]) -> None:
        pending = self.pending[shape]
        clips, pending.clips = pending.clips, []
        if not clips:
            return
        for clip, latents in zip(
            clips, self.vae.encode(np.stack([c.frames for c in clips])), strict=True
        ):
            try:
                stored = half(latents)
            except ValueError as error:
                self._refuse(clip, str(error))
                continue
            sample = {
                "key": readable(clip.key),
                "content": clip.content,
                "captions": [readable(caption) for caption in clip.captions],
                "fps": float(clip.fps),
            }
            pending.rows.append((stored, tuple(map(float, clip.micro)), sample))
            self.waiting += stored.nbytes
            self.report.written += 1
        if len(pending.rows) >= self.shard or pending.bytes >= SHARD_BYTES:
            self._write(shape)
        while self.waiting > PENDING_BYTES:
            self._write(max(self.pending, key=lambda s: self.pending[s].bytes))

    def _write(self, shape: tuple[int, ...]) -> None:
        # First away with what the new samples replace: killed in between, a rerun encodes them
        # again; the other way round the cache would hold both.
        self._drop_outdated()
        pending = self.pending[shape]
        while pending.rows:
            size = max(1, SHARD_BYTES // pending.rows[0][0].nbytes)
            rows = pending.rows[: min(self.shard, size)]
            latents, micro, samples = zip(*rows, strict=True)
            tensors = {"latents": torch.stack(latents), "micro": torch.tensor(micro)}
            bucket = "x".join(map(str, latents[0].shape[1:]))
            path = next_path(self.folder, f"latents-{bucket}", self.writer)
            write_shard(path, tensors, {"provenance": self.made_by, "samples": list(samples)})
            self.report.shards.append(path.name)
            del pending.rows[: len(rows)]
            self.waiting -= tensors["latents"].nbytes
            for s in samples:
                described, _ = self.known[s["key"]].get(s["content"], (0, None))
                self.known[s["key"]][s["content"]] = (described, path)

    def _drop_outdated(self) -> None:
        for path, old in self.outdated.items():
            self.report.replaced += _revise(
                path, lambda s, old=old: None if (s["key"], s["content"]) in old else s
            )
        self.outdated.clear()

    def _refuse(self, clip: ClipLike, reason: str) -> None:
        self.known[readable(clip.key)].pop(clip.content, None)
        self.report.rejected += 1
        if self.reject is None:
            raise ValueError(f"{clip.key}: cannot be encoded: {reason}")
        self.reject(clip.key, reason)


def _check(clip: ClipLike) -> None:
    shape = clip.frames.shape
    if clip.frames.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or not shape[0]:
        raise ValueError(f"frames are {clip.frames.dtype} {shape}, expected uint8 (T, H, W, 3)")
    if shape[1] % 8 or shape[2] % 8:
        raise ValueError(f"frames are {shape[1]} x {shape[2]}, expected multiples of 8")
    if len(clip.micro) != 6 or not all(map(math.isfinite, (*clip.micro, clip.fps))):
        raise ValueError(f"micro is {clip.micro}, fps {clip.fps}: expected six numbers and one")


Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def _revise(path: Path, change: Change) -> int:
    """Rewrites a shard with changed samples, or without those for which `change` gives None.

    Returns the number of samples that changed; 0 leaves the file alone. Safe while other writers
    revise the same shard: each finds what those before it made.
    """
    if not _revised(path, change)[1]:  # most shards: nobody waits for them
        return 0
    with revising(path.parent):
        rows, changed = _revised(path, change)
        samples = [sample for sample in rows if sample is not None]
        if changed and not samples:
            path.unlink()
        elif changed:
            keep = [i for i, sample in enumerate(rows) if sample is not None]
            tensors = {name: tensor[keep] for name, tensor in read_tensors(path).items()}
            made_by = read_header(path).provenance
            write_shard(path, tensors, {"provenance": made_by, "samples": samples})
    return changed


def _revised(path: Path, change: Change) -> tuple[list[dict[str, Any] | None], int]:
    """A shard's samples as they will be, and how many of them change."""
    samples = _samples(path)
    revised = [change(sample) for sample in samples]
    return revised, sum(new != old for new, old in zip(revised, samples, strict=True))


def _samples(path: Path) -> tuple[dict[str, Any], ...]:
    """A shard's samples; none where another writer dropped the last of them, and so the file."""
    try:
        return read_header(path).samples
    except CheckpointError:
        if path.exists():
            raise
        return ()


def recaption(out: Path | str, captions: Callable[[str], Iterable[str] | None]) -> int:
    """Stores the captions that `captions(key)` gives; None leaves those of a key as they are.

    For clips that `done` kept from being decoded. Returns the number of samples that changed.
    """

    def change(sample: dict[str, Any]) -> dict[str, Any]:
        new = captions(sample["key"])
        new = sample["captions"] if new is None else [readable(caption) for caption in new]
        return {**sample, "captions": new}

    return sum(_revise(path, change) for path in shard_paths(out, "latents"))


def remove(out: Path | str, unwanted: Callable[[dict[str, Any]], bool]) -> int:
    """Drops the samples (key, content, captions, fps) that are unwanted, say as their source is
    gone. Returns their number."""
    return sum(
        _revise(path, lambda s: None if unwanted(s) else s) for path in shard_paths(out, "latents")
    )


def samples(out: Path | str, part: tuple[int, int] = (0, 1)) -> Iterator[dict[str, Any]]:
    """What is known of every sample of a cache: key, content, captions, fps.

    part: (i, n) takes every n-th shard from the i-th on. Other writers may be at work meanwhile.
    """
    index, count = part
    for path in shard_paths(out, "latents")[index::count]:
        yield from _samples(path)


def captions(out: Path | str, part: tuple[int, int] = (0, 1)) -> Iterator[str]:
    """Every caption of a latent cache, as often as it occurs: what a text cache must hold.

    part: as for `samples`.
    """
    for sample in samples(out, part):
        yield from sample["captions"]
