"""Many videos of one checkpoint into a folder: stopped and run again it goes on where it was.

Every video has a seed of its own, which follows from the run's seed and the video's name alone, so
it does not matter in which order, in how many parts or batches they are made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import atomic
from ..sampling import Sampler

log = logging.getLogger(__name__)

RECORD = "videos.jsonl"
"""In the folder: what every video was made for, see `Job.row`; of several rows the last is true."""
SETTINGS = "settings.json"
"""In the folder: what its videos were made with."""

#: of one job: (clean (C, T, h, w), given (T,)), or None
Given = Callable[[Sampler], tuple[Tensor, Tensor]]
Write = Callable[[Path, np.ndarray], None]


@dataclass(frozen=True)
class Job:
    """One video."""

    name: str
    """Of its file, with the ending."""
    prompt: str
    seed: int
    given: Given | None = None
    """Its given frames, loaded when it is its turn."""
    given_id: str = ""
    """What tells them from others."""

    def row(self) -> dict[str, Any]:
        """What tells the video from others, in a line of `RECORD`."""
        row = {"video": self.name, "caption": self.prompt, "seed": self.seed}
        return {**row, "given": self.given_id} if self.given_id else row


def seed_of(seed: int, *words: object) -> int:
    """A seed in [0, 2^31) that follows from the run's and from what names the video."""
    text = ":".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for names that no file can have, or that two videos share."""
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or name.startswith("."):
            raise ValueError(f"{name!r} cannot be the name of a file")
        if len(name.encode()) > 255:
            raise ValueError(f"{name[:60]!r}… is longer than the 255 bytes of a file's name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two videos would be called {twice!r}")


def render(
    jobs: Sequence[Job],
    sampler: Sampler,
    folder: Path,
    write: Write,
    settings: dict[str, Any],
    *,
    batch: int = 4,
) -> int:
    """Make the videos that are not there yet, or there for another prompt, seed or given clip;
    returns how many were.

    settings: plain JSON that decides the pixels besides a job's own; a folder made with others is
    refused by ValueError, before anything is sampled. A video is written whole or not at all.
    """
    check_names([job.name for job in jobs])
    folder.mkdir(parents=True, exist_ok=True)
    _keep_settings(folder / SETTINGS, settings)
    _end_last_line(folder / RECORD)
    waiting = _waiting(jobs, folder)
    log.info("%s: %d videos, %d to make", folder, len(jobs), len(waiting))
    began = time.monotonic()
    for first in range(0, len(waiting), batch):
        part = waiting[first : first + batch]
        for job, clip in zip(part, _sample(part, sampler), strict=True):
            _put(folder, job, clip, write)
        done = first + len(part)
        rate = (time.monotonic() - began) / done
        log.info("%d of %d, %.1f s each", done, len(waiting), rate)
    return len(waiting)


def _waiting(jobs: Sequence[Job], folder: Path) -> list[Job]:
    recorded = _recorded(folder / RECORD)
    there = [job for job in jobs if (folder / job.name).exists()]
    other = [job for job in there if recorded.get(job.name) != job.row()]
    if other:
        log.warning(
            "%s: %d videos were made for another prompt, seed or given clip, or it is not known "
            "for which, as %s: they are made again",
            folder,
            len(other),
            other[0].name,
        )
    kept = {job.name for job in there} - {job.name for job in other}
    return [job for job in jobs if job.name not in kept]


def _end_last_line(path: Path) -> None:
    """Ends a line that a kill has cut off, so that it takes no other with it. It stays: rows of
    processes that make other parts may follow it already."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with open(path, "ab") as record:
            record.write(b"\n")


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    """The row of every video; lines that a kill has cut off are left out."""
    found = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            found[row["video"]] = row
        except (ValueError, LookupError, TypeError):
            continue
    return found


def _put(folder: Path, job: Job, clip: np.ndarray, write: Write) -> None:
    """Writes a video and its row. Wherever this is killed, no video is left with another's row."""
    with atomic(folder / job.name) as unfinished:
        write(unfinished, clip)
        (folder / job.name).unlink(missing_ok=True)
        with open(folder / RECORD, "a", encoding="utf-8") as record:
            record.write(json.dumps(job.row(), ensure_ascii=False) + "\n")


def _sample(jobs: Sequence[Job], sampler: Sampler) -> np.ndarray:
    clean = mask = None
    if any(job.given for job in jobs):
        C, T, h, w = sampler.shape
        nothing = torch.zeros(C, T, h, w), torch.zeros(T, dtype=torch.bool)
        given = [job.given(sampler) if job.given else nothing for job in jobs]
        clean, mask = (torch.stack(parts) for parts in zip(*given, strict=True))
    prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
    return sampler.clips(prompts, clean, mask, seeds)


def _keep_settings(path: Path, settings: dict[str, Any]) -> None:
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        with atomic(path) as part:
            part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): give another folder by --out") from None
    changed = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
    if changed:
        was, now = found.get(changed[0]), settings.get(changed[0])
        raise ValueError(
            f"{path.parent} holds videos made with {changed[0]} {was!r}, now it is {now!r}: give "
            "another folder by --out"
        )
