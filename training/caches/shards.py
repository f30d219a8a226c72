"""Shards: safetensors files of a few hundred samples that say what made them.

A shard appears whole or not at all: it is written under a name that ends in `.part`, forced to
the disk, and renamed. Its metadata holds, as JSON, the provenance (which encoder, what it was
given) and what the rows are, and a SHA-256 over its tensors, by which data sets are told apart.
Several writers share a folder when each has a name of its own (`writer`), which is part of the
names of its files; whoever changes a shard that is there does so within `revising`.

Two kinds: `latents-<bucket>-<writer>-<n>` (`training.caches.latents`) and `text-<writer>-<n>`
(`training.caches.text`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stiv.checkpoint import tensor_hash
from stiv.header import CheckpointError, TensorInfo, parse_json
from stiv.header import read_header as read_file_header

from ..names import readable

log = logging.getLogger(__name__)

FORMAT = "1"
SHARD_SAMPLES = 512
SHARD_BYTES = 256 * 2**20
"""A shard is closed when its samples take this much, however few they are."""
_METADATA_CHARACTERS = 32 * 2**20  # half of what a reader accepts
_NAMED = 5  # files that an error names

Kind = Literal["latents", "text"]
Stale = Literal["refuse", "rewrite"]


class CacheWriteError(OSError):
    """A shard could not be written; what was finished before is whole and stays."""


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself, checked against its tensors' shapes.

    Attributes:
        shape: of latents (n, C, T, h, w), or of text states (sum of L, W).
        provenance: encoder, and what it was given.
        samples: of latents, one table per row: key, content, captions, fps.
        captions: of text, the SHA-256 of every caption.
        pooled_width: of text, P, or 0.
    """

    path: Path
    shape: tuple[int, ...]
    provenance: dict[str, Any]
    samples: tuple[dict[str, Any], ...] = ()
    captions: tuple[str, ...] = ()
    pooled_width: int = 0

    @property
    def bucket(self) -> str:
        """TxHxW of latents, in latent units."""
        return "x".join(map(str, self.shape[2:]))


def read_header(path: Path | str) -> ShardHeader:
    """The header of a shard of either kind; reads no tensor, and of the file no more than that.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    path = Path(path)
    header = read_file_header(path)
    version = header.metadata.get("stiv.cache")
    if version != FORMAT:
        raise CheckpointError(
            path, f"stiv.cache is {version!r}, expected {FORMAT!r}: it is no shard of a cache, or "
            "of another version; move it out of the cache",
        )  # fmt: skip
    try:
        provenance = parse_json(header.metadata.get("provenance", "null"))
        if not isinstance(provenance, dict) or not isinstance(provenance.get("encoder"), str):
            raise ValueError("its provenance names no encoder")
        facts = (_latents if "latents" in header.tensors else _text)(
            header.tensors, header.metadata
        )
    except ValueError as error:
        raise CheckpointError(path, f"is no sound shard: {error}; delete it and run the "
                              "cache command again") from None  # fmt: skip
    return ShardHeader(path=path, provenance=provenance, **facts)


def _latents(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> dict[str, Any]:
    shape = _tensor(tensors, "latents", "F16", 5)
    samples = parse_json(metadata.get("samples", "null"))
    if not isinstance(samples, list) or len(samples) != shape[0] or not samples:
        raise ValueError(f"{shape[0]} latents, but metadata of another number of samples")
    if _tensor(tensors, "micro", "F32", 2) != (len(samples), 6):
        raise ValueError(f"micro is not ({len(samples)}, 6)")
    for sample in samples:
        good = isinstance(sample, dict) and isinstance(sample.get("captions"), list)
        if not good or not all(isinstance(sample.get(k), str) for k in ("key", "content")):
            raise ValueError("a sample lacks key, content or captions")
        if not all(isinstance(caption, str) for caption in sample["captions"]):
            raise ValueError(f"a caption of {sample['key'][:80]!r} is no text")
    return {"shape": shape, "samples": tuple(samples)}


def _text(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> dict[str, Any]:
    shape = _tensor(tensors, "states", "F16", 2)
    captions = parse_json(metadata.get("captions", "null"))
    good = isinstance(captions, list) and len(captions) > 0
    if not good or not all(
        isinstance(c, str) and re.fullmatch("[0-9a-f]{64}", c) for c in captions
    ):
        raise ValueError("captions is not a list of SHA-256 in hexadecimal")
    if _tensor(tensors, "offsets", "I64", 1) != (len(captions) + 1,):
        raise ValueError(f"offsets are not {len(captions) + 1}, for {len(captions)} captions")
    pooled = 0
    if "pooled" in tensors:
        rows, pooled = _tensor(tensors, "pooled", "F16", 2)
        if rows != len(captions):
            raise ValueError(f"{rows} pooled states for {len(captions)} captions")
    return {"shape": shape, "captions": tuple(captions), "pooled_width": pooled}


def _tensor(tensors: Mapping[str, TensorInfo], name: str, dtype: str, dims: int) -> tuple[int, ...]:
    info = tensors.get(name)
    if info is None:
        raise ValueError(f"tensor {name} is missing")
    if info.dtype != dtype or len(info.shape) != dims:
        raise ValueError(f"{name} is {info.dtype} {info.shape}, expected {dtype} of {dims} axes")
    return info.shape


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a shard, memory-mapped. Raises CheckpointError where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from error


def write_shard(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes a shard whole or not at all; one that was there is replaced.

    Args:
        path: the final name.
        metadata: values that are no text are stored as JSON.

    Raises:
        CacheWriteError: when the disk is full or the file cannot be written; no part of it is
            left.
        ValueError: when the metadata is larger than a reader accepts.
    """
    texts = {"stiv.cache": FORMAT, "stiv.tensor_hash": tensor_hash(tensors)}
    texts |= {k: v if isinstance(v, str) else compact(v) for k, v in metadata.items()}
    if sum(map(len, texts.values())) > _METADATA_CHARACTERS:
        raise ValueError(
            f"{path}: captions and keys of its {len(next(iter(tensors.values())))} samples take "
            f"more than {_METADATA_CHARACTERS:,} characters; make shards smaller"
        )
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, texts)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        wrong = CacheWriteError(
            f"{path}: a shard of {len(data) / 2**20:.1f} MiB could not be written: "
            f"{error.strerror or error}. The shards beside it are whole; make room (or choose "
            "another folder) and run the same command again: it goes on from there"
        )
        wrong.errno = error.errno
        raise wrong from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)  # the new name too must survive a power cut
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shard_paths(folder: Path | str, kind: Kind) -> list[Path]:
    """The finished shards of a kind in a folder, by name; none where there is no folder."""
    return sorted(path for path in Path(folder).glob(f"{kind}-*.safetensors") if path.is_file())


def next_path(folder: Path, stem: str, writer: str) -> Path:
    """The first free name of a writer: `<stem>-<writer>-<n>.safetensors`."""
    pattern = re.compile(rf"{re.escape(stem)}-{re.escape(writer)}-(\d+)\.safetensors")
    found = (pattern.fullmatch(path.name) for path in folder.glob(f"{stem}-{writer}-*.safetensors"))
    number = 1 + max((int(match[1]) for match in found if match), default=-1)
    return folder / f"{stem}-{writer}-{number:05d}.safetensors"


def prepare(folder: Path | str, kind: Kind, writer: str) -> Path:
    """Makes the folder, and clears what a killed run of the same writer left half-written.

    Raises:
        ValueError: for a writer's name that does not fit into a file name.
        CacheWriteError: when the folder cannot be made.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", writer):
        raise ValueError(f"writer is {writer!r}: expected up to 64 letters, digits or _")
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheWriteError(f"{folder}: cannot be made: {error.strerror or error}") from error
    own = re.compile(rf"{kind}-(.*-)?{re.escape(writer)}-\d+\.safetensors\.part")
    for part in filter(lambda path: own.fullmatch(path.name), folder.glob(f"{kind}-*.part")):
        with revising(folder):  # another writer may be at it: then it is gone afterwards
            if part.exists():
                log.info("removing %s, left by a run that was stopped while writing it", part)
                part.unlink()
    return folder


@contextmanager
def revising(folder: Path) -> Iterator[None]:
    """Alone among the writers of a folder, on all machines, that change shards of one another."""
    from filelock import FileLock  # torch brings it

    with FileLock(folder / ".revising.lock"):
        yield


def survey(
    folder: Path | str, kind: Kind, provenance: Mapping[str, Any], stale: Stale = "refuse"
) -> list[ShardHeader]:
    """The headers of all shards of a kind that are sound and of this provenance.

    Args:
        stale: what to do about others, which are damaged or were made by another encoder or from
            other clips: "refuse" raises, so that no expensive cache is lost to a wrong path;
            "rewrite" deletes them, for their samples to be computed anew.

    Raises:
        ValueError: naming the first of them and what differs.
    """
    if stale not in ("refuse", "rewrite"):
        raise ValueError(f"stale is {stale!r}: expected refuse or rewrite")
    wanted = json.loads(compact(dict(provenance)))
    good, bad = [], {}
    for path in shard_paths(folder, kind):
        try:
            header = read_header(path)
        except CheckpointError as error:
            if not path.exists():  # another writer dropped it meanwhile
                continue
            bad[path] = str(error).removeprefix(f"{path}: ")
            continue
        if header.provenance == wanted:
            good.append(header)
        else:
            bad[path] = difference(header.provenance, wanted)
    if not bad:
        return good
    lines = [f"{path.name}: {reason}" for path, reason in list(bad.items())[:_NAMED]]
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    if stale == "refuse":
        raise ValueError(
            f"{folder}: {len(bad)} of {len(bad) + len(good)} shards do not fit this run "
            f"({'; '.join(lines)}{more}). Choose another folder for this cache, or ask for stale "
            "shards to be rewritten: they are then deleted and computed again"
        )
    log.warning("%s: deleting %d stale shards: %s%s", folder, len(bad), "; ".join(lines), more)
    for path in bad:
        path.unlink(missing_ok=True)
    return good


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any], name: str = "") -> str:
    """The first place where two provenances differ, for a message."""
    for key in sorted({*found, *wanted}, key=str):
        a, b, where = found.get(key), wanted.get(key), f"{name}.{key}" if name else str(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if inner := difference(a, b, where):
                return inner
        elif a != b:
            return f"made with {where} {_short(a)}, now {_short(b)}"
    return ""


def in_part(key: str, part: tuple[int, int] | None) -> bool:
    """Whether a key belongs to part i of n, by its hash: every key to exactly one part."""
    if part is None:
        return True
    index, count = part
    if not 0 <= index < count:
        raise ValueError(f"part is {index}/{count}: expected i/n with 0 <= i < n")
    return (
        int.from_bytes(hashlib.sha256(readable(key).encode()).digest()[:8], "big") % count == index
    )


def compact(value: Any) -> str:
    """JSON without spaces. Raises ValueError for what JSON has not, such as NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def half(tensor: Tensor) -> Tensor:
    """As float16. Raises ValueError for values that it cannot hold, or that are no numbers."""
    result = tensor.to(torch.float16)
    if not torch.isfinite(result).all():
        largest = float(tensor.abs().max())
        raise ValueError(
            f"not a number, or too large for float16 (largest {largest:g}): encode in float32 or "
            "bfloat16, this encoder may overflow in float16"
        )
    return result


def _short(value: Any) -> str:
    text = compact(value)
    return text if len(text) <= 60 else text[:60] + "…"
