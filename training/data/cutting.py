"""Which clips a file gives, and the pixels of each: what the worker processes run.

`plan` measures a file and lists its clips, `cut` decodes one of them. Both depend on the file and
the `Cutting` alone, so it does not matter which process does which, or when. The paper samples
every third frame (section 4); crops and the original size go into the micro conditions.

Legend: T frames, H, W pixels of a bucket; h, w pixels of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .formats import Member, Source
from .media import MOST_FRAMES, Media, MediaError, Timeline

SAME_ASPECT = 1.05  # sizes whose aspects differ by less than this factor are one shape
MOST_CLIPS = 100_000  # of one file
_STEADY = 0.25  # a rate is steady where no interval is further than this share off the mean
_SLOWEST = 0.9  # of the wanted rate: below it frames would be shown twice
_FASTEST = 240.0  # frames per second that a variable rate is taken at


class Drop(Exception):
    """A file that is sound but gives no clip: reason (a few words) and detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Cutting:
    """How files are cut into clips; the part of a `DataSpec` that decides it, as plain data."""

    sizes: Sequence[Sequence[int]]  # [[H, W], …]
    frames: Sequence[int]  # bucket lengths
    stride: int = 1
    fps: float | None = None  # resample to this rate instead of taking every stride-th frame
    extract: str = "first"  # first | middle | uniform | all
    clips_per_video: int = 1  # of extract "uniform"
    crop: str = "centre"  # centre | random
    min_side: int | None = None  # None = never enlarge
    frame_rate: float = 24.0  # of folders of frames
    seed: int = 0  # of random crops
    name: str = ""  # of the data set, put before every key


@dataclass(frozen=True)
class Cut:
    """One clip to be decoded."""

    key: str
    pts: Sequence[int]  # of its T frames, on the file's timeline
    box: Sequence[int]  # h, w after resizing; top, left of the crop in it
    bucket: Sequence[int]  # T, H, W
    micro: Sequence[float]  # in the order of stiv.model.MICRO_CONDITIONS
    content: str  # SHA-256 of the file
    fps: float  # of the clip; 0 = a still, or views


# --- choice of bucket, moments and crop: pure functions ------------------------------------------


def choose_size(
    height: int, width: int, sizes: Sequence[Sequence[int]], min_side: int | None = None
) -> tuple[int, int]:
    """The bucket size (H, W) of a file of (height, width) pixels.

    Of the sizes with the nearest aspect, the largest that the file covers without being enlarged;
    else the smallest of them, if the file's shorter side has `min_side` pixels. Raises Drop.
    """

    def off(size: Sequence[int]) -> float:
        return abs(np.log(size[0] / size[1]) - np.log(height / width))

    best = min(map(off, sizes))
    alike = [size for size in sizes if off(size) < best + np.log(SAME_ASPECT)]
    alike.sort(key=lambda size: (size[0] * size[1], -off(size), tuple(size)))
    covered = [size for size in alike if size[0] <= height and size[1] <= width]
    if covered:
        return tuple(covered[-1])
    if min_side is None or min(height, width) < min_side:
        least = f"{alike[0][0]}x{alike[0][1]}" if min_side is None else f"min_side {min_side}"
        raise Drop("too small", f"{height}x{width}, expected at least {least}")
    return tuple(alike[0])


def even_grid(timeline: Timeline, fps: float | None = None) -> tuple[np.ndarray, float]:
    """Frames at an even rate: int64 (n,) indices into the timeline, and that rate (0 = a still).

    At the file's own rate for fps None: all its frames, or where the rate varies the frames
    nearest to the ticks of its median rate. Otherwise the frames nearest to the ticks of `fps`.
    """
    times = timeline.times
    if len(times) == 1 or not timeline.fps:
        return np.arange(len(times)), timeline.fps
    intervals = np.diff(times)
    mean = times[-1] / (len(times) - 1)
    # time stamps in milliseconds move an interval by up to one
    is_steady = np.abs(intervals - mean).max() <= max(_STEADY * mean, 1.5e-3)
    own = timeline.fps if is_steady else min(_FASTEST, 1 / float(np.median(intervals)))
    if fps is None and is_steady:
        return np.arange(len(times)), own
    if fps is not None and own < _SLOWEST * fps:
        raise Drop("frame rate too low", f"{own:.2f} per second, expected {fps:g}")
    rate = own if fps is None else fps
    count = np.floor(times[-1] * rate + 0.5) + 1
    if count > MOST_FRAMES:
        raise MediaError(f"lasts {times[-1]:.0f} s: expected at most {MOST_FRAMES} frames")
    ticks = np.arange(int(count)) / rate
    after = np.searchsorted(times, ticks).clip(1, len(times) - 1)
    is_before = ticks - times[after - 1] <= times[after] - ticks
    return after - is_before, rate


def choose_length(available: int, lengths: Sequence[int], stride: int) -> int:
    """The longest bucket length that `available` frames fill at the stride. Raises Drop."""
    fitting = [length for length in lengths if (length - 1) * stride < available]
    if not fitting:
        need = (min(lengths) - 1) * stride + 1
        raise Drop("too short", f"{available} frames, expected at least {need}")
    return max(fitting)


def choose_starts(
    available: int, length: int, stride: int, extract: str, count: int = 1
) -> list[int]:
    """First frames of the clips of a file, ascending, each clip inside the file.

    first, middle: one clip. uniform: up to `count` clips, spread evenly from the first frame to
    the last. all: as many as follow one another without overlap.
    """
    last = available - ((length - 1) * stride + 1)
    if extract == "all":
        return list(range(0, last + 1, length * stride))
    if extract == "uniform" and count > 1:
        return sorted({round(float(start)) for start in np.linspace(0, last, count)})
    return [0 if extract == "first" else last // 2]


def place_crop(
    height: int, width: int, size: Sequence[int], rng: np.random.Generator | None = None
) -> tuple[int, int, int, int]:
    """(resized height, resized width, top, left): the file just covering the bucket, and the crop
    in the centre, or anywhere by `rng`."""
    scale = max(size[0] / height, size[1] / width)
    resized = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    spare = [full - part for full, part in zip(resized, size, strict=True)]
    top, left = (s // 2 if rng is None else int(rng.integers(s + 1)) for s in spare)
    return *resized, top, left


def key_rng(seed: int, key: str) -> np.random.Generator:
    """The random numbers of one clip: the same whatever is decoded before it."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


# --- the two jobs --------------------------------------------------------------------------------


def plan(source: Source, cutting: Cutting) -> list[Cut]:
    """The clips of a file. Raises Drop where it gives none, MediaError where it is broken."""
    media = _media(source, cutting)
    timeline = _between(media.timeline(), source.start, source.end)
    if source.views:
        cutting = replace(cutting, stride=1, fps=None, extract="first")
    size = choose_size(timeline.height, timeline.width, cutting.sizes, cutting.min_side)
    grid, rate = even_grid(timeline, cutting.fps)
    stride = 1 if cutting.fps else cutting.stride
    if source.views:
        if len(grid) not in cutting.frames:
            raise Drop("views fit no bucket", f"{len(grid)} views, frames {list(cutting.frames)}")
        length = len(grid)
    else:
        length = choose_length(len(grid), cutting.frames, stride)
    content = media.content()
    starts = choose_starts(len(grid), length, stride, cutting.extract, cutting.clips_per_video)
    if len(starts) > MOST_CLIPS:
        raise MediaError(f"gives {len(starts)} clips, expected at most {MOST_CLIPS}: cut it up")
    own = timeline.fps or 1.0
    taken = own / rate * stride if rate and length > 1 else 1.0  # frames of the file per frame
    prefix = f"{cutting.name}/" if cutting.name else ""
    cuts: dict[str, Cut] = {}  # where the rate varies, clips may begin with the same frame
    for first in starts:
        index = grid[first : first + length * stride : stride][:length]
        key = f"{prefix}{source.name}#{int(index[0]) + timeline.first}"
        rng = key_rng(cutting.seed, key) if cutting.crop == "random" else None
        box = place_crop(timeline.height, timeline.width, size, rng)
        micro = (timeline.height, timeline.width, *box[2:], taken, length)
        fps = rate / stride if length > 1 else 0.0
        cuts.setdefault(
            key,
            Cut(
                key,
                timeline.pts[index].tolist(),
                box,
                (length, *size),
                tuple(float(value) for value in micro),
                content,
                fps,
            ),
        )
    return list(cuts.values())


def cut(source: Source, cutting: Cutting, wanted: Cut) -> np.ndarray:
    """The pixels of a clip: uint8 (T, H, W, 3). Raises MediaError where it cannot be decoded."""
    T, H, W = wanted.bucket
    height, width, top, left = wanted.box
    clip = np.empty((T, H, W, 3), np.uint8)
    size = int(wanted.micro[1]), int(wanted.micro[0])
    for index, image in enumerate(_media(source, cutting).frames(wanted.pts)):
        if image.size != size:
            raise MediaError(f"frame {index} is {image.size}, expected {size} as the first frame")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        clip[index] = np.asarray(image)[top : top + H, left : left + W]
    return clip


def _media(source: Source, cutting: Cutting) -> Media:
    return Media(source.path, source.member, source.views, source.fps or cutting.frame_rate)


@dataclass
class _Window(Timeline):
    """A stretch of a timeline that begins with its frame number `first`."""

    first: int = 0


def _between(timeline: Timeline, start: float | None, end: float | None) -> _Window:
    times = timeline.times
    inside = (times >= (start or 0) - 1e-6) & (times < (np.inf if end is None else end) - 1e-6)
    if not inside.any():
        raise Drop("too short", f"no frame between {start} and {end} s of {times[-1]:.2f}")
    pts = timeline.pts[inside]
    values = (timeline.height, timeline.width, pts, timeline.base, timeline.fps)
    return _Window(*values, first=int(np.argmax(inside)))


# --- what passes between processes ---------------------------------------------------------------


def source_to_json(source: Source) -> dict[str, Any]:
    values = {**asdict(source), "path": str(source.path), "root": str(source.root)}
    return {**values, "views": list(map(str, source.views)), "captions": []}


def source_from_json(values: dict[str, Any]) -> Source:
    member = values["member"] and Member(**values["member"])
    paths = {"path": Path(values["path"]), "root": Path(values["root"])}
    views = tuple(map(Path, values["views"]))
    return Source(**{**values, **paths, "views": views, "member": member, "captions": ()})
