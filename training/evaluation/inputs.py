"""The videos and pictures that are measured: folders, decoded by worker processes, clip by clip.

A folder is read as a data set is for training (`training.data.formats`): media files with `.txt`
captions beside them, a `metadata.jsonl`, folders of frames. Files that cannot be decoded are left
out, noted, and told in the result.

Legend: T frames, H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ..data.clips import Clip, clips
from ..data.cutting import Cutting, Drop, source_to_json
from ..data.formats import MEDIA_SUFFIXES, Source, read_sources
from ..data.media import MediaError
from ..data.report import Report
from ..data.sources import DataSpec
from ..data.workers import Workers

_CLIP_BYTES = 2**29  # of one clip's pixels: a longer one is measured up to there
_MOST_FRAMES = 4096


class ClipSpec(DataSpec):
    """A `DataSpec` for measuring: any size, every file wanted, small ones enlarged."""

    sizes: list[tuple[int, int]] = Field(min_length=1, max_length=1)
    frames: list[int] = Field(min_length=1, max_length=_MOST_FRAMES)

    @field_validator("sizes")
    @classmethod
    def _check_sizes(cls, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return sizes  # `Folder` has checked them; they need not suit a model


@dataclass(frozen=True)
class Folder:
    """A folder (or list, or tar) and how clips are taken from it."""

    path: Path
    captions: Path | None = None
    """A list (`.jsonl`, `.csv`) that names the folder's files and their captions."""
    size: tuple[int, int] | None = None
    """(H, W): files are scaled and cropped at the centre; None: all have to have one size."""
    frames: int | None = None
    """Of a clip; None: the whole file, up to `longest`."""
    stride: int = 1
    extract: str = "first"
    per_file: int = 1
    """Clips of a file where extract is uniform."""
    count: int | None = None
    """Of files, at most."""
    workers: int = 2

    def __post_init__(self) -> None:
        if self.size and any(not 8 <= side <= 8192 for side in self.size):
            height, width = self.size
            raise ValueError(f"size {height}x{width}: expected sides from 8 to 8192 pixels")
        limits = {"frames": _MOST_FRAMES, "stride": 1000, "per_file": 10_000, "workers": 64}
        limits |= {"count": 10**9}
        for name, most in limits.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name} is {value}: expected 1 to {most}")

    def settings(self) -> dict[str, Any]:
        """As a result tells them."""
        values = {key: value for key, value in asdict(self).items() if key != "workers"}
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}

    def sources(
        self, reject: Callable[[str, str], None] = lambda name, reason: None
    ) -> Iterator[Source]:
        """Its entries, without decoding. Raises ValueError where there are none."""
        return read_sources(self.captions or self.path, media=self._media(), reject=reject)

    def spec(self, size: tuple[int, int]) -> ClipSpec:
        """What its clips are cut by."""
        return ClipSpec(
            path=self.captions or self.path,
            media=self._media(),
            sizes=[size],
            # One frame more than is measured tells a file that is longer.
            frames=[self.frames] if self.frames else list(range(1, longest(size) + 2)),
            stride=self.stride,
            extract=self.extract,
            clips_per_video=self.per_file,
            min_side=1,
            uncaptioned="empty",
        )

    def _media(self) -> Path | None:
        return self.path if self.captions else None


@dataclass
class Read:
    """What became of a folder's files while they were read."""

    report: Report = field(default_factory=Report)
    contents: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file that gave a clip, by name."""
    shortened: dict[str, int] = field(default_factory=dict)
    """Files that are longer than what was measured of them, and how many frames that is."""

    def digest(self) -> str:
        """SHA-256 over the names and contents: the same for the same files."""
        lines = "\n".join(f"{name} {self.contents[name]}" for name in sorted(self.contents))
        return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a result says of the folder."""
        facts = {"files": len(self.contents), "sha256": self.digest()}
        if self.shortened:
            facts["shortened"] = {"files": len(self.shortened), "frames": self._measured()}
        return facts

    def warnings(self, folder: Folder) -> list[str]:
        """Files that were left out or cut short, and why."""
        report, found = self.report, []
        lost = [(name, reason) for name, reason in report.quarantined]
        if lost:
            name, reason = lost[0]
            found.append(f"{folder.path}: {len(lost)} files cannot be read, as {name}: {reason}")
        for reason, number in report.drops.items():
            examples = "; ".join(report.examples[reason][:2])
            found.append(f"{folder.path}: {number} files are left out, {reason}: {examples}")
        if self.shortened:
            found.append(
                f"{folder.path}: of {len(self.shortened)} files only the first {self._measured()} "
                f"frames are measured, the most that are kept in memory, as {min(self.shortened)}: "
                "say by --frames how many are wanted, or scale them down by --size"
            )
        return found

    def _measured(self) -> int:
        return max(self.shortened.values())


def longest(size: tuple[int, int]) -> int:
    """Frames of (H, W) pixels that are measured of a file where no number is given, at most."""
    return max(1, min(_MOST_FRAMES - 1, _CLIP_BYTES // (3 * size[0] * size[1])))


def read_clips(folder: Folder, read: Read) -> Iterator[Clip]:
    """Every clip of a folder, in the order of its names.

    Raises ValueError for a folder that is not there or gives no clip, and, where no size is given,
    for a file of another size than the first.
    """
    size = folder.size or native_size(folder)
    for clip in clips(folder.spec(size), workers=folder.workers, report=read.report):
        if name_of(clip) not in read.contents and len(read.contents) == folder.count:
            return
        yield _noted(clip, folder, size, read)
    if not read.contents:
        reasons = read.warnings(folder) or [f"{folder.path} holds no videos or pictures"]
        raise ValueError("; ".join(reasons))


def _noted(clip: Clip, folder: Folder, size: tuple[int, int], read: Read) -> Clip:
    """The clip as it is measured. Raises ValueError for one of another size than the first."""
    name = name_of(clip)
    if folder.size is None and tuple(clip.micro[:2]) != size:
        height, width = map(int, clip.micro[:2])
        raise ValueError(
            f"{folder.path / name}: {width}x{height} pixels, the first file has "
            f"{size[1]}x{size[0]}: give --size, to which all are scaled and cropped"
        )
    read.contents[name] = clip.content
    if folder.frames is None and len(clip.frames) > longest(size):
        read.shortened[name] = longest(size)
        clip = replace(clip, frames=clip.frames[: longest(size)])
    return clip


def name_of(clip: Clip) -> str:
    """The file's name within its folder."""
    return clip.key.rpartition("#")[0]


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix.lower() in MEDIA_SUFFIXES else path)


def native_size(folder: Folder) -> tuple[int, int]:
    """(H, W) of the folder's first file that can be read. ValueError where none can."""
    reasons: list[str] = []
    cutting = Cutting(sizes=[[8, 8]], frames=[1], min_side=1)
    with Workers(1) as pool:
        for source in folder.sources(lambda name, why: reasons.append(f"{name}: {why}")):
            request = {"job": "plan", "source": source_to_json(source), "cutting": asdict(cutting)}
            header, _ = pool.submit(request).result()
            for cut in header.get("cuts", ()):
                return int(cut["micro"][0]), int(cut["micro"][1])
            reasons.append(f"{source.name}: {header.get('error') or header.get('drop')}")
    raise ValueError(f"{folder.path}: no video or picture that can be read: {reasons[:3]}")


# --- one file by itself, and pairs ----------------------------------------------------------------


def first_clip(source: Source, cutting: dict[str, Any], pool: Workers) -> Clip:
    """The first clip of a file, by a `Cutting`. Raises Drop or MediaError where it has none."""
    request = {"source": source_to_json(source), "cutting": cutting}
    header, _ = pool.submit({"job": "plan", **request}).result()
    if "drop" in header:
        raise Drop(*header["drop"])
    if "cuts" in header:
        cut = header["cuts"][0]
        header, pixels = pool.submit({"job": "cut", "cut": cut, **request}).result()
        if "shape" in header:
            frames = np.frombuffer(pixels, np.uint8).reshape(header["shape"])
            facts = tuple(cut["micro"]), cut["key"], cut["content"], cut["fps"]
            return Clip(frames, source.captions, *facts)
    raise MediaError(header.get("error", "it gives no clip"))


def read_pairs(
    made: Folder, true: Folder, reads: tuple[Read, Read]
) -> Iterator[tuple[str, Clip, Clip]]:
    """Clips of files that have the same name (but for the ending) in both folders, in its order.

    A file that cannot be read takes its partner with it. Raises ValueError, naming a file, where
    one of the folders lacks it, or where two partners have other sizes or lengths.
    """
    names, ours, theirs = _partners(made, true, reads)
    both = zip(
        names, first_clips(made, ours, reads[0]), first_clips(true, theirs, reads[1]), strict=True
    )
    whole = ((name, a, b) for name, a, b in both if a is not None and b is not None)
    for name, a, b in islice(whole, made.count):
        if a.frames.shape != b.frames.shape:
            raise ValueError(
                f"{name} has {_shape(a)} in {made.path} and {_shape(b)} in {true.path}: give "
                "--frames and --size, by which both are cut"
            )
        yield name, a, b


def _shape(clip: Clip) -> str:
    T, H, W, _ = clip.frames.shape
    return f"{T} frames of {W}x{H}"


def _partners(
    made: Folder, true: Folder, reads: tuple[Read, Read]
) -> tuple[list[str], list[Source], list[Source]]:
    """Names without their ending, and the files of both folders by that name. The folders' own
    orders may differ: by an ending, or where a list names the files."""
    ours, theirs = (_by_stem(*side) for side in zip((made, true), reads, strict=True))
    for one, other, folder, read in (
        (ours, theirs, true, reads[1]),
        (theirs, ours, made, reads[0]),
    ):
        if missing := sorted(one.keys() - other.keys()):
            text = (
                f"{folder.path} has no {missing[0]} ({len(missing)} are missing): partners need "
                "the same names"
            )
            raise ValueError("; ".join([text, *read.warnings(folder)]))
    names = sorted(ours)
    return names, [ours[name] for name in names], [theirs[name] for name in names]


def _by_stem(folder: Folder, read: Read) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for source in folder.sources(read.report.quarantine):
        before = found.setdefault(_stem(source.name), source)
        if before is not source:
            raise ValueError(
                f"{folder.path}: two files are called {_stem(source.name)}: {before.name} and "
                f"{source.name}"
            )
    return found


def first_clips(folder: Folder, sources: Sequence[Source], read: Read) -> Iterator[Clip | None]:
    """The first clip of every file, in their order; None, which `read` notes, for one that gives
    none. Raises ValueError as `read_clips` does."""
    size = folder.size or native_size(folder)
    cutting = asdict(folder.spec(size).cutting())
    with ThreadPoolExecutor(folder.workers) as threads, Workers(folder.workers) as pool:

        def ask(source: Source) -> tuple[Source, Future[Clip]]:
            return source, threads.submit(first_clip, source, cutting, pool)

        left = iter(sources)
        waiting = deque(map(ask, islice(left, 2 * folder.workers)))
        while waiting:
            source, future = waiting.popleft()
            waiting.extend(map(ask, islice(left, 1)))
            try:
                clip = future.result()
            except Drop as drop:
                read.report.drop(source.name, drop.reason, drop.detail)
            except MediaError as error:
                read.report.quarantine(source.name, str(error))
            else:
                yield _noted(clip, folder, size, read)
                continue
            yield None
