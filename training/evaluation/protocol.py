"""A benchmark's protocol as a recipe: which true clips, what is sampled for them, what is measured.

    python -m training eval protocol training/recipes/evaluation/msrvtt_t2v.yaml \
        --true msrvtt/videos --captions msrvtt/test_videodatainfo.json \
        --checkpoint my.safetensors --i3d i3d_torchscript.pt --out msrvtt/mine

The folder `--out` then holds the chosen true clips (`true.jsonl`), what was asked for
(`asked.jsonl`), the videos (`made`) and `results.json`. Stopped and run again it goes on.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from stiv.frames import TASKS, task_positions

from ..data.clips import Clip
from ..data.cutting import Drop
from ..data.formats import Source
from ..data.media import MediaError
from ..data.workers import Workers
from ..files import atomic, read_json
from ..sampling import Sampler
from ..section import Section, load_section
from ..video import write_lossless
from . import measures
from .inputs import Folder, Read, first_clip, first_clips
from .rendering import Job, render, seed_of
from .result import Result, report

TRUE, ASKED, MADE, CAPTIONS = "true.jsonl", "asked.jsonl", "made", "captions_made.jsonl"
RESULTS = "results.json"
_NETWORKS = {"fvd": "i3d", "fid": "inception", "is": "c3d", "clip": "clip"}
"""The option that names a measure's network."""
_FPS = 8.0  # written into the videos; nothing measured here depends on it


class MeasureSection(Section):
    """How one measure takes its clips."""

    count: int | None = Field(None, ge=2, description="videos of each set, at most")
    frames: int | None = Field(None, ge=1, description="frames of a clip; default: all of it")
    per_file: int = Field(8, ge=1, description="clip: frames of a video, spread evenly")


class Protocol(Section):
    """A benchmark."""

    title: str = Field(description="of the table")
    source: str = Field("", description="where its numbers come from, and what was decided here")
    task: Literal[tuple(TASKS)] = Field("t2v", description="which frames of a true clip are given")
    frames: int = Field(ge=2, le=1024, description="of a clip")
    size: tuple[int, int] = Field(description="[height, width] to which true clips are cut")
    stride: int = Field(1, ge=1, description="true clips: take one frame of so many")
    extract: Literal["first", "middle"] = "middle"
    captions: Literal["variant", "class"] = Field(
        "variant", description="variant: one of a clip's captions, drawn; class: its folder's name"
    )
    videos: int = Field(ge=2, description="to sample")
    true_videos: int | None = Field(None, ge=2, description="true clips, drawn; default: all")
    steps: int = Field(50, ge=1, le=1000, description="of the solver")
    guidance_scale: float = Field(7.5, gt=0, le=100)
    renorm: bool = False
    measures: dict[Literal["fvd", "fid", "is", "clip", "motion"], MeasureSection] = Field(
        min_length=1
    )
    paper: dict[str, float] = Field({}, description="the paper's figures of these measures")

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: tuple[int, int]) -> tuple[int, int]:
        if any(side < 16 or side % 16 for side in size):
            raise ValueError(f"size {list(size)}: expected multiples of 16")
        return size


# --- what is asked for ----------------------------------------------------------------------------


def choose(
    protocol: Protocol, true: Folder, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(true clips, videos to sample): rows of the clip, see `_clip`; of a video also its number,
    caption and seed.

    Every true clip is asked for once before any is a second time; which, and with which caption,
    is drawn by the seed. Raises ValueError for a clip without a caption or class.
    """
    sources = list(true.sources())
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sources))
    kept = order[: protocol.true_videos or len(order)]
    rows = [_clip(sources[i], true.path) for i in sorted(map(int, kept))]
    asked = []
    for number in range(protocol.videos):
        if number and number % len(order) == 0:
            order = rng.permutation(len(sources))
        source = sources[int(order[number % len(order)])]
        caption = _caption(protocol, source, rng)
        clip = _clip(source, true.path)
        own = seed_of(seed, number, clip["path"])
        asked.append({"number": number, **clip, "caption": caption, "seed": own})
    return rows, asked


def _clip(source: Source, root: Path) -> dict[str, Any]:
    """path, and start, end and fps where a list gives them: what `_source` is made from."""
    if source.member is not None:
        raise ValueError(f"{source.name} lies in a tar: unpack it")
    path = source.path.relative_to(root).as_posix()
    row = {"path": path, "start": source.start, "end": source.end, "fps": source.fps}
    return {key: value for key, value in row.items() if value is not None}


def _source(row: dict[str, Any], root: Path) -> Source:
    stretch = {key: row[key] for key in ("start", "end", "fps") if key in row}
    return Source(root / row["path"], (), root, **stretch)


def _caption(protocol: Protocol, source: Source, rng: np.random.Generator) -> str:
    if protocol.captions == "class":
        if source.path.parent == source.root:
            raise ValueError(
                f"{source.name} is in no folder of a class, as in Archery/{source.name}"
            )
        return class_words(source.path.parent.name)
    if not source.captions:
        raise ValueError(f"{source.name} has no caption: put a .txt beside it, or name --captions")
    return source.captions[int(rng.integers(len(source.captions)))]


def class_words(name: str) -> str:
    """ApplyEyeMakeup as "apply eye makeup"."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()


def caption_list(path: Path, out: Path) -> Path:
    """A list of captions as this package reads it: MSR-VTT's own JSON is rewritten below `out`.

    That has `videos` with their `split` and `sentences` with a `video_id`; the test split is taken.
    """
    if path.suffix.lower() != ".json":
        return path
    values = read_json(path, "MSR-VTT's list of videos and sentences, or a .jsonl")
    try:
        test = [video["video_id"] for video in values["videos"] if video["split"] == "test"]
        sentences: dict[str, list[str]] = {name: [] for name in test}
        for row in values["sentences"]:
            if row["video_id"] in sentences:
                sentences[row["video_id"]].append(row["caption"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not MSR-VTT's list of videos and sentences ({error!r:.100}): give a .jsonl "
            "with path and captions"
        ) from None
    rows = [{"path": f"{name}.mp4", "captions": texts} for name, texts in sentences.items()]
    _write_rows(out / "captions.jsonl", rows)
    return out / "captions.jsonl"


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        part.write_text("".join(lines), encoding="utf-8")


# --- sampling -------------------------------------------------------------------------------------


def jobs_of(
    protocol: Protocol, asked: Sequence[dict[str, Any]], true: Folder, pool: Workers
) -> list[Job]:
    """A lossless video for each row. Raises ValueError for true clips that cannot be given."""
    jobs = [Job(_name(row), row["caption"], row["seed"]) for row in asked]
    positions = task_positions(protocol.task, protocol.frames)
    if not positions:
        return jobs
    sources = [_source(row, true.path) for row in asked]
    ids = given_ids(true, sources)
    return [
        replace(job, given=partial(_given, true, pool, source, positions), given_id=ids[source])
        for job, source in zip(jobs, sources, strict=True)
    ]


def given_ids(true: Folder, sources: Sequence[Source]) -> dict[Source, str]:
    """What tells true clips apart: SHA-256 of the file, and the clip's first frame in it.

    Each is decoded for it: after hours of sampling it would be too late to find one that cannot be.
    Raises ValueError naming those.
    """
    sources = list(dict.fromkeys(sources))
    read = Read()
    both = zip(sources, first_clips(true, sources, read), strict=True)
    ids = {source: _id(clip) for source, clip in both if clip is not None}
    if lost := [source.name for source in sources if source not in ids]:
        raise ValueError(
            f"{len(lost)} true clips cannot be given to the model: leave {', '.join(lost[:20])} "
            f"out of --captions or of {true.path}. {'; '.join(read.warnings(true))}"
        )
    return ids


def _id(clip: Clip) -> str:
    return f"{clip.content}#{clip.key.rpartition('#')[2]}"


def _name(row: dict[str, Any]) -> str:
    return f"{row['number']:05d}.mkv"


def _given(
    true: Folder, pool: Workers, source: Source, positions: list[int], sampler: Sampler
) -> tuple[Tensor, Tensor]:
    """The true clip's frames at the positions, as latents (C, T, h, w) and which they are (T,)."""
    pixels = read_clip(true, pool, source)
    clean, mask = torch.zeros(sampler.shape), torch.zeros(len(pixels), dtype=torch.bool)
    clean[:, positions] = sampler.codec.encode(pixels[positions][None])[0]
    mask[positions] = True
    return clean, mask


def read_clip(true: Folder, pool: Workers, source: Source) -> np.ndarray:
    """One clip, uint8 (T, H, W, 3). Raises ValueError where it cannot be read or is too short."""
    try:
        return first_clip(source, asdict(true.spec(true.size).cutting()), pool).frames
    except (Drop, MediaError) as error:
        raise ValueError(f"{source.path} cannot be given to the model: {error}") from None


def run(args: Namespace) -> None:
    """`eval protocol`: sample what is missing, measure, print."""
    from stiv.checkpoint import read_card

    from ..commands import sampler_of
    from ..networks import best_device

    protocol = load_section(Protocol, args.recipe)
    for option in _NETWORKS.values():  # before hours of sampling
        if (path := getattr(args, option)) is not None and not path.exists():
            raise ValueError(f"--{option} {path} is not there")
    protocol = protocol.model_copy(update={"videos": args.videos or protocol.videos})
    true = Folder(
        args.true,
        captions=caption_list(args.captions, args.out) if args.captions else None,
        size=protocol.size,
        frames=protocol.frames,
        stride=protocol.stride,
        extract=protocol.extract,
        workers=args.workers,
    )
    chosen, asked = choose(protocol, true, args.seed)
    args.steps, args.guidance_scale = protocol.steps, protocol.guidance_scale
    sampler = sampler_of(
        args,
        [row["caption"] for row in asked],
        size=(protocol.frames, *protocol.size),
        device="cpu" if args.cpu else best_device(),
        renorm=protocol.renorm,
    )
    settings = protocol.model_dump(mode="json", exclude={"measures", "paper", "videos", "source"})
    settings |= {"checkpoint": read_card(args.checkpoint).tensor_hash, "seed": args.seed}
    settings["precision"] = args.precision
    with Workers(1) as pool:
        jobs = jobs_of(protocol, asked, true, pool)
        render(jobs, sampler, args.out / MADE, _write, settings, batch=args.batch)
    _write_rows(args.out / TRUE, chosen)
    _write_rows(args.out / ASKED, asked)
    named = [{"path": _name(row), "caption": row["caption"]} for row in asked]
    _write_rows(args.out / CAPTIONS, named)
    results = measured(protocol, args, true)
    report(results, args.out / RESULTS)


def _write(path: Path, clip: np.ndarray) -> None:
    write_lossless(path, clip, _FPS)


# --- measuring ------------------------------------------------------------------------------------


def measured(protocol: Protocol, args: Namespace, true: Folder) -> list[Result]:
    """Every measure whose network was named; the others are told. ValueError where none was."""
    true = replace(true, captions=args.out / TRUE)
    # By the list: videos of an earlier, longer run may lie there as well.
    captions = args.out / CAPTIONS
    made = replace(true, path=args.out / MADE, captions=captions, stride=1, extract="first")
    results = []
    for name, how in protocol.measures.items():
        option = _NETWORKS.get(name)
        weights = getattr(args, option) if option else None
        if option and weights is None:
            print(f"{name} is left out: name its network by --{option}")
            continue
        result = _measure(name, how, made, true, weights, args)
        if name in protocol.paper:
            result = replace(result, more={**result.more, "paper": protocol.paper[name]})
        results.append(result)
    if not results:
        raise ValueError("nothing was measured: name the networks as the lines above say")
    return results


def _measure(
    name: str,
    how: MeasureSection,
    made: Folder,
    true: Folder,
    weights: Path | None,
    args: Namespace,
) -> Result:
    cut = {"count": how.count, "frames": how.frames or made.frames}
    made, true = replace(made, **cut), replace(true, **cut)
    more = {"seed": args.seed}
    if name in ("fvd", "fid"):
        more |= {"input_range": args.input_range, "resamples": args.resamples}
        return getattr(measures, name)(made, true, weights, **more)
    if name == "is":
        return measures.inception_score(made, weights, input_range=args.input_range, **more)
    if name == "clip":
        from .clip_score import Clip, clip_score

        spread = {"frames": 1, "extract": "uniform", "per_file": how.per_file}
        return clip_score(replace(made, **spread), Clip(weights), **more)
    return measures.motion(made, **more)
