"""The scorer: right on true clips, wrong on wrong ones, and its arithmetic."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from tests.training.vaes import make_vae
from training.codec import SpaceCodec
from training.evaluation.recognise import NONE, Tracks, motion_of, recognise
from training.evaluation.score import (
    blend,
    evaluate,
    repeat,
    report,
    score_between,
    score_clips,
    score_image_to_video,
    score_prediction,
)
from training.shapes.captions import held_out_prompts
from training.shapes.render import render_clips
from training.shapes.scene import combinations, sample_scene

KEYS = ("colour", "background", "shape", "direction", "motion", "all")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(5)
    return [sample_scene(rng, combination=c) for c in combinations("any")]


@pytest.fixture(scope="module")
def clips(scenes):
    return render_clips(scenes)


def test_every_combination_is_recognised(clips, scenes):
    assert score_clips(clips, scenes) == {"clips": 248, **dict.fromkeys(KEYS, 1.0)}


def test_noise_and_blur_are_survived(clips, scenes):
    rng = np.random.default_rng(0)
    some = slice(0, None, 5)
    noisy = clips[some] + rng.normal(0, 8, clips[some].shape)
    blurred = (noisy + np.roll(noisy, 1, 2) + np.roll(noisy, 1, 3)) / 3
    scores = score_clips(blurred.round().clip(0, 255).astype(np.uint8), scenes[some])
    assert min(scores[k] for k in ("colour", "background", "direction", "motion")) >= 0.95
    assert scores["shape"] >= 0.9


def test_wrong_clips_are_wrong(clips, scenes):
    clips, scenes = clips[::3], scenes[::3]
    shifted = np.roll(clips, 1, axis=0)
    assert score_clips(shifted, scenes)["all"] == 0.0
    backwards = [s for s in scenes if s.objects[0].motion in ("left", "right", "up", "down")]
    reversed_clips = render_clips(backwards)[:, ::-1]
    assert score_clips(reversed_clips, backwards)["direction"] == 0.0
    frozen = np.repeat(clips[:, :1], 16, axis=1)
    assert score_clips(frozen, scenes)["motion"] == 0.0


def test_an_empty_or_vanishing_object_is_nothing(clips):
    empty = np.full((16, 64, 64, 3), 122, np.uint8)
    seen = recognise(empty)
    assert (seen.colour, seen.shape, seen.motion, seen.background) == (NONE, NONE, NONE, "gray")
    vanishing = clips[0].copy()
    vanishing[8:] = vanishing[0, 0, 0]
    assert recognise(vanishing).motion == recognise(vanishing).shape == NONE


def test_noise_is_no_shape():
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3)).astype(np.uint8)
    assert recognise(noise).shape == NONE


@pytest.mark.parametrize("bad", [np.zeros((16, 64, 64), np.uint8), np.zeros((2, 8, 8, 3))])
def test_bad_clips_are_refused(bad):
    with pytest.raises(ValueError, match="uint8"):
        recognise(bad)


def test_unnamed_motions_are_none():
    u = np.linspace(0, 1, 16)
    diagonal = np.stack([0.3 + 0.4 * u, 0.3 + 0.4 * u], -1)
    assert motion_of(Tracks(diagonal, np.ones(16), np.zeros(16))) == NONE
    still = np.full((16, 2), 0.5)
    assert motion_of(Tracks(still, np.ones(16), np.zeros(16))) == "still"
    assert motion_of(Tracks(still, 2 - u * 1.5, np.zeros(16))) == NONE  # shrinks
    sideways = np.stack([0.5 + 0.2 * np.sin(6 * u), still[:, 1]], -1)
    assert motion_of(Tracks(sideways, np.ones(16), np.zeros(16))) == NONE


def test_scenes_of_two_objects_are_refused(clips, scenes):
    with pytest.raises(ValueError, match="one object each"):
        score_clips(clips[:1], [replace(scenes[0], objects=scenes[0].objects * 2)])


def test_image_to_video_scores(clips, scenes):
    clips, scenes = clips[::4], scenes[::4]
    given = clips[:, 0].copy()
    perfect = score_image_to_video(clips, given, scenes)
    assert perfect == {"clips": 62, "frame_exact": 1.0, "frame_error": 0, "colour_kept": 1.0}
    given[0, 0, 0, 0] += 3
    worse = score_image_to_video(np.roll(clips, 1, 0)[:, ::-1], given, scenes)
    assert worse["frame_exact"] == 0 and worse["frame_error"] > 100
    assert score_image_to_video(clips, given, scenes)["frame_error"] == 3


def test_blending_is_linear():
    clip = np.arange(5, dtype=np.uint8).reshape(1, 5, 1, 1, 1) ** 2
    given = np.array([True, False, False, True, False])
    assert blend(clip, given).ravel().tolist() == pytest.approx([0, 3, 6, 9, 9])


def test_frames_between_are_scored_beside_blending_and_repeating(clips):
    given, clips = np.arange(16) % 2 == 0, clips[:40]
    true = score_between(clips, clips, given)
    assert true["psnr"] > 70 > 30 > true["psnr_blend"] > true["psnr_repeat"] > 10
    assert (true["ssim"], true["motion_error"]) == (1.0, 0.0)
    assert true["ssim"] > true["ssim_blend"] > true["ssim_repeat"] > 0.5
    assert true["motion_error_repeat"] > 1
    blended = blend(clips, given).round().astype(np.uint8)
    score = score_between(blended, clips, given)
    for figure in ("psnr", "ssim", "motion_error"):
        assert score[figure] == pytest.approx(score[f"{figure}_blend"], abs=0.1)
    with pytest.raises(ValueError, match="1 given"):
        score_between(clips[:1], clips[:1], np.arange(16) == 0)


def test_a_prediction_is_scored_beside_the_last_given_frame(clips):
    clips = clips[:40]
    frozen = clips.copy()
    frozen[:, 4:] = frozen[:, 3:4]
    score = score_prediction(frozen, clips, 4)
    for figure in ("psnr", "ssim", "motion_error"):
        assert score[figure] == score[f"{figure}_repeat"]
    wrong_before = clips.copy()
    wrong_before[:, :4] = 0
    true = score_prediction(wrong_before, clips, 4)
    assert true["psnr"] > 70 > true["psnr_repeat"] and true["motion_error"] == 0


def test_repeating_shows_the_given_frame_before():
    clip = np.arange(5, dtype=np.uint8).reshape(1, 5, 1, 1, 1)
    given = np.array([False, True, False, True, False])
    assert repeat(clip, given).ravel().tolist() == [1, 1, 1, 3, 3]


def test_evaluate_asks_for_every_task_and_hides_what_is_not_given():
    asked = []

    def generate(prompts, clean, frame_mask, seed):
        asked.append((len(prompts), None if clean is None else frame_mask[0].tolist()))
        if clean is not None:
            assert not (clean * ~frame_mask[:, None, :, None, None]).any()
            assert clean.shape == (len(prompts), 4, 16, 8, 8)
        by_prompt = dict(held_out_prompts(6))
        return render_clips([by_prompt[p] for p in prompts])

    codec = SpaceCodec(make_vae(width=4), {"shift": 0.0, "scale": 1.0})
    results = evaluate(generate, codec, count=6, batch=4)
    first, every_second = [t == 0 for t in range(16)], [t % 2 == 0 for t in range(16)]
    first_four = [t < 4 for t in range(16)]
    assert asked == [(n, m) for m in (None, first, every_second, first_four) for n in (4, 2)]
    assert results["text_to_video"]["all"] == 1.0
    assert results["image_to_video"]["frame_exact"] == 0.0
    assert results["interpolation"]["psnr"] > results["interpolation"]["psnr_blend"]
    assert results["prediction"]["psnr"] > results["prediction"]["psnr_repeat"]
    out = io.StringIO()
    report(results, out)
    assert json.loads(out.getvalue().splitlines()[-1]) == results
    assert "| text to video | colour | 100.0 % |" in out.getvalue()
