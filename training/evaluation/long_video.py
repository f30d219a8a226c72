"""How long videos keep what their prompt says: key frames first, or window after window.

The same prompts are made by a hierarchy and by a roll-out (paper, long video), and both are read
stretch by stretch: does the object still have its colour and its shape? Only motions that can go
on for ever are asked for; an object that leaves the picture could not be kept.

    python -m training.evaluation.long_video --checkpoint models/stiv_nano.safetensors

Legend: n prompts, C channels, T frames, H, W pixels, h, w latent height and width.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stiv.plan import Plan, Segment, hierarchy, rollout

from ..sampling import Sampler
from ..shapes.captions import held_out_prompts
from ..shapes.scene import Scene
from .recognise import object_colour, recognise
from .score import Scores, report

MOTIONS = ("spin", "orbit", "bounce")
"""The motions that repeat themselves."""
STRETCH = 15
"""Frames that are read together; also from one key frame to the next."""
PLANS = ("hierarchy", "roll_out")
_FPS = 8.0


def follow(plan: Plan, sampler: Sampler, prompts: Sequence[str]) -> Tensor:
    """Latents (n, C, T, h, w) of the plan's video, for prompts of one's own instead of the plan's.

    Every segment gets its given frames from those before it, and its stride as micro condition.
    Raises ValueError for a plan with frames that somebody gives.
    """
    if plan.given:
        raise ValueError(f"{len(plan.given)} frames of the plan are given: expected none")
    C, _, h, w = sampler.shape
    video = torch.zeros(len(prompts), C, plan.span, h, w)
    for segment in plan.segments:
        at = list(segment.positions())
        mask = torch.zeros(len(prompts), segment.count, dtype=torch.bool)
        mask[:, list(segment.given)] = True
        clean = video[:, :, at] * mask[:, None, :, None, None]
        made = _for_segment(sampler, segment).latents(prompts, clean, mask, segment.seed)
        keeps = list(segment.keeps)
        video[:, :, [at[index] for index in keeps]] = made[:, :, keeps].to(video)
    return video[:, :, : plan.frames]


def _for_segment(sampler: Sampler, segment: Segment) -> Sampler:
    C, _, h, w = sampler.shape
    return replace(sampler, shape=(C, segment.count, h, w), stride=segment.step)


def score_stretches(clips: np.ndarray, scenes: Sequence[Scene], length: int = STRETCH) -> Scores:
    """Means over clips of `stretch_figures`, with the numbers of clips, frames and stretches."""
    figures = stretch_figures(clips, scenes, length)
    scores: Scores = {"clips": len(clips), "frames": clips.shape[1]}
    scores["stretches"] = clips.shape[1] // length
    for key, values in figures.items():
        scores[key] = round(float(values.mean()), 2 if key == "colour_shift" else 4)
    return scores


def stretch_figures(
    clips: np.ndarray, scenes: Sequence[Scene], length: int = STRETCH
) -> dict[str, np.ndarray]:
    """How each clip of uint8 (n, T, H, W, 3) keeps what its one-object scene says, (n,) each.

    colour and shape: share of all stretches of `length` frames that show the scene's; _first and
    _last: of the first and the last quarter of the stretches. colour_shift: distance in RGB, in
    levels, between the object's colour in the last quarter and in the first stretch; 0 to 442,
    which also stands for an object that is lost.
    """
    starts = range(0, clips.shape[1] - length + 1, length)
    quarter = max(1, len(starts) // 4)
    seen = [[recognise(clip[start : start + length]) for start in starts] for clip in clips]
    figures = {}
    for key in ("colour", "shape"):
        right = np.array(
            [
                [getattr(reading, key) == getattr(scene.objects[0], key) for reading in row]
                for row, scene in zip(seen, scenes, strict=True)
            ]
        )
        figures[key] = right.mean(1)
        figures[f"{key}_first"] = right[:, :quarter].mean(1)
        figures[f"{key}_last"] = right[:, -quarter:].mean(1)
    shifts = [_shift(clip[:length], clip[starts[-quarter] :]) for clip in clips]
    figures["colour_shift"] = np.array(shifts)
    return figures


def _shift(first: np.ndarray, last: np.ndarray) -> float:
    """Levels between the object's colours; that between black and white where it is lost."""
    before, after = object_colour(first), object_colour(last)
    if before is None or after is None:
        return 255.0 * 3**0.5
    return float(np.linalg.norm(after - before))


def endless_prompts(count: int, seed: int = 0) -> list[tuple[str, Scene]]:
    """Held-out prompts, with their scenes, whose motion repeats itself."""
    pairs = held_out_prompts(8 * count, seed)
    return [pair for pair in pairs if pair[1].objects[0].motion in MOTIONS][:count]


def evaluate_long(
    sampler: Sampler, *, count: int = 16, frames: int = 390, seed: int = 0
) -> dict[str, Scores]:
    """Scores of `count` videos of `frames` frames, by a hierarchy and by a roll-out.

    frames: a multiple of `STRETCH`; ValueError for others. Windows have the sampler's length, four
    frames carried.
    """
    pairs = endless_prompts(count, seed)
    prompts, scenes = [p for p, _ in pairs], [s for _, s in pairs]
    return {
        name: score_stretches(long_clips(sampler, prompts, name, frames, seed), scenes)
        for name in PLANS
    }


def long_clips(
    sampler: Sampler, prompts: Sequence[str], plan: str, frames: int, seed: int
) -> np.ndarray:
    """Videos uint8 (n, frames, H, W, 3) by one of `PLANS`. ValueError for frames that are no
    multiple of `STRETCH`."""
    if frames < STRETCH or frames % STRETCH:
        raise ValueError(f"{frames} frames: expected a multiple of {STRETCH}")
    _, window, h, w = sampler.shape
    common = {"window": window, "fps": _FPS, "width": 8 * w, "height": 8 * h, "seed": seed}
    if plan == "hierarchy":
        made = hierarchy(frames // STRETCH + 1, STRETCH, **common)
    else:
        made = rollout(frames, **common)
    return _decoded(sampler, follow(made, sampler, prompts))


def _decoded(sampler: Sampler, latents: Tensor) -> np.ndarray:
    return np.concatenate([sampler.codec.decode(one[None]) for one in latents])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.long_video")
    parser.add_argument("--checkpoint", type=Path, required=True, help="with all parts inside")
    parser.add_argument("--count", type=int, default=16, help="prompts")
    parser.add_argument("--frames", type=int, default=390, help="a multiple of 15")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    args = parser.parse_args(argv)
    sampler = Sampler.from_checkpoint(
        args.checkpoint,
        size=(16, 64, 64),
        steps=args.steps,
        guidance_scale=args.guidance_scale,
    )
    report(evaluate_long(sampler, count=args.count, frames=args.frames))


if __name__ == "__main__":
    main()
