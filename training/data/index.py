"""A compiled index over a folder of latent shards: which samples there are, without opening them.

A data set of 90 million clips has some 180 thousand shards. Their headers are read once, when the
index is compiled; afterwards a sample is found by reading six bytes of one file, so a process
holds nothing that grows with the number of clips but the names of the shards.

`<folder>/index/<stamp>.json` lists shards, buckets, provenance and the digest of the data;
`<stamp>.npy` holds one (shard, row) entry per sample, sorted so that every bucket is one range.
The stamp is a hash over names, sizes and times of the shards: a folder that changed gets a new
index, and a run that reads the old one is left alone. `index/` may be deleted between runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from .plan import STRIDE

log = logging.getLogger(__name__)

FORMAT = "1"
"""Of the shards that the index understands."""

ENTRY = np.dtype([("shard", "<u4"), ("row", "<u2")])
"""One sample: number of its shard in the list of names, row in that shard."""

SHARDS = "latents-*.safetensors"
_PREFIX, _SUFFIX = SHARDS.split("*")
_NAME = re.compile(rf"{re.escape(_PREFIX)}[^/\\]*{re.escape(_SUFFIX)}", re.DOTALL)
DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, OSError),
    *(RecursionError, TypeError, ValueError),
)
"""What reading JSON whose values may be anything can end in."""

_LAYOUT = "2"  # of the index: one of another layout is left alone, and a new one made
_MAX_ROWS = 2**16  # a row is two bytes
_MAX_INDEX_BYTES = 2**28  # of the JSON: four million shards
_NAMED = 8  # broken shards that an error names


class Place(NamedTuple):
    """Where a sample is: shard, the shard's size in bytes when it was indexed, row in it."""

    path: Path
    size: int
    row: int


@dataclass(frozen=True)
class ShardInfo:
    """What the index needs to know of a shard. `shape`: (n, C, T, h, w). `strides`: of its
    samples' micro conditions, least and most."""

    shape: tuple[int, ...]
    strides: tuple[float, float]
    provenance: dict[str, Any]
    digest: bytes

    @property
    def bucket(self) -> str:
        """TxHxW in latent units."""
        return "x".join(map(str, self.shape[2:]))


@dataclass(frozen=True)
class Index:
    """An index that was read: what is in a folder of shards, and where.

    `buckets`: the range of entries of each bucket. `strides`: least and most of each, frames of
    the original clip per frame. `digest`: SHA-256 over what all shards say of themselves (samples
    with the hashes of their sources, encoder, latent space), the same on every machine that holds
    the same cache.
    """

    folder: Path
    entries: Path
    offset: int
    shards: tuple[str, ...]
    sizes: np.ndarray  # of the shards, bytes
    buckets: Mapping[str, range]
    strides: Mapping[str, tuple[float, float]]
    provenance: dict[str, Any]
    channels: int
    digest: str

    @classmethod
    def open(cls, folder: Path | str) -> Index:
        """The index of a cache folder, compiled first where it is missing or out of date.

        Raises ValueError as `compile_index` does, and where the index itself is damaged.
        """
        path = compile_index(folder)
        try:
            if path.stat().st_size > _MAX_INDEX_BYTES:
                raise ValueError(f"larger than {_MAX_INDEX_BYTES} bytes")
            described = json.loads(path.read_bytes())
            entries = path.with_suffix(".npy")
            offset, count = _entries_layout(entries)
            buckets = {name: range(*ends) for name, ends in described["buckets"].items()}
            if sum(map(len, buckets.values())) != count:
                raise ValueError(f"{entries.name} holds {count} entries")
            if not all(map(_NAME.fullmatch, described["shards"])):  # one may lead elsewhere
                raise ValueError("it lists files that are no shards of this folder")
            if len(described["sizes"]) != len(described["shards"]):
                raise ValueError("its shards and sizes are not as many")
            return cls(
                folder=Path(folder),
                entries=entries,
                offset=offset,
                shards=tuple(described["shards"]),
                sizes=np.array(described["sizes"], np.int64),
                buckets=buckets,
                strides={name: _ends(described["strides"][name]) for name in buckets},
                provenance=described["provenance"],
                channels=described["channels"],
                digest=described["digest"],
            )
        except DAMAGE as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete {path.parent}, it is made again"
            ) from error

    def find(self, bucket: str, index: int) -> Place:
        """Where sample `index` of a bucket is.

        Raises IndexError outside the bucket, KeyError for a bucket that is not there, OSError
        where the index was deleted, ValueError where it is damaged.
        """
        position = self.buckets[bucket][index]
        # A plain read, not a memory map: pages of a map that random access touched count as
        # resident memory, and over a long run that is all of them.
        with open(self.entries, "rb", buffering=0) as file:
            file.seek(self.offset + position * ENTRY.itemsize)
            shard, row = np.frombuffer(file.read(ENTRY.itemsize), ENTRY)[0].item()
        if shard >= len(self.shards):
            raise ValueError(
                f"{self.entries} is damaged: delete {self.entries.parent}, it is made again"
            )
        return Place(self.folder / self.shards[shard], int(self.sizes[shard]), row)


def compile_index(folder: Path | str) -> Path:
    """Index the shards of a cache folder where that was not done yet; returns the JSON's path.

    Several processes may do so at once; each file appears whole or not at all. Where many ranks
    share a file system, let one of them call this first and the others wait: it saves the work
    of reading every header many times. Of the tensors only `micro` is read, and no shard when
    nothing changed.

    Raises ValueError where the folder holds no shards, where shards are broken (named), or were
    not made by one encoder for one latent space; OSError where the index cannot be written.
    """
    path = _place(Path(folder), _scan(Path(folder)))
    if path.exists() and path.with_suffix(".npy").exists():
        return path
    names, sizes, path = survey(folder)
    log.info("indexing %d shards of %s", len(names), folder)
    write_index(path, names, sizes, _read_all(Path(folder), names))
    return path


def survey(folder: Path | str) -> tuple[list[str], list[int], Path]:
    """Names and bytes of a folder's shards as they are now, and the path of their index."""
    lines = _scan(Path(folder))
    names = [line.split("\0")[0] for line in lines]
    sizes = [int(line.split("\0")[1]) for line in lines]
    return names, sizes, _place(Path(folder), lines)


def write_index(path: Path, names: list[str], sizes: list[int], infos: list[ShardInfo]) -> None:
    """Write the index of shards that were described. Raises ValueError where they differ."""
    _check_alike(path.parent.parent, names, infos)
    path.parent.mkdir(exist_ok=True)
    buckets = _by_bucket(infos)
    with _appearing(path.with_suffix(".npy")) as file:
        _write_entries(file, infos, buckets)
    described = {
        "stiv.index": _LAYOUT,
        "digest": _hash(*(info.digest for info in infos)).hex(),
        "provenance": infos[0].provenance,
        "channels": infos[0].shape[1],
        "buckets": dict(_ranges(infos, buckets)),
        "strides": {
            name: _ends(stride for number in numbers for stride in infos[number].strides)
            for name, numbers in buckets.items()
        },
        "shards": names,
        "sizes": sizes,
    }
    with _appearing(path) as file:
        file.write(json.dumps(described).encode())


def describe_shard(path: Path) -> ShardInfo:
    """What a shard says of itself; its latents are not read, its header is at most 100 MB.

    The table of its samples, most of the work of `training.caches.shards.read_header`, is left
    unparsed, and checked where samples are loaded.

    Raises ValueError with the reason where it is no whole shard of this format.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            latents, micro = file.get_slice("latents"), file.get_slice("micro")
            shape = _checked_shape(latents.get_shape(), micro.get_shape())
            strides = _ends(micro[:, STRIDE].tolist())
        provenance = json.loads(metadata.get("provenance", "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if metadata.get("stiv.cache") != FORMAT:
        raise ValueError(f"stiv.cache is {metadata.get('stiv.cache')!r}, not {FORMAT!r}")
    if not isinstance(provenance, dict) or "encoder" not in provenance:
        raise ValueError("its provenance names no encoder")
    if not isinstance(provenance.get("latents"), dict):
        raise ValueError("its provenance describes no latent space")
    keys = ("provenance", "samples", "stiv.tensor_hash")
    texts = (str(shape), *(metadata.get(key, "") for key in keys))
    return ShardInfo(shape, strides, provenance, _hash(*(text.encode() for text in texts)))


def _checked_shape(latents: list[int], micro: list[int]) -> tuple[int, ...]:
    if len(latents) != 5 or not 0 < latents[0] <= _MAX_ROWS or micro != [latents[0], 6]:
        raise ValueError(f"latents {latents} and micro {micro}, not (n, C, T, h, w) and (n, 6)")
    return tuple(latents)


def _scan(folder: Path) -> list[str]:
    """A line "name, bytes, modification time (ns)" for every shard, by name.

    Every run holds this list once: as tuples it would be twice as large.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give the folder of a latent cache")
    with os.scandir(folder) as entries:
        found = [
            f"{entry.name}\0{(stat := entry.stat()).st_size}\0{stat.st_mtime_ns}\n"
            for entry in entries
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)
        ]
    if not found:
        raise ValueError(
            f"{folder} holds no {SHARDS}: run `python -m training cache latents` for it first"
        )
    found.sort()  # \0 comes before all that a longer name could have there
    return found


def _place(folder: Path, lines: list[str]) -> Path:
    """The path of the index of these shards."""
    stamp = hashlib.sha256(f"{FORMAT}.{_LAYOUT}".encode())
    for line in lines:
        stamp.update(line.encode(errors="surrogateescape"))
    return folder / "index" / f"{stamp.hexdigest()[:32]}.json"


def _read_all(folder: Path, names: list[str]) -> list[ShardInfo]:
    infos, broken = [], []
    for name in names:
        try:
            infos.append(describe_shard(folder / name))
        except ValueError as error:
            broken.append(f"{name} ({error})")
    if broken:
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ValueError(
            f"{folder}: broken shards {'; '.join(broken[:_NAMED])}{more}. Delete them and run "
            "`python -m training cache latents` again: it makes what is missing"
        )
    return infos


def _check_alike(folder: Path, names: list[str], infos: list[ShardInfo]) -> None:
    """One encoder, one latent space. Clips may have been cut in several ways."""
    first = infos[0]
    for name, info in zip(names, infos, strict=True):
        for key in ("encoder", "latents"):
            if info.provenance[key] != first.provenance[key]:
                raise ValueError(
                    f"{folder / name}: {key} is {info.provenance[key]}, that of {names[0]} is "
                    f"{first.provenance[key]}. Keep the caches of different encoders in folders "
                    "of their own"
                )
        if info.shape[1] != first.shape[1]:
            raise ValueError(
                f"{folder / name}: {info.shape[1]} channels, {names[0]} has {first.shape[1]}"
            )


def _by_bucket(infos: list[ShardInfo]) -> dict[str, list[int]]:
    """Numbers of the shards of each bucket."""
    buckets: dict[str, list[int]] = {}
    for number, info in enumerate(infos):
        buckets.setdefault(info.bucket, []).append(number)
    return dict(sorted(buckets.items()))


def _ends(strides: Iterable[float]) -> tuple[float, float]:
    """The least and the most. Raises ValueError where one is no stride."""
    least, most = min(strides := list(strides)), max(strides)
    if not all(map(math.isfinite, strides)) or least <= 0:
        raise ValueError(f"strides {least} to {most}: expected numbers above 0")
    return least, most


def _ranges(infos: list[ShardInfo], buckets: dict[str, list[int]]) -> Iterator[tuple]:
    start = 0
    for bucket, numbers in buckets.items():
        stop = start + sum(infos[number].shape[0] for number in numbers)
        yield bucket, (start, stop)
        start = stop


def _write_entries(file: IO[bytes], infos: list[ShardInfo], buckets: dict[str, list[int]]) -> None:
    """The .npy of all entries, shard by shard: it may be larger than memory."""
    count = sum(info.shape[0] for info in infos)
    described = {"descr": ENTRY.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, described)
    for number in (number for numbers in buckets.values() for number in numbers):
        part = np.empty(infos[number].shape[0], ENTRY)
        part["shard"], part["row"] = number, np.arange(len(part))
        file.write(part.tobytes())


def _entries_layout(path: Path) -> tuple[int, int]:
    """Byte at which the entries start, and how many there are. Raises ValueError if damaged."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    if dtype != ENTRY or path.stat().st_size != offset + shape[0] * ENTRY.itemsize:
        raise ValueError(f"{path.name} is not whole")
    return offset, shape[0]


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when it is complete, and leaves nothing if it fails."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(part, path)
        except PermissionError:  # Windows, where another process made and opened the same file
            if not path.exists():
                raise
    finally:
        part.unlink(missing_ok=True)


def _hash(*parts: bytes) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.digest()
