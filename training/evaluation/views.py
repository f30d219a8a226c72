"""Scores generated views of held-out solids against the true ones, and against each other.

`evaluate_views` asks a `Generate` function for the six views of each input view. Run as a module it
scores a checkpoint.

    python -m training.evaluation.views --checkpoint models/stiv_nano.safetensors --count 64

Legend: n sets, V = 6 views, H, W pixels, P points of a surface.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stiv.views import ZERO123PLUS

from ..sampling import Codec, Sampler
from ..solids.render import trace, view_set
from ..solids.scene import WHEEL, ViewScene, scene_from_seed
from .pictures import psnr, ssim
from .score import Generate, Scores, report

GUIDANCE = 3.5
"""The paper's guidance scale for multi-view."""

_SHADES = (0.7, 0.85, 1.0)  # brightness of a face, from shadow to light
_SAME = 0.03  # difference in depth below which two views show the same point


def score_views(views: np.ndarray, truth: np.ndarray, scenes: Sequence[ViewScene]) -> Scores:
    """Four figures of views uint8 (n, 6, H, W, 3) whose true ones are `truth`.

    psnr (dB) and ssim, of whole pictures, mean over views. colours: how far the objects' pixels
    are of the right colours, wherever they are: the overlap of the histograms over the eight
    colours of the wheel, 1 where each has its true share, 0 for a view without an object.
    psnr_between (dB): whether views agree with each other. By the true depths it is known where a
    point seen in one view lies in the next; compared are the colours that the views have there.
    The lamp is fixed, so a point's colour is the same in all views. Views of nothing agree as well:
    read it beside psnr.
    """
    if views.shape != truth.shape or len(views) != len(scenes):
        raise ValueError(
            f"views are {views.shape} and the true ones {truth.shape} for {len(scenes)} scenes: "
            "need one set of the same size for each scene"
        )
    views, truth = np.ascontiguousarray(views), np.ascontiguousarray(truth)
    pairs = [(v, t) for v, t in zip(_flat(views), _flat(truth), strict=True)]
    between = [agreement(set_, scene) for set_, scene in zip(views, scenes, strict=True)]
    known = [value for value in between if value is not None]
    return {
        "sets": len(views),
        "psnr": round(float(psnr(_flat(views), _flat(truth)).mean()), 2),
        "ssim": round(float(ssim(_flat(views), _flat(truth)).mean()), 4),
        "colours": round(float(np.mean([same_colours(*pair) for pair in pairs])), 4),
        "psnr_between": round(float(np.mean(known)), 2) if known else float("nan"),
    }


def same_colours(view: np.ndarray, true: np.ndarray) -> float:
    """Overlap in [0, 1] of two pictures' shares of the wheel's colours, the white left out."""
    shares = [_shares(picture) for picture in (view, true)]
    return float(np.minimum(*shares).sum())


def _shares(picture: np.ndarray) -> np.ndarray:
    """(8,) of the object's pixels; zeros without any."""
    shades = [np.array(rgb) * shade for rgb in WHEEL.values() for shade in _SHADES]
    palette = np.array([*shades, (255, 255, 255)], dtype=np.float64)
    distance = np.linalg.norm(picture.reshape(-1, 1, 3) - palette, axis=-1)
    colour = distance.argmin(-1) // len(_SHADES)  # white comes last, as a ninth
    counts = np.bincount(colour, minlength=9)[:8]
    return counts / max(1, counts.sum())


def agreement(views: np.ndarray, scene: ViewScene) -> float | None:
    """dB between the colours that neighbouring views (6, H, H, 3) give to the same points.

    None where no two neighbours show a common point.
    """
    pictures = torch.from_numpy(views).double().movedim(-1, 1) / 255
    errors = []
    for i, j, pixels, places in _common_points(scene, views.shape[1]):
        here = pictures[i].flatten(1)[:, pixels]
        there = F.grid_sample(pictures[j][None], places[None, None].double(), align_corners=False)
        errors.append((here - there[0, :, 0]).square().mean(0))
    error = torch.cat(errors) if errors else torch.empty(0)
    if not len(error):
        return None
    return float(10 * torch.log10(1 / error.mean().clamp(min=1e-8)))


def _common_points(scene: ViewScene, size: int) -> list[tuple[int, int, Tensor, Tensor]]:
    """For neighbours i and j: pixels (P,) of i, and where their points are in j, (P, 2) in
    [-1, 1] as `grid_sample` counts. Points at an outline of j are left out."""
    rig = ZERO123PLUS
    matrices, focal = rig.matrices(scene.azimuth), rig.focal_lengths()
    depth = trace(scene.solids, rig, size, scene.azimuth).depth
    # Around an outline the farthest depth of a pixel's surroundings is infinite.
    farthest = F.max_pool2d(depth[:, None], 3, stride=1, padding=1)[:, 0]
    offset = (torch.arange(size) + 0.5) / size - 0.5
    y, x = torch.meshgrid(offset, offset, indexing="ij")
    found = []
    for i in range(len(depth)):
        j = (i + 1) % len(depth)
        pixels = torch.isfinite(farthest[i]).flatten().nonzero()[:, 0]
        z = depth[i].flatten()[pixels, None]
        flat = torch.stack([x, y], -1).flatten(0, 1)[pixels] / focal[i]
        world = (torch.cat([flat * z, z], -1) - matrices[i, :3, 3]) @ matrices[i, :3, :3]
        local = world @ matrices[j, :3, :3].T + matrices[j, :3, 3]
        places = 2 * focal[j] * local[:, :2] / local[:, 2:]
        around = torch.stack([depth[j], farthest[j]])[None]
        nearest = F.grid_sample(around, places[None, None], mode="nearest", align_corners=False)
        near, far = nearest[0, :, 0]
        is_seen = ((near - local[:, 2]).abs() < _SAME) & torch.isfinite(far)
        found.append((i, j, pixels[is_seen], places[is_seen]))
    return found


def evaluate_views(
    generate: Generate,
    codec: Codec,
    *,
    count: int = 64,
    seed: int = 0,
    size: int = 64,
    batch: int = 16,
) -> dict[str, Scores]:
    """Scores a model on the view sets of `count` held-out objects.

    `multi_view` is the model's, `views_repeated` the baseline that shows the input view six times,
    `views_decoded` the true views through the codec and back: the most that a model can reach.
    generate: as for `evaluate`, for clips of seven frames; prompts are empty, the input view is
    given. Deterministic when it is.
    """
    scenes = [scene_from_seed(seed + i, "held_out") for i in range(count)]
    sets = np.stack([view_set(scene, size) for scene in scenes])
    made, decoded = [], []
    for first in range(0, count, batch):
        part = sets[first : first + batch]
        latents = codec.encode(part)
        mask = torch.zeros(len(part), part.shape[1], dtype=torch.bool)
        mask[:, 0] = True
        clean = latents * mask[:, None, :, None, None]
        made.append(generate([""] * len(part), clean, mask, seed + first))
        decoded.append(codec.decode(latents))
    truth = sets[:, 1:]
    candidates = {
        "multi_view": np.concatenate(made)[:, 1:],
        "views_repeated": np.repeat(sets[:, :1], truth.shape[1], axis=1),
        "views_decoded": np.concatenate(decoded)[:, 1:],
    }
    return {name: score_views(views, truth, scenes) for name, views in candidates.items()}


def multi_view_sampler(sampler: Sampler, size: int = 64) -> Sampler:
    """The same model, set up as multi-view is trained: seven frames, a blank null image."""
    channels = sampler.shape[0]
    return replace(
        sampler,
        shape=(channels, 1 + len(ZERO123PLUS.cameras), size // 8, size // 8),
        guidance_scale=GUIDANCE,
        null="blank",
    )


def _flat(views: np.ndarray) -> np.ndarray:
    return views.reshape(-1, *views.shape[2:])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.views")
    parser.add_argument("--checkpoint", type=Path, required=True, help="with all parts inside")
    parser.add_argument("--count", type=int, default=64, help="held-out objects")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(argv)
    sampler = multi_view_sampler(Sampler.from_checkpoint(args.checkpoint, steps=args.steps))
    report(evaluate_views(sampler.clips, sampler.codec, count=args.count))


if __name__ == "__main__":
    main()
