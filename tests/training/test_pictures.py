"""How far pictures are from true ones: closed forms and definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.evaluation.pictures import motion_error, psnr, ssim
from training.shapes.render import render_clips
from training.shapes.scene import sample_scene


def flat(*values: int) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), value, np.uint8) for value in values])


def noise(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, side, side, 3)).astype(np.uint8)


def test_psnr_in_closed_form() -> None:
    values = psnr(flat(100, 7, 0), flat(110, 7, 255))
    assert values == pytest.approx([20 * np.log10(255 / 10), 78.13, 0], abs=0.01)
    halves = np.concatenate([flat(100), flat(120)], axis=1)  # of a clip the error is averaged
    expected = 10 * np.log10(255**2 / ((10**2 + 30**2) / 2))
    assert psnr(halves, np.full_like(halves, 90)) == pytest.approx(expected)


def test_ssim_in_closed_form() -> None:
    assert ssim(noise(0), noise(0)) == pytest.approx(1)
    a, b, c1 = 100 / 255, 180 / 255, 1e-4
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(flat(100, 7), flat(180, 7)) == pytest.approx([expected, 1])
    assert ssim(noise(0), 255 - noise(0)) < -0.5


def test_ssim_of_many_is_ssim_of_each() -> None:
    made, true = (np.concatenate([noise(s + k) for s in range(300)]) for k in (0, 1000))
    each = [ssim(made[i : i + 1], true[i : i + 1])[0] for i in (0, 255, 256, 299)]
    assert ssim(made, true)[[0, 255, 256, 299]] == pytest.approx(each)


def test_ssim_is_its_definition_window_by_window() -> None:
    one, other = noise(1, 13), noise(2, 13)
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for channel in range(3):
        for top in range(3):
            for left in range(3):
                a, b = (x[0, top : top + 11, left : left + 11, channel] / 255 for x in (one, other))
                ma, mb = (weights * a).sum(), (weights * b).sum()
                va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
                both = (weights * (a - ma) * (b - mb)).sum()
                light = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
                values.append(light * (2 * both + 9e-4) / (va + vb + 9e-4))
    assert ssim(one, other) == pytest.approx(np.mean(values))


def test_motion_error_is_the_distance_in_pixels() -> None:
    scene = sample_scene(np.random.default_rng(3), combination=("red", "square", "spin"))
    moved = replace(scene, objects=(replace(scene.objects[0], x=scene.objects[0].x + 0.125),))
    true, other = render_clips([scene]), render_clips([moved])
    assert motion_error(true, true) == pytest.approx(0)
    assert motion_error(other, true) == pytest.approx(8, abs=0.3)  # an eighth of 64 pixels


def test_an_object_that_is_not_seen_is_half_a_side_off() -> None:
    scene = sample_scene(np.random.default_rng(3), combination=("red", "square", "spin"))
    true = render_clips([scene])
    gone = true.copy()
    gone[:, 8:] = gone[:, :1, :1, :1]
    assert motion_error(gone, true) == pytest.approx(16, abs=0.1)  # in half of the frames
