"""The videos and pictures that are measured: folders, decoded by worker processes, clip by clip.

A folder is read as a data set is for training (`training.data.formats`): media files with `.txt`
captions beside them, a `metadata.jsonl`, folders of frames. Files that cannot be decoded are left
out, noted, and told in the result.

Legend: T frames, H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, field_validator

from ..data.clips import Clip, clips
from ..data.cutting import Cutting, source_to_json
from ..data.formats import MEDIA_SUFFIXES, Source, read_sources
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
    """Of a clip; None: the whole file."""
    stride: int = 1
    fps: float | None = None
    """Resample to this rate, instead of the stride."""
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
            frames=[self.frames] if self.frames else _all_lengths(size),
            stride=self.stride,
            fps=self.fps,
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

    def digest(self) -> str:
        """SHA-256 over the names and contents: the same for the same files."""
        lines = "\n".join(f"{name} {self.contents[name]}" for name in sorted(self.contents))
        return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a result says of the folder."""
        return {"files": len(self.contents), "sha256": self.digest()}

    def warnings(self, folder: Folder) -> list[str]:
        """Files that were left out, and why."""
        report, found = self.report, []
        lost = [(name, reason) for name, reason in report.quarantined]
        if lost:
            name, reason = lost[0]
            found.append(f"{folder.path}: {len(lost)} files cannot be read, as {name}: {reason}")
        for reason, number in report.drops.items():
            examples = "; ".join(report.examples[reason][:2])
            found.append(f"{folder.path}: {number} files are left out, {reason}: {examples}")
        return found


def read_clips(folder: Folder, read: Read) -> Iterator[Clip]:
    """Every clip of a folder, in the order of its names.

    Raises ValueError for a folder that is not there or gives no clip, and, where no size is given,
    for a file of another size than the first.
    """
    size = folder.size or native_size(folder)
    for clip in clips(folder.spec(size), workers=folder.workers, report=read.report):
        name = name_of(clip)
        if name not in read.contents and len(read.contents) == folder.count:
            return
        if folder.size is None and tuple(clip.micro[:2]) != size:
            height, width = map(int, clip.micro[:2])
            raise ValueError(
                f"{folder.path / name}: {width}x{height} pixels, the first file has "
                f"{size[1]}x{size[0]}: give --size, to which all are scaled and cropped"
            )
        read.contents[name] = clip.content
        yield clip
    if not read.contents:
        reasons = read.warnings(folder) or [f"{folder.path} holds no videos or pictures"]
        raise ValueError("; ".join(reasons))


def name_of(clip: Clip) -> str:
    """The file's name within its folder."""
    return clip.key.rpartition("#")[0]


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix.lower() in MEDIA_SUFFIXES else path)


def _all_lengths(size: tuple[int, int]) -> list[int]:
    most = max(1, min(_MOST_FRAMES, _CLIP_BYTES // (3 * size[0] * size[1])))
    return list(range(1, most + 1))


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


def read_pairs(
    made: Folder, true: Folder, reads: tuple[Read, Read]
) -> Iterator[tuple[str, Clip, Clip]]:
    """Clips of files that have the same name (but for the ending) in both folders.

    A file that cannot be read takes its partner with it. Raises ValueError, naming a file, where
    one of the folders lacks it, or where two partners have other sizes or lengths.
    """
    names = _common_names(made, true)
    ours, theirs = read_clips(made, reads[0]), read_clips(true, reads[1])
    a, b = next(ours, None), next(theirs, None)
    while a is not None and b is not None:
        key_a, key_b = _stem(name_of(a)), _stem(name_of(b))
        if key_a != key_b:  # one of the two has lost files
            if names[key_a] < names[key_b]:
                a = next(ours, None)
            else:
                b = next(theirs, None)
            continue
        if a.frames.shape != b.frames.shape:
            raise ValueError(
                f"{key_a} has {_shape(a)} in {made.path} and {_shape(b)} in {true.path}: give "
                "--frames and --size, by which both are cut"
            )
        yield key_a, a, b
        a, b = next(ours, None), next(theirs, None)


def _shape(clip: Clip) -> str:
    T, H, W, _ = clip.frames.shape
    return f"{T} frames of {W}x{H}"


def _common_names(made: Folder, true: Folder) -> dict[str, int]:
    """Names without their ending, with their place; the same in both folders."""
    found = []
    for folder in (made, true):
        names = [_stem(source.name) for source in folder.sources()]
        name, times = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
        if times > 1:
            raise ValueError(f"{folder.path}: {times} files are called {name}")
        found.append(names)
    for names, others, folder in ((found[0], found[1], true), (found[1], found[0], made)):
        if missing := sorted(set(names) - set(others)):
            raise ValueError(
                f"{folder.path} has no {missing[0]} ({len(missing)} are missing): partners need "
                "the same names"
            )
    return {name: place for place, name in enumerate(found[0])}
