"""What is looked at in the clips of a comparison: figures of the shapes domain, one per clip.

A figure is an array (n,) over clips, or one number where it is of the whole set.

Legend: n clips, C channels, T frames, H, W pixels, h, w latent height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stiv.frames import frame_mask, task_positions

from ...engine.motion import flow_speeds
from ...sampling import Sampler
from ...shapes.captions import held_out_prompts
from ...shapes.render import render_clips
from ...shapes.scene import Scene
from ...watch.heldout import held_out_loss
from ...watch.run import HELD_OUT_TIMES
from ..frechet import frechet_distance
from ..long_video import endless_prompts, long_clips, stretch_figures
from ..pictures import motion_error, psnr
from ..recognise import centres, object_colour
from ..rendering import seed_of
from ..score import hits
from .comparison import ScoreSection

Figures = dict[str, np.ndarray]

_FPS = 8.0
_BATCH = 32
_MOMENTS = 4  # of a clip, at which the object is looked for
_LOST = (0.5, 0.5)
_SAME_COLOUR = 45.0  # levels: half of what the domain's nearest two, yellow and orange, are apart


def look(sampler: Sampler, score: ScoreSection, given: str, plan: str, seed: int) -> Figures:
    """Every figure of a score for a model. given: the task whose frames it gets.

    All models see the same prompts; seed: of the noise.
    """
    if score.loss:
        return _losses(sampler, score, given)
    if score.long:
        pairs = endless_prompts(score.clips)
        prompts, scenes = [p for p, _ in pairs], [s for _, s in pairs]
        return stretch_figures(long_clips(sampler, prompts, plan, score.long, seed), scenes)
    return _clips(sampler, score, given, seed)


def _clips(sampler: Sampler, score: ScoreSection, given: str, seed: int) -> Figures:
    pairs = held_out_prompts(score.clips)
    prompts, scenes = [p for p, _ in pairs], [s for _, s in pairs]
    _, T, h, _ = sampler.shape
    truth = render_clips(scenes, T, 8 * h)
    positions = task_positions(given, T)
    made, exact = [], []
    for first in range(0, len(prompts), _BATCH):
        part = slice(first, first + _BATCH)
        clean = mask = None
        count = len(prompts[part])
        if positions:
            mask = frame_mask(positions, T).expand(count, T)
            clean = sampler.codec.encode(truth[part]) * mask[:, None, :, None, None]
            exact.append(sampler.codec.decode(clean))
        seeds = [seed_of(seed, index) for index in range(first, first + count)]
        made.append(sampler.clips(prompts[part], clean, mask, seeds))
    clips = np.concatenate(made)
    shown = np.concatenate(exact) if exact else None
    return clip_figures(clips[:, score.after :], truth[:, score.after :], scenes) | (
        {} if shown is None or positions[0] != 0 else first_frames(clips, shown)
    )


def clip_figures(clips: np.ndarray, truth: np.ndarray, scenes: Sequence[Scene]) -> Figures:
    """Figures of clips uint8 (n, T, H, W, 3) whose true ones are `truth`.

    colour, background, shape, direction, motion, all: 1 where it is as the prompt says. dynamic: 1
    where something moves fast; speed: mean of all pixels, in % of the side per second (both by
    optical flow). psnr (dB) and motion_error (pixels), beside the true clip. distance: Fréchet's,
    between what the clips show and what the true ones do, see `tracks`.
    """
    speeds = [flow_speeds(clip) for clip in clips]
    return {
        **hits(clips, scenes),
        "dynamic": np.array([float(speed.is_dynamic()) for speed in speeds]),
        "speed": np.array([speed.score(_FPS) for speed in speeds]),
        "psnr": psnr(clips, truth),
        "motion_error": motion_error(clips, truth),
        "distance": np.array(frechet_distance(tracks(clips), tracks(truth))),
    }


def first_frames(clips: np.ndarray, shown: np.ndarray) -> Figures:
    """How clips begin, beside the first frames that were given (as the VAE shows them).

    first_frame: PSNR in dB. kept: 1 where the object of the last frames has the given one's colour.
    """
    kept = []
    for clip, given in zip(clips, shown, strict=True):
        before, after = object_colour(given[:1]), object_colour(clip[-2:])
        near = before is not None and after is not None
        kept.append(float(near and np.linalg.norm(before - after) < _SAME_COLOUR))
    return {"first_frame": psnr(clips[:, 0], shown[:, 0]), "kept": np.array(kept)}


def tracks(clips: np.ndarray) -> np.ndarray:
    """(n, 18) what the clips show, in numbers of about one size: where the object's centre is at
    four moments and whether it is to be seen, its colour, and the background's.

    Made for clips of the domain: a Fréchet video distance whose features need no weights.
    """
    rows = []
    for clip in clips:
        moments = np.linspace(0, len(clip) - 1, _MOMENTS).round().astype(int)
        places = centres(clip)[moments]
        seen = ~np.isnan(places[:, 0])
        colour = object_colour(clip)
        edge = np.median(clip[:, [0, -1]].reshape(-1, 3), axis=0)
        rows.append(
            [
                *(4 * np.where(seen[:, None], places, _LOST)).ravel(),
                *seen,
                *((edge if colour is None else colour) / 128),
                *(edge / 128),
            ]
        )
    return np.array(rows, dtype=np.float64)


@torch.no_grad()
def _losses(sampler: Sampler, score: ScoreSection, given: str) -> Figures:
    """loss: the flow loss on held-out clips, mean over times."""
    pairs = held_out_prompts(score.clips)
    prompts, scenes = [p for p, _ in pairs], [s for _, s in pairs]
    _, T, h, _ = sampler.shape
    latents = sampler.codec.encode(render_clips(scenes, T, 8 * h)).to(sampler.device)
    rows = [_Row(latents[i], str(i), prompt) for i, prompt in enumerate(prompts)]
    micro = torch.tensor([[8 * h, 8 * h, 0, 0, sampler.stride or 1, T]]).to(latents)

    def velocity(x, t, chosen):
        return sampler.velocity(x, t, [row.caption for row in chosen], micro=micro)

    found = held_out_loss(velocity, rows, tasks=[given], times=HELD_OUT_TIMES, seed=0, batch=_BATCH)
    return {"loss": np.array(np.mean(list(found.values())))}


class _Row:
    """A clip as `held_out_loss` takes it."""

    def __init__(self, latents: torch.Tensor, key: str, caption: str):
        self.latents, self.key, self.caption = latents, key, caption


def to_json(figures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Plain lists and numbers; NaN, where a figure does not apply, as null."""
    return {
        name: [None if np.isnan(v) else round(float(v), 6) for v in values]
        if values.ndim
        else round(float(values), 6)
        for name, values in figures.items()
    }


def from_json(values: Mapping[str, Any]) -> Figures:
    """The inverse of `to_json`."""
    return {
        name: np.array([np.nan if v is None else v for v in value])
        if isinstance(value, list)
        else np.array(float(value))
        for name, value in values.items()
    }
