"""The clips of a data set, as they are trained on: resized, cropped, with captions and conditions.

`clips` reads the data set, has its files measured and decoded by worker processes and gives the
clips in the data set's order. Their order and contents are the same for any number of workers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..names import short_hash
from ..video import write_video
from .cutting import Cut, source_to_json
from .formats import Source, read_sources
from .report import Report
from .workers import Workers

if TYPE_CHECKING:
    from .sources import DataSpec

__all__ = ["Clip", "Report", "clips", "dump", "sources"]


@dataclass(frozen=True)
class Clip:
    """One clip. Legend: T frames, H, W pixels of its bucket."""

    frames: np.ndarray  # uint8 (T, H, W, 3), RGB
    captions: tuple[str, ...]  # variants; () = train with the empty caption
    micro: tuple[float, ...]  # height, width of the file; top, left of the crop; stride; frames
    key: str  # "<relative path>#<start frame>", unique in the data set
    content: str  # SHA-256 of the file's bytes
    fps: float  # of the clip; 0 = a still, or views


def clips(
    spec: DataSpec,
    *,
    workers: int = 2,
    seed: int = 0,
    report: Report | None = None,
    part: tuple[int, int] = (0, 1),
    skip: Callable[[str, str, tuple[str, ...]], bool] | None = None,
) -> Iterator[Clip]:
    """Every clip of the data set, in its order.

    workers: decoding processes. seed: of random crops. report: is told what became of every
    entry. part: (i, n) takes every n-th entry from the i-th on, to divide a data set between n
    writers. skip: called with (key, content, captions) before a clip is decoded; True leaves it
    out.

    Broken files end up in the report and the others follow. Raises ValueError where there is no
    data set at `spec.path`, and RuntimeError where no decoding process can be started.
    """
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part is {part}: expected (i, n) with 0 <= i < n")
    report = Report() if report is None else report
    cutting = asdict(spec.cutting(seed))
    ahead = 2 * workers
    with Workers(workers, spec.time_limit) as pool:
        plans = pool.ordered(
            sources(spec, report, part),
            lambda source: {"job": "plan", "source": source_to_json(source), "cutting": cutting},
            ahead,
        )
        decoded = pool.ordered(
            _wanted_cuts(plans, report, skip),
            lambda item: {
                "job": "cut",
                "source": source_to_json(item[0]),
                "cutting": cutting,
                "cut": asdict(item[1]),
            },
            ahead,
        )
        for (source, cut), (header, pixels) in decoded:
            if "error" in header:
                report.quarantine(cut.key, header["error"])
                continue
            frames = np.frombuffer(pixels, np.uint8).reshape(header["shape"])
            report.add_clip(cut.bucket)
            yield Clip(frames, source.captions, cut.micro, cut.key, cut.content, cut.fps)


def sources(
    spec: DataSpec, report: Report | None = None, part: tuple[int, int] = (0, 1)
) -> Iterator[Source]:
    """The entries of the data set that clips are made of; report and part: as for `clips`."""
    report = Report() if report is None else report
    found = read_sources(
        spec.path,
        spec.format,
        media=spec.media,
        caption_lines=spec.caption_lines,
        reject=report.quarantine,
    )
    for index, source in enumerate(found):
        if index % part[1] != part[0]:
            continue
        report.sources += 1
        if not source.captions and not source.views:
            report.add_uncaptioned(source.name)
            if spec.uncaptioned == "skip":
                continue
        yield source


def _wanted_cuts(plans, report: Report, skip) -> Iterator[tuple[Source, Cut]]:
    seen: set[bytes] = set()
    for source, (header, _) in plans:
        if "error" in header:
            report.quarantine(source.name, header["error"])
        elif "drop" in header:
            report.drop(source.name, *header["drop"])
        for values in header.get("cuts", ()):
            cut = Cut(**{name: _frozen(value) for name, value in values.items()})
            mark = short_hash(cut.key)
            if mark in seen:
                report.drop(cut.key, "same clip again", "list variants of a caption as captions")
            elif skip is not None and skip(cut.key, cut.content, source.captions):
                report.skipped += 1
            else:
                yield source, cut
            seen.add(mark)


def _frozen(value):
    return tuple(value) if isinstance(value, list) else value


# --- what is really trained on -------------------------------------------------------------------


def dump(
    spec: DataSpec,
    folder: Path,
    count: int = 20,
    *,
    workers: int = 2,
    seed: int = 0,
    report: Report | None = None,
) -> list[Path]:
    """Writes the first `count` clips for people to look at; returns the pictures and videos.

    A still becomes a .png, a clip an .mp4 at its rate, and views a .png strip; beside each a .txt
    with its captions, separated by empty lines, and a .json with everything else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if count < 1:
        return written
    for clip in clips(spec, workers=workers, seed=seed, report=report):
        name = re.sub(r"[^\w.-]+", "_", clip.key)[-80:]
        stem = folder / f"{len(written):04d}_{name}"
        written.append(_write_clip(clip, stem))
        stem.with_name(stem.name + ".txt").write_text(
            "\n\n".join(clip.captions) + "\n", encoding="utf-8"
        )
        facts = {k: v for k, v in vars(clip).items() if k not in ("frames", "captions")}
        facts["shape"] = clip.frames.shape
        text = json.dumps({**facts, "captions": clip.captions}, indent=1, ensure_ascii=False)
        stem.with_name(stem.name + ".json").write_text(text, encoding="utf-8")
        if len(written) == count:
            break
    return written


def _write_clip(clip: Clip, stem: Path) -> Path:
    if not clip.fps:
        path = stem.with_name(stem.name + ".png")
        Image.fromarray(np.concatenate(list(clip.frames), axis=1)).save(path)
        return path
    path = stem.with_name(stem.name + ".mp4")
    write_video(path, clip.frames, clip.fps, quality=10)
    return path
