"""Cuts, fades and dissolves between real clips, at places that are known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from scripts.real_clips import read_facts
from tests.training.engine.footage import RATE, SIDE, Joined, coloured, shot, texture
from training.engine.transitions import Dissolves, Transitions

CALM = [  # clips that are one shot, by eye
    "api_bytedance_image_to_video-1.webp",
    "api_bytedance_text_to_video-1.webp",
    "api_google_gemini_omni_flash_t2v-1.webp",
    "api_happyhorse1_0_i2v-1.webp",
    "api_kling2_6_i2v-1.webp",
    "api_kling2_6_t2v-1.webp",
    "api_kling_omni_i2v-1.webp",
    "api_kling_omni_t2v-1.webp",
]
SEVERAL_SHOTS = {  # clips that have cuts or dissolves of their own, by eye
    "api_bytedance_seedance1_5_image_to_video-1.webp",
    "api_google_gemini_omni_flash_i2v-1.webp",
    "api_grok_reference_to_video-1.webp",
    "api_minimax_h3_r2v-1.webp",
    "api_vidu_q3_image_to_video-1.webp",
    "api_wan2_7_i2v-1.webp",
    "api_wan2_7_r2v-1.webp",
    "hunyuan_video_text_to_video-1.webp",
    "video_minimax_h3_i2v-1.webp",
}


def look(frames, fps: float = RATE, **settings):
    transitions = Transitions(fps, **settings)
    for frame in frames:
        transitions.add(frame)
    return transitions.found()


def events(found) -> list[tuple[int, int]]:
    return [(at, at) for at in found.cuts + found.fades] + list(found.dissolves)


def score(videos: list[Joined]) -> tuple[dict[str, tuple[int, int]], int]:
    """By kind (found, there), and how many were found that are not there."""
    counts = {kind: [0, 0] for kind in ("cut", "fade", "dissolve")}
    wrong = 0
    for video in videos:
        found = events(look(video.frames))
        right = set()
        for kind, start, end in video.truth:
            hits = {event for event in found if event[0] <= end + 2 and event[1] >= start - 2}
            counts[kind][0] += bool(hits)
            counts[kind][1] += 1
            right |= hits
        wrong += len(set(found) - right)
    return {kind: tuple(count) for kind, count in counts.items()}, wrong


def test_joined_real_clips() -> None:
    shots = [shot(name) for name in CALM]
    how = [
        ("cut", 0), ("dissolve", 9), ("fade", 6), ("cut", 0), ("dissolve", 14), ("fade", 9),
        ("cut", 0),
    ]  # fmt: skip
    found, wrong = score([Joined.of(shots, how), Joined.of(shots[::-1], how)])
    assert found["cut"] == (6, 6)
    assert found["fade"] == (4, 4)
    assert found["dissolve"][0] >= 3
    assert wrong == 0


def test_a_cut_is_where_the_new_shot_begins() -> None:
    video = Joined.of([shot(CALM[0]), shot(CALM[1])], [("cut", 0)])
    assert look(video.frames).cuts == [video.truth[0][1]]


@pytest.mark.slow  # a minute: 30 videos of 9 shots
def test_recall_and_precision_on_many_joined_clips() -> None:
    names = [fact["webp"] for fact in read_facts() if fact["webp"] not in SEVERAL_SHOTS]
    rng = random.Random(1)
    videos = []
    for _ in range(30):
        shots = [shot(name) for name in rng.sample(names, 9)]
        how = [
            (kind, min(rng.randint(5, 18), 20))
            for kind in (rng.choice(["cut", "fade", "dissolve"]) for _ in shots[1:])
        ]
        videos.append(Joined.of(shots, how))
    found, wrong = score(videos)
    print(found, wrong)
    recall = {kind: hits / there for kind, (hits, there) in found.items()}
    assert recall["cut"] >= 0.92 and recall["fade"] == 1 and recall["dissolve"] >= 0.85
    hits = sum(hits for hits, _ in found.values())
    assert hits / (hits + wrong) >= 0.93


def moving(seed: int, frames: int, speed: float = 1.0) -> list[np.ndarray]:
    wide = texture(SIDE, 400, seed, grain=12)
    return [coloured(np.roll(wide, -round(speed * i), 1)[:, :SIDE]) for i in range(frames)]


def test_a_dissolve_of_moving_shots_is_placed() -> None:
    video = Joined.of([np.stack(moving(1, 45)), np.stack(moving(2, 45))], [("dissolve", 12)])
    found = look(video.frames)
    ((start, end),) = found.dissolves
    assert abs(start - video.truth[0][1]) <= 2 and abs(end - video.truth[0][2]) <= 2
    assert not found.cuts


@pytest.mark.parametrize("speed", [1, 4, 9])
def test_a_pan_is_no_transition(speed: float) -> None:
    found = look(moving(3, 60, speed))
    assert not found.cuts and not found.fades and not found.dissolves


def test_a_lamp_that_is_dimmed_is_no_dissolve() -> None:
    still = texture(SIDE, SIDE, 4)
    found = look([coloured(still * (1 - 0.6 * min(i, 20) / 20)) for i in range(40)])
    assert not found.dissolves and not found.cuts


def test_dissolves_can_be_left_alone() -> None:
    video = Joined.of([np.stack(moving(1, 30)), np.stack(moving(2, 30))], [("dissolve", 10)])
    assert not look(video.frames, dissolves=False).dissolves


def test_memory_of_dissolves_does_not_grow() -> None:
    dissolves = Dissolves(RATE)
    for frame in moving(5, 120):
        dissolves.add(frame)
    assert len(dissolves._cells) == len(dissolves._detail) == round(2.4 * RATE)
