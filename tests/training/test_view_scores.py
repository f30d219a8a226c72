"""Scores of views: their arithmetic, right on true views, worse on wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stiv.views import ZERO123PLUS
from tests.training.vaes import make_vae
from training.codec import SpaceCodec
from training.evaluation.score import table
from training.evaluation.views import (
    _common_points,
    agreement,
    evaluate_views,
    multi_view_sampler,
    same_colours,
    score_views,
)
from training.sampling import Sampler
from training.solids.render import render, trace, view_set
from training.solids.scene import Solid, ViewScene, scene_from_seed

CUBE = ViewScene((Solid("cube", 0, 3, yaw=20),), 20.0, 70.0)


def test_colours_are_compared_wherever_they_are() -> None:
    (view,) = render(CUBE.solids, type(ZERO123PLUS)("one", ZERO123PLUS.cameras[:1]), 64)
    assert same_colours(view, view) == same_colours(view[:, ::-1], view) == pytest.approx(1)
    darker = (view * 0.9).astype(np.uint8)
    darker[(view == 255).all(-1)] = 255
    assert same_colours(darker, view) > 0.9
    assert same_colours(np.full_like(view, 255), view) == 0
    others = render((Solid("cube", 4, 1, yaw=20),), ZERO123PLUS, 64)[0]
    assert same_colours(others, view) < 0.7


def test_common_points_are_common() -> None:
    """The colours that the renderer gives them are the same in both views."""
    scene = ViewScene((Solid("sphere", 0, 1, radius=1.0),), 0.0, 30.0)
    colour = trace(scene.solids, ZERO123PLUS, 96, scene.azimuth).colour
    found = _common_points(scene, 96)
    assert [(i, j) for i, j, *_ in found] == [(k, (k + 1) % 6) for k in range(6)]
    for i, j, pixels, places in found:
        assert len(pixels) > 300
        assert float(places.abs().max()) < 1
        rows, columns = (((places.flip(-1) + 1) * 48).floor().long()).unbind(-1)
        near = (colour[i].flatten(0, 1)[pixels] - colour[j][rows, columns]).abs().amax(-1)
        assert float((near < 0.05).float().mean()) > 0.9  # but at the borders of faces


def test_views_that_disagree_are_told() -> None:
    truth = view_set(CUBE)[1:]
    true = agreement(truth, CUBE)
    assert true > 20
    wrong = truth.copy()
    wrong[2] = render((Solid("cube", 3, 5, yaw=20),), ZERO123PLUS, 64, CUBE.azimuth)[2]
    assert agreement(wrong, CUBE) < true - 5
    repeated = np.repeat(view_set(CUBE)[:1], 6, axis=0)
    assert agreement(repeated, CUBE) < true - 5


def test_true_views_score_best() -> None:
    scenes = [scene_from_seed(seed, "held_out") for seed in range(4)]
    sets = np.stack([view_set(scene) for scene in scenes])
    truth = sets[:, 1:]
    perfect = score_views(truth, truth, scenes)
    assert (perfect["sets"], perfect["ssim"], perfect["colours"]) == (4, 1.0, 1.0)
    assert perfect["psnr"] > 70
    for wrong in (truth[::-1], truth[:, ::-1], np.repeat(sets[:, :1], 6, axis=1)):
        worse = score_views(wrong, truth, scenes)
        assert all(worse[key] < perfect[key] for key in perfect if key != "sets")
    with pytest.raises(ValueError, match="need one set of the same size for each scene"):
        score_views(truth[:2], truth[:2], scenes)


def test_evaluate_gives_the_input_view_alone() -> None:
    asked = []

    def generate(prompts, clean, frame_mask, seed):
        asked.append((prompts, seed))
        assert frame_mask.tolist() == [[True] + [False] * 6] * len(prompts)
        assert clean[:, :, 0].any() and not clean[:, :, 1:].any()
        return np.stack(
            [view_set(scene_from_seed(seed + k, "held_out"), 32) for k in range(len(prompts))]
        )

    codec = SpaceCodec(make_vae(width=4), {"shift": 0.0, "scale": 1.0})
    results = evaluate_views(generate, codec, count=5, seed=10, size=32, batch=4)
    assert asked == [([""] * 4, 10), ([""], 14)]
    assert results["multi_view"]["psnr"] > 70 > results["views_repeated"]["psnr"]
    assert results["views_decoded"]["psnr"] < 40
    text = table(results)
    assert "| multi view | ssim | 1.0 |" in text and "| multi view | colours | 100.0 % |" in text


def test_any_velocity_can_be_scored() -> None:
    """As multi-view is trained: seven frames, the null image blank, no words."""
    blanks = []

    def velocity(x, t, captions):
        assert x.shape[2] == 7 and set(captions) == {""}
        null, given = x.chunk(2)
        blanks.append(not null[:, :, 0].any() and bool(given[:, :, 0].any()))
        return torch.zeros_like(x)

    codec = SpaceCodec(make_vae(width=4), {"shift": 0.0, "scale": 1.0})
    sampler = multi_view_sampler(Sampler(velocity, codec, (4, 16, 8, 8), steps=2), 32)
    assert (sampler.shape, sampler.guidance_scale) == ((4, 7, 4, 4), 3.5)
    results = evaluate_views(sampler.clips, codec, count=2, size=32)
    assert blanks == [True, True]
    assert results["multi_view"]["psnr"] < 30
