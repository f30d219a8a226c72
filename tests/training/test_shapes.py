"""The shapes domain: rendering, the split, captions that say what the scene is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations as pairs_of

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.shapes import captions
from training.shapes.render import coverage, frame_times, render_clip, render_frame
from training.shapes.scene import (
    BACKGROUNDS,
    COLOUR_JITTER,
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    combinations,
    is_held_out,
    sample_scene,
    scene_from_seed,
)

seeds = st.integers(0, 2**40)
patient = settings(deadline=None, max_examples=40)  # renders; the machine may be busy
splits = st.sampled_from(["train", "held_out", "any"])


@patient
@given(seeds, splits)
def test_objects_stay_in_the_frame(seed, split):
    for item in scene_from_seed(seed, split).objects:
        pose = item.pose(frame_times(16))
        assert np.all(pose.centre - 0.8 * pose.radius[:, None] > 0)
        assert np.all(pose.centre + 0.8 * pose.radius[:, None] < 1)
        assert 2 * pose.radius.max() * 64 >= 17  # readable after the VAE's 8x


@patient
@given(seeds)
def test_straight_paths_are_clearly_directional(seed):
    for item in scene_from_seed(seed).objects:
        if item.motion in DIRECTIONS:
            centre = item.pose(frame_times(16)).centre
            moved = centre[-1] - centre[0]
            axis = 0 if item.motion in ("left", "right") else 1
            assert (moved[axis] > 0) == (item.motion in ("right", "down"))
            assert abs(moved[axis]) > (0.4 if len(scene_from_seed(seed).objects) == 1 else 0.35)
            assert moved[1 - axis] == 0


@patient
@given(seeds, st.sampled_from([1, 5, 16, 21]))
def test_rendering_is_deterministic_and_sized(seed, frames):
    scene = scene_from_seed(seed)
    clip = render_clip(scene, frames)
    assert clip.shape == (frames, 64, 64, 3) and clip.dtype == np.uint8
    assert np.array_equal(clip, render_clip(scene_from_seed(seed), frames))
    assert np.array_equal(clip[0], render_frame(scene, 0.0))


@patient
@given(seeds)
def test_a_large_rendering_shows_the_same_clip(seed):
    scene = scene_from_seed(seed)
    small = render_clip(scene, 4).astype(float)
    large = render_clip(scene, 4, size=128).astype(float)
    pooled = large.reshape(4, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(pooled - small).mean() < 2


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_antialiased_and_areas_right(shape):
    turned = np.array([0.0, 0.4, 1.1])
    cover = coverage(shape, np.full((3, 2), 0.5), np.full(3, 0.2), turned, 128)
    assert ((cover > 0.05) & (cover < 0.95)).mean() > 0.005
    exact = {"circle": np.pi, "square": 3.24, "triangle": 27**0.5 * 0.68**2, "cross": 3.2}[shape]
    assert cover.mean((1, 2)) == pytest.approx(exact * 0.2**2, rel=0.02)


@patient
@given(seeds, splits)
def test_a_reversed_scene_is_the_clip_played_backwards(seed, split):
    scene = scene_from_seed(seed, split)
    back = scene.reverse()
    if any(o.motion == "grow" for o in scene.objects):
        assert back is None
    else:
        difference = render_clip(back)[::-1].astype(int) - render_clip(scene)
        assert np.abs(difference).max() <= 1


def test_names_of_colours_are_far_apart():
    names = {**COLOURS, **BACKGROUNDS}
    for (a, x), (b, y) in pairs_of(names.items(), 2):
        distance = np.linalg.norm(np.subtract(x, y))
        assert distance > 4 * COLOUR_JITTER * 3**0.5, (a, b, distance)


def test_the_split_is_balanced_and_disjoint():
    train, held_out = combinations("train"), combinations("held_out")
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(combinations("any"))
    assert 0.15 <= len(held_out) / len(combinations("any")) <= 0.2
    assert not any(c[1:] == ("circle", "spin") for c in combinations("any"))
    for attribute, values in enumerate((COLOURS, SHAPES, MOTIONS)):
        counts = Counter(c[attribute] for c in held_out)
        assert set(counts) == set(values)
        assert max(counts.values()) <= 1.6 * min(counts.values())
    for a, b in pairs_of(range(3), 2):  # every pair that exists is seen in training
        assert {(c[a], c[b]) for c in train} == {(c[a], c[b]) for c in combinations("any")}


@patient
@given(seeds)
def test_scenes_belong_to_their_split(seed):
    assert not scene_from_seed(seed, "train").is_held_out()
    held_out = scene_from_seed(seed, "held_out")
    assert all(is_held_out(o.colour, o.shape, o.motion) for o in held_out.objects)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_name_occurs(split):
    scenes = [scene_from_seed(s, split) for s in range(2500)]
    assert 0.2 < np.mean([len(s.objects) == 2 for s in scenes]) < 0.3
    assert {s.background for s in scenes} == set(BACKGROUNDS)
    shown = {(o.colour, o.shape, o.motion) for s in scenes for o in s.objects}
    assert shown == set(combinations(split))
    assert all(len({o.colour for o in s.objects}) == len(s.objects) for s in scenes)


def test_bad_arguments_are_quoted():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="3"):
        sample_scene(rng, objects=3)
    with pytest.raises(ValueError, match="'test'"):
        combinations("test")


def _says(text: str, phrases) -> bool:
    return any(f" {p} " in f" {' '.join(captions.words(text))} " for p in phrases)


@patient
@given(seeds, splits, st.booleans())
def test_captions_say_what_the_scene_is(seed, split, still):
    scene, rng = scene_from_seed(seed, split), np.random.default_rng(seed)
    text = captions.caption(scene, rng, still=still, background=True)
    assert text == text.lower() and "  " not in text and "{" not in text
    assert set(captions.words(text)) <= set(captions.vocabulary())
    assert 4 <= len(captions.words(text)) <= captions.MAX_WORDS
    assert _says(text, captions.BACKGROUND_WORDS[scene.background])
    for item in scene.objects:
        assert _says(text, captions.COLOUR_WORDS[item.colour])
        assert _says(text, captions.SHAPE_WORDS[item.shape])
        phrases = [p for pair in captions.MOTION_WORDS[item.motion] for p in pair]
        assert _says(text, phrases) != still


def test_synonyms_do_not_overlap():
    for table in (captions.COLOUR_WORDS, captions.SHAPE_WORDS, captions.BACKGROUND_WORDS):
        for a, b in pairs_of(table.values(), 2):
            assert not set(a) & set(b)


def test_captions_vary_and_the_vocabulary_is_small():
    scene, rng = scene_from_seed(1), np.random.default_rng(0)
    assert len({captions.caption(scene, rng) for _ in range(200)}) > 190
    assert 150 <= len(captions.vocabulary()) <= 300


def test_the_canonical_caption():
    scene = sample_scene(np.random.default_rng(0), combination=("orange", "square", "left"))
    scene = replace(scene, background="navy")
    expected = "an orange square moves left on a navy background"
    assert captions.canonical_caption(scene) == expected
    assert captions.canonical_caption(scene, still=True) == "an orange square on a navy background"


def test_held_out_prompts_are_balanced_and_repeatable():
    pairs = captions.held_out_prompts(2 * len(combinations("held_out")))
    counts = Counter((o.colour, o.shape, o.motion) for _, s in pairs for o in s.objects)
    assert set(counts) == set(combinations("held_out")) and set(counts.values()) == {2}
    assert pairs == captions.held_out_prompts(len(pairs))
    assert pairs != captions.held_out_prompts(len(pairs), seed=1)
