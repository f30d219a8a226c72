"""Scores generated clips against the scenes their prompts describe.

`evaluate` asks a `Generate` function for text-to-video, image-to-video, interpolation and
prediction on prompts whose combinations were held out of training, and `report` prints the table
and, as the last line, one JSON object. Run as a module it scores the scorer itself, on rendered
clips and on the VAE's reconstructions of them: the ceiling of any model.

    python -m training.evaluation.score --count 256 --vae vae.safetensors

Legend: n clips, C channels, T frames, H, W pixels, h, w latent height and width.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from ..encoders.vae import open_vae
from ..sampling import Codec
from ..shapes.captions import held_out_prompts
from ..shapes.render import render_clips
from ..shapes.scene import DIRECTIONS, Scene
from .pictures import motion_error, psnr, ssim
from .recognise import colour_of, recognise

#: (prompts, clean, frame_mask, seed) -> clips uint8 (n, T, H, W, 3). `clean` holds the given
#: frames as model latents (n, C, T, h, w), zeros elsewhere, and `frame_mask` (n, T) is True where
#: a frame is given; both are None for text-to-video.
Generate = Callable[[Sequence[str], Tensor | None, Tensor | None, int], np.ndarray]

Scores = dict[str, float | int]

FRAMES, SIZE = 16, 64
"""Of the clips that are scored; SIZE: pixels of a side."""
PREDICT_FROM = 4
"""Frames that a prediction is given (paper)."""
_NO_SHARES = ("psnr", "ssim", "motion_error", "colour_shift")


def score_clips(clips: np.ndarray, scenes: Sequence[Scene]) -> Scores:
    """Shares of clips (n, T, H, W, 3) that show what their one-object scenes say.

    `direction` is taken over the scenes whose motion is one of the four directions, `motion` over
    all; `all` is the share of clips with everything right.
    """
    found = hits(clips, scenes)
    return {"clips": len(clips), **{k: _share(v[~np.isnan(v)]) for k, v in found.items()}}


def hits(clips: np.ndarray, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """What is right in each clip, 1 or 0 (n,), for the figures of `score_clips`; NaN where a figure
    does not apply."""
    if len(clips) != len(scenes) or any(len(s.objects) != 1 for s in scenes):
        raise ValueError(
            f"{len(clips)} clips for {len(scenes)} scenes: need one scene of one object each"
        )
    rows = []
    for clip, scene in zip(clips, scenes, strict=True):
        seen, wanted = recognise(clip), scene.objects[0]
        right = {
            "colour": seen.colour == wanted.colour,
            "background": seen.background == scene.background,
            "shape": seen.shape == wanted.shape,
        }
        is_direction = wanted.motion in DIRECTIONS
        right["direction"] = seen.motion == wanted.motion if is_direction else np.nan
        right["motion"] = seen.motion == wanted.motion
        rows.append({**right, "all": all(right.values())})  # NaN counts as true
    return {key: np.array([row[key] for row in rows], np.float64) for key in rows[0]}


def score_image_to_video(clips: np.ndarray, given: np.ndarray, scenes: Sequence[Scene]) -> Scores:
    """How clips (n, T, H, W, 3) keep their given first frames (n, H, W, 3).

    `frame_exact` is the share of clips whose first frame is the given one bit for bit,
    `frame_error` the largest difference in levels, `colour_kept` the share whose object has the
    scene's colour in the frames after it.
    """
    error = np.abs(clips[:, 0].astype(int) - given.astype(int)).max(axis=(1, 2, 3))
    kept = [colour_of(c[1:]) == s.objects[0].colour for c, s in zip(clips, scenes, strict=True)]
    return {
        "clips": len(clips),
        "frame_exact": _share(error == 0),
        "frame_error": int(error.max()),
        "colour_kept": _share(kept),
    }


def score_between(clips: np.ndarray, truth: np.ndarray, given: np.ndarray) -> Scores:
    """Frames between given ones, against the true ones and what is done without a model.

    clips and truth are (n, T, H, W, 3); given (T,) is True where a frame was given. The baselines
    get the true given frames; frames outside the outermost given ones are not scored. Figures as
    in `score_frames`; `blend` is linear blending, `repeat` the given frame before. Raises
    ValueError for fewer than two given frames.
    """
    at = np.flatnonzero(given)
    if len(at) < 2:
        raise ValueError(f"{len(at)} given frames: interpolation needs at least two")
    between = [t for t in range(at[0], at[-1]) if not given[t]]
    candidates = {"": clips, "blend": blend(truth, given), "repeat": repeat(truth, given)}
    return score_frames(candidates, truth, between)


def score_prediction(clips: np.ndarray, truth: np.ndarray, given: int) -> Scores:
    """Frames after the first `given` ones, against the true ones (both (n, T, H, W, 3)) and the
    last true given frame repeated; figures as in `score_frames`."""
    known = np.arange(truth.shape[1]) < given
    candidates = {"": clips, "repeat": repeat(truth, known)}
    return score_frames(candidates, truth, np.flatnonzero(~known).tolist())


def score_frames(
    candidates: Mapping[str, np.ndarray], truth: np.ndarray, at: Sequence[int]
) -> Scores:
    """Three figures of candidates (n, T, H, W, 3) for `truth`, of the frames `at`: psnr (dB, of a
    clip's frames together), ssim (mean over frames), motion_error (pixels). A candidate's name is
    added to the figure's."""
    true, scores = truth[:, at], {"clips": len(truth)}
    for name, frames in candidates.items():
        made = frames[:, at]
        figures = {
            "psnr": round(float(psnr(made, true).mean()), 2),
            "ssim": round(float(ssim(_flat(made), _flat(true)).mean()), 4),
            "motion_error": round(float(motion_error(made, true).mean()), 2),
        }
        scores |= {f"{key}_{name}" if name else key: value for key, value in figures.items()}
    return scores


def _flat(clips: np.ndarray) -> np.ndarray:
    return clips.reshape(-1, *clips.shape[2:])


def repeat(clips: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Clips (n, T, H, W, 3) with every frame replaced by the last given (T,) one so far; the first
    given one comes before it as well."""
    at = np.flatnonzero(given)
    return clips[:, at[np.maximum(np.searchsorted(at, np.arange(len(given)), "right") - 1, 0)]]


def blend(clips: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Clips (n, T, H, W, 3) with all frames but the given (T,) blended from their neighbours,
    float32; before the first and after the last given frame it is repeated."""
    at = np.flatnonzero(given)
    place = np.clip(np.arange(len(given)), at[0], at[-1])
    after = np.minimum(np.searchsorted(at, place, side="left"), len(at) - 1)
    before = np.maximum(np.searchsorted(at, place, side="right") - 1, 0)
    width = np.maximum(at[after] - at[before], 1)
    share = ((place - at[before]) / width).astype(np.float32)[:, None, None, None]
    return clips[:, at[before]] * (1 - share) + clips[:, at[after]] * share


def evaluate(
    generate: Generate,
    codec: Codec,
    *,
    count: int = 256,
    seed: int = 0,
    frames: int = FRAMES,
    size: int = SIZE,
    batch: int = 32,
) -> dict[str, Scores]:
    """Scores a model on `count` held-out prompts: text to video, image to video, interpolation
    between every second frame, prediction from the first four (paper). Deterministic when
    `generate` is."""
    pairs = held_out_prompts(count, seed)
    prompts, scenes = [p for p, _ in pairs], [s for _, s in pairs]
    truth = render_clips(scenes, frames, size)

    def run(given: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The generated clips, and the clips that the given latents decode to."""
        made, exact = [], []
        for first in range(0, count, batch):
            part = slice(first, min(first + batch, count))
            clean = mask = None
            if len(given):
                mask = torch.zeros(part.stop - part.start, frames, dtype=torch.bool)
                mask[:, list(given)] = True
                clean = codec.encode(truth[part]) * mask[:, None, :, None, None]
                exact.append(codec.decode(clean))
            made.append(generate(prompts[part], clean, mask, seed + first))
        return np.concatenate(made), np.concatenate(exact) if exact else truth

    results = {"text_to_video": score_clips(run([])[0], scenes)}
    clips, exact = run([0])
    results["image_to_video"] = {
        **score_clips(clips, scenes),
        **score_image_to_video(clips, exact[:, 0], scenes),
    }
    every_second = np.arange(frames) % 2 == 0
    clips, _ = run(np.flatnonzero(every_second).tolist())
    results["interpolation"] = score_between(clips, truth, every_second)
    clips, _ = run(range(PREDICT_FROM))
    results["prediction"] = score_prediction(clips, truth, PREDICT_FROM)
    return results


def table(results: dict[str, Scores]) -> str:
    """The results as a Markdown table: shares in percent, the rest as it is."""
    lines = ["| task | figure | value |", "| --- | --- | --- |"]
    for task, scores in results.items():
        for name, value in scores.items():
            is_share = isinstance(value, float) and not name.startswith(_NO_SHARES)
            shown = f"{100 * value:.1f} %" if is_share else str(value)
            lines.append(f"| {task.replace('_', ' ')} | {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines)


def report(results: dict[str, Scores], out: TextIO | None = None) -> None:
    """Prints the table and, as the last line, the results as one JSON object."""
    print(table(results), "", json.dumps(results), sep="\n", file=out)


def _share(values: Sequence[bool] | np.ndarray) -> float:
    return round(float(np.mean(values)), 4) if len(values) else float("nan")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.score", description=__doc__
    )
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--vae", type=Path, help="also score this VAE's reconstructions")
    args = parser.parse_args(argv)
    scenes = [scene for _, scene in held_out_prompts(args.count)]
    clips = render_clips(scenes)
    results = {"rendered": score_clips(clips, scenes)}
    if args.vae:
        vae = open_vae(args.vae)
        decoded = vae.decode(vae.encode(clips)).numpy()
        results["reconstructed"] = score_clips(decoded, scenes)
    report(results)


if __name__ == "__main__":
    main()
