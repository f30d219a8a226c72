"""Scores of long videos: plans followed as they are, clips read stretch by stretch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stiv.plan import Plan, hierarchy, interpolation, rollout
from training.evaluation.long_video import endless_prompts, evaluate_long, follow, score_stretches
from training.evaluation.score import table
from training.sampling import Sampler
from training.shapes.render import render_times

SIZE = {"fps": 8, "width": 16, "height": 16}


def plans() -> list[Plan]:
    return [
        hierarchy(9, 3, window=5, carry=2, **SIZE),
        hierarchy(4, 4, window=5, carry=1, closing=True, **SIZE),
        rollout(21, window=6, carry=2, **SIZE),
    ]


@pytest.mark.parametrize("plan", plans(), ids=lambda plan: f"{plan.mode}{plan.frames}")
def test_segments_take_their_frames_from_those_before(plan: Plan) -> None:
    seen = []

    def velocity(x: torch.Tensor, t: torch.Tensor, captions: list[str], micro: torch.Tensor):
        """Of a model that makes every frame one larger than the first of the given ones."""
        if t[0] == 0:
            seen.append((captions, micro[0].tolist(), x[2:].clone()))
        given = x[-1, 0, :, 0, 0]
        known = given[given == given.round()]
        target = known[0] + 1 if len(known) else torch.tensor(1.0)
        return (target - x) / (1 - t.view(-1, 1, 1, 1, 1))

    sampler = Sampler(velocity, None, (4, plan.window, 2, 2), steps=4, guidance_scale=1.0)
    video = follow(plan, sampler, ["one", "two"])
    assert video.shape == (2, 4, plan.frames, 2, 2)
    assert [micro for _, micro, _ in seen] == [
        [16, 16, 0, 0, segment.step, segment.count] for segment in plan.segments
    ]
    assert all(captions == ["", "", "one", "two"] for captions, *_ in seen)
    depth = {}
    for segment in plan.segments:
        sources = [depth[segment.positions()[index]] for index in segment.given]
        value = sources[0] + 1 if sources else 1
        depth |= {segment.positions()[index]: value for index in segment.keeps}
    values = video[0, 0, :, 0, 0].tolist()
    assert values == pytest.approx([depth[at] for at in range(plan.frames)], abs=1e-4)


def test_a_plan_with_frames_of_the_artist_is_refused() -> None:
    sampler = Sampler(lambda *_, **__: None, None, (4, 16, 2, 2))
    with pytest.raises(ValueError, match="given"):
        follow(interpolation(9, 2, **SIZE), sampler, ["one"])


def test_lengths_that_key_frames_do_not_make_are_refused() -> None:
    sampler = Sampler(lambda *_, **__: None, None, (4, 16, 2, 2))
    with pytest.raises(ValueError, match="400 frames: expected a multiple of 15"):
        evaluate_long(sampler, count=1, frames=400)


def test_what_is_kept_and_what_is_lost() -> None:
    scenes = [scene for _, scene in endless_prompts(6)]
    assert {scene.objects[0].motion for scene in scenes} <= {"spin", "orbit", "bounce"}
    clips = np.stack([render_times(scene, np.linspace(0, 1, 60), 64) for scene in scenes])
    perfect = score_stretches(clips, scenes)
    assert (perfect["clips"], perfect["frames"], perfect["stretches"]) == (6, 60, 4)
    for key in ("colour", "shape"):
        assert perfect[key] == perfect[f"{key}_first"] == perfect[f"{key}_last"] == 1.0
    assert perfect["colour_shift"] < 1
    assert "| long | colour shift | 0." in table({"long": perfect})  # levels, no share

    drifting = clips.copy()
    drifting[:, 45:] = np.roll(clips, 1, axis=0)[:, 45:]
    worse = score_stretches(drifting, scenes)
    assert worse["colour_first"] == worse["shape_first"] == 1.0
    assert worse["colour_last"] < 1 and worse["shape_last"] < 1 and worse["colour_shift"] > 50
    lost = clips.copy()
    lost[:, 45:] = clips[:, :1, :1, :1]
    assert score_stretches(lost, scenes)["colour_shift"] == pytest.approx(441.67, abs=0.01)
