"""A small work folder, scanned and cut, and what it holds."""

from __future__ import annotations

from pathlib import Path

from training.engine.duplicates import mark_duplicates
from training.engine.run import run
from training.engine.scan import Fingerprint, Probe, list_files
from training.engine.step import make_step
from training.engine.work import Work

CLIP = "api_grok_imagine_video_1_5-1.webp"
FEATURES = ("motion", "picture")


def prepare(media: Path, folder: Path, workers: int = 2) -> Work:
    """Scanned and cut into segments of half a second to a second."""
    work = Work.create(folder, media)
    list_files(work, shard_files=4)
    run(work, [Probe()], workers=workers)
    run(work, [Fingerprint()], workers=workers)
    mark_duplicates(work)
    cutting = make_step("segments", {"min_seconds": 0.5, "max_seconds": 1.0, "content": 200.0})
    run(work, [cutting], workers=workers)
    return work


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a work folder but its locks, by name."""
    paths = [p for p in folder.rglob("*") if p.is_file() and "locks" not in p.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
