"""The text encoder's states of every caption of a data set, encoded once.

`text-<writer>-<n>.safetensors`, ragged: no padding is stored.

- `states` (sum of lengths, W) float16, `offsets` (n + 1,) int64: caption i has the rows
  offsets[i] to offsets[i + 1];
- `pooled` (n, P) float16, absent where nothing is pooled;
- metadata `provenance` {encoder, hash, max_tokens} and `captions`, the SHA-256 of each caption.

The empty caption is always there: a dropped condition is the empty text (paper, section 3.2).
`TextStates` holds the same for a few prompts in memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stiv.header import CheckpointError

from ..names import readable
from .shards import (
    SHARD_BYTES,
    CacheWriteError,
    Stale,
    difference,
    half,
    in_part,
    next_path,
    prepare,
    read_header,
    shard_paths,
    survey,
    write_shard,
)

SHARD_CAPTIONS = 4096
_OPEN_SHARDS = 128
COMMAND = "python -m training cache text"

Row = tuple[Tensor, Tensor | None]
"""States (L, W) and pooled (P,) of a caption, float16."""


class Encoder(Protocol):
    """What is needed of `training.encoders.text.FrozenText`."""

    name: str
    hash: str
    width: int
    pooled_width: int
    max_tokens: int
    batch: int

    def encode(self, captions: Sequence[str]) -> list[tuple[Tensor, Tensor | None]]: ...


@dataclass
class TextReport:
    """What a run did: captions written, and found in the cache; names of new shards."""

    written: int = 0
    skipped: int = 0
    shards: list[str] = field(default_factory=list)


def caption_hash(caption: str) -> str:
    """SHA-256 of a caption in UTF-8, in hexadecimal: its name in the cache."""
    return hashlib.sha256(readable(caption).encode()).hexdigest()


def provenance(encoder: Encoder) -> dict[str, Any]:
    """What makes states what they are."""
    return {"encoder": encoder.name, "hash": encoder.hash, "max_tokens": encoder.max_tokens}


def cache_text(
    captions: Iterable[str],
    encoder: Encoder,
    out: Path | str,
    *,
    shard: int = SHARD_CAPTIONS,
    writer: str = "0",
    part: tuple[int, int] | None = None,
    stale: Stale = "refuse",
    progress: Callable[[TextReport], None] | None = None,
) -> TextReport:
    """Encodes the captions that are not in the cache yet, each once, and the empty one.

    Can be killed at any time, as `training.caches.latents.cache_latents`; `part`, `writer` and
    `stale` are as there.

    Raises:
        CacheWriteError: for a full disk; finished shards are untouched.
        ValueError: for stale shards, or states that float16 cannot hold.
    """
    if shard < 1:
        raise ValueError(f"shard is {shard}: expected at least 1 caption")
    folder = prepare(out, "text", writer)
    made_by = provenance(encoder)
    known = {name for header in survey(folder, "text", made_by, stale) for name in header.captions}
    report = TextReport()
    waiting = _Waiting(folder, writer, made_by, shard, report)

    def encode(batch: list[str]) -> None:
        for caption, row in zip(batch, encode_rows(batch, encoder), strict=True):
            waiting.add(caption_hash(caption), *row)
        report.written += len(batch)
        if progress:
            progress(report)

    batch: list[str] = []
    try:
        for caption in _with_empty(captions):
            name = caption_hash(caption)
            if not in_part(name, part):
                continue
            if name in known:
                report.skipped += 1
                continue
            known.add(name)
            batch.append(caption)
            # Several batches at once: the encoder sorts them by length.
            if len(batch) == 8 * encoder.batch:
                encode(batch)
                batch = []
        if batch:
            encode(batch)
    except CacheWriteError:
        raise
    except BaseException:
        waiting.write()
        raise
    waiting.write()
    return report


def encode_rows(captions: Sequence[str], encoder: Encoder) -> Iterator[Row]:
    """What is stored of each caption.

    Raises:
        ValueError: for states that float16 cannot hold, naming the caption.
    """
    encoded = encoder.encode([readable(caption) for caption in captions])
    for caption, (states, pooled) in zip(captions, encoded, strict=True):
        try:
            yield half(states), None if pooled is None else half(pooled)
        except ValueError as error:
            raise ValueError(f"caption {caption[:80]!r}: {error}") from None


def padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Text (B, L, W) float32, zero where padded; mask (B, L) bool, True for tokens; pooled (B, P)
    float32 or None. L is the longest row."""
    lengths = [len(states) for states, _ in rows]
    text_BLW = torch.zeros(len(rows), max(lengths), rows[0][0].shape[1])
    for i, (states, _) in enumerate(rows):
        text_BLW[i, : lengths[i]] = states
    mask_BL = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    pooled = None if rows[0][1] is None else torch.stack([p for _, p in rows]).float()
    return text_BLW, mask_BL, pooled


class TextStates:
    """The states of a few prompts, and of the empty one, as a cache on the disk would give them.

    Raises:
        ValueError: for states that float16 cannot hold.
    """

    def __init__(self, prompts: Iterable[str], encoder: Encoder) -> None:
        unique = list(dict.fromkeys(_with_empty(prompts)))
        self._rows = dict(zip(unique, encode_rows(unique, encoder), strict=True))

    def get(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `TextCache.get`. Raises KeyError for a prompt that was not encoded."""
        return padded([self._rows[prompt] for prompt in prompts])


def _with_empty(captions: Iterable[str]) -> Iterator[str]:
    yield ""
    yield from captions


@dataclass
class _Waiting:
    """Encoded captions on their way to a shard."""

    folder: Path
    writer: str
    made_by: Mapping[str, Any]
    limit: int
    report: TextReport
    names: list[str] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)
    bytes: int = 0

    def add(self, name: str, states: Tensor, pooled: Tensor | None) -> None:
        self.names.append(name)
        self.states.append(states)
        if pooled is not None:
            self.pooled.append(pooled)
        self.bytes += states.nbytes
        if len(self.names) >= self.limit or self.bytes >= SHARD_BYTES:
            self.write()

    def write(self) -> None:
        if not self.names:
            return
        tensors = {
            "states": torch.cat(self.states),
            "offsets": torch.tensor([0, *np.cumsum([len(s) for s in self.states])]),
        }
        if self.pooled:
            tensors["pooled"] = torch.stack(self.pooled)
        path = next_path(self.folder, "text", self.writer)
        write_shard(path, tensors, {"provenance": self.made_by, "captions": self.names})
        self.report.shards.append(path.name)
        self.names, self.states, self.pooled, self.bytes = [], [], [], 0


class TextCache:
    """Reads a text cache: memory-mapped, one dictionary look-up per caption.

    Holds about 150 bytes per caption; the states stay on the disk. May be sent to other
    processes, which open the files themselves.

    Attributes:
        provenance: {encoder, hash, max_tokens}.
        width: W. pooled_width: P, 0 where nothing is pooled.

    Raises:
        ValueError: for a folder without shards, damaged shards, or shards of several encoders.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser()
        self.paths = shard_paths(self.folder, "text")
        if not self.paths:
            raise ValueError(f"{self.folder}: holds no text cache; run {COMMAND} first")
        self._places: dict[bytes, tuple[int, int]] = {}
        self._offsets: list[np.ndarray] = []
        self._files: OrderedDict[int, Any] = OrderedDict()
        for number, path in enumerate(self.paths):
            header = read_header(path)
            made_by = (header.provenance, header.shape[1], header.pooled_width)
            if number == 0:
                self.provenance, self.width, self.pooled_width = made_by
            elif made_by != (self.provenance, self.width, self.pooled_width):
                what = difference(header.provenance, self.provenance) or "other widths"
                raise ValueError(
                    f"{path}: {what}, as {self.paths[0].name} says: a cache holds one encoder's "
                    "states; move the others to a folder of their own"
                )
            self._offsets.append(self._read_offsets(number, header.shape[0]))
            for row, name in enumerate(header.captions):
                self._places[bytes.fromhex(name)] = (number, row)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, caption: str) -> bool:
        return bytes.fromhex(caption_hash(caption)) in self._places

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def missing(self, captions: Iterable[str]) -> list[str]:
        """The captions that are not in the cache, each once."""
        return list(dict.fromkeys(caption for caption in captions if caption not in self))

    def get(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Text, mask and pooled of captions, see `padded`.

        Raises:
            ValueError: naming the first caption that is missing, and the command that adds it.
        """
        if not captions:
            raise ValueError("no captions were asked for")
        return padded([self._get(caption) for caption in captions])

    def _get(self, caption: str) -> Row:
        place = self._places.get(bytes.fromhex(caption_hash(caption)))
        if place is None:
            short = caption if len(caption) <= 80 else caption[:80] + "…"
            raise ValueError(
                f"{self.folder}: caption {short!r} is not in the text cache: run {COMMAND} again, "
                "it adds what is missing"
            )
        number, row = place
        start, end = self._offsets[number][row : row + 2].tolist()
        file = self._open(number)
        pooled = file.get_slice("pooled")[row] if self.pooled_width else None
        return file.get_slice("states")[start:end], pooled

    def _open(self, number: int) -> Any:
        if number not in self._files:
            if len(self._files) >= _OPEN_SHARDS:
                self._files.popitem(last=False)
            path = self.paths[number]
            try:
                self._files[number] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(path, f"cannot be read: {error}") from error
        self._files.move_to_end(number)
        return self._files[number]

    def _read_offsets(self, number: int, total: int) -> np.ndarray:
        offsets = self._open(number).get_tensor("offsets").numpy().copy()
        if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 1).any():
            raise CheckpointError(
                self.paths[number],
                f"is no sound shard: its offsets do not rise from 0 to {total}; delete it and run "
                f"{COMMAND} again",
            )
        return offsets
