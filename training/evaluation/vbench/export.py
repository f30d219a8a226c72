"""Render what VBench scores, under the names that it looks for."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...sampling import Sampler
from ...video import write_video
from ..rendering import Job, render, seed_of
from .prompts import Pictures, Prompt, read_prompts

FLICKER = "temporal_flickering"
_QUALITY = 10  # of H.264, as VBench-I2V's own sampling code


def jobs_of(
    prompts: Sequence[Prompt],
    *,
    seed: int = 0,
    samples: int = 5,
    flicker: int = 5,
    pictures: Pictures | None = None,
) -> list[Job]:
    """`{prompt}-{0…4}.mp4` for every prompt.

    flicker: videos of prompts for temporal flickering; VBench advises 25, of which its static
    filter keeps five that stand still. Raises ValueError for pictures that are missing.
    """
    if pictures is not None:
        pictures.check([prompt.image for prompt in prompts])
    jobs = []
    for prompt in prompts:
        count = max(samples, flicker) if FLICKER in prompt.dimensions else samples
        given = partial(_first_frame, pictures, prompt.image) if pictures else None
        for index in range(count):
            name = f"{prompt.text}-{index}.mp4"
            jobs.append(Job(name, prompt.text, seed_of(seed, prompt.text, index), given))
    return jobs


def _first_frame(pictures: Pictures, name: str, sampler: Sampler):
    clean, mask = sampler.first_frame([pictures.read(name)])
    return clean[0], mask[0]


def export(args: Namespace) -> None:
    """`eval vbench-export`: render, or go on rendering."""
    from stiv.checkpoint import read_card

    from ...commands import part_of, sampler_of
    from ...networks import best_device

    prompts = read_prompts(args.prompts, args.dimension)
    needs_pictures = any(prompt.image for prompt in prompts)
    if not needs_pictures and args.images:
        raise ValueError(f"{args.prompts} names no pictures: leave out --images")
    pictures = Pictures.open(args.images, args.crop_info, args.ratio) if needs_pictures else None
    jobs = jobs_of(
        prompts, seed=args.seed, samples=args.samples, flicker=args.flicker, pictures=pictures
    )
    part, parts = part_of(args.part)
    card = read_card(args.checkpoint)
    size = None if args.size is None else (args.frames or _frames(card), *args.size)
    if args.frames and args.size is None:
        raise ValueError("give --size as well as --frames, or neither")
    device = "cpu" if args.cpu else best_device()
    sampler = sampler_of(
        args, [p.text for p in prompts], size=size, device=device, renorm=args.renorm
    )
    settings = {
        "checkpoint": card.tensor_hash,
        "shape": list(sampler.shape),
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "renorm": args.renorm,
        "precision": args.precision,
        "fps": args.fps,
        "seed": args.seed,
        "ratio": args.ratio if pictures else None,
    }
    write = partial(_write, args.fps)
    render(jobs[part::parts], sampler, args.out, write, settings, batch=args.batch)
    print(_next_step(args.out, needs_pictures, args.ratio))


def _frames(card) -> int:
    return max(task["frames"][1] for task in card.tasks)


def _write(fps: float, path: Path, clip: np.ndarray) -> None:
    if len(clip) < 2:
        raise ValueError("the checkpoint makes pictures, and VBench scores videos")
    write_video(path, clip, fps, quality=_QUALITY)


def _next_step(out: Path, is_i2v: bool, ratio: str) -> str:
    """What to run in the environment of the official package."""
    command = f"python evaluate_i2v.py --ratio {ratio}" if is_i2v else "vbench evaluate"
    return (
        f"Next, where VBench is installed, for every dimension: {command} --videos_path {out} "
        "--dimension …; then python -m training eval vbench-import on the folder of its results"
    )
