"""Segments made in one pass, against the same ones made one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import comfy.model_management
import comfy.sample
import pytest
import torch
from ComfyUI_STIV.nodes.host import segments, together
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.long_videos import SETTINGS, latents, make_all, picture, plan_of, recipe_of
from tests.nodes.scenes import Loaded

GAPS = range(1, 4)  # the segments between the four key frames


class Scene:
    """Three gaps between key frames, one of which is a picture, all made one by one before."""

    def __init__(self, loaded: Loaded, seed: int, sampler: str = "euler") -> None:
        placed = tiny.run("STIVPlaceFrames", frames=picture(0.3), positions="3")
        self.video = plan_of(key_frames=4, seed=seed, stiv_frames=placed)
        self.settings = replace(SETTINGS, steps=4, sampler_name=sampler)
        self.handles = make_all(loaded, self.video, self.settings)
        self.alone = [latents(self.handles[index]) for index in GAPS]
        jobs = [
            segments.task_of(self.video.plan, self.video.plan.segments[index]) for index in GAPS
        ]
        self.tasks = [task for task, _ in jobs]
        self.earlier = [[self.handles[slot] for slot in slots] for _, slots in jobs]
        self.recipe = recipe_of(
            loaded, self.video, self.video.plan.segments[GAPS.start], self.settings
        )

    def lose(self, *numbers: int) -> None:
        """Remove some gaps from the store."""
        for number in numbers:
            key = self.handles[GAPS[number]].key
            (path,) = segments.segment_store().folder.glob(f"*/{key}.safetensors")
            path.unlink()

    def make(self) -> together.Ahead:
        tasks = together.tasks_from_text(together.tasks_to_text(self.tasks))
        assert tasks == self.tasks
        return together.make_together(tasks, self.recipe, list(chain(*self.earlier)))

    def in_turn(self, number: int, ahead: together.Ahead) -> segments.SegmentHandle:
        return together.make_in_turn(self.tasks[number], self.recipe, self.earlier[number], ahead)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many videos the host sampled at once, time by time."""
    sizes: list[int] = []
    sample = comfy.sample.sample

    def counted(model: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(len(noise))
        return sample(model, noise, *args, **kwargs)

    monkeypatch.setattr(comfy.sample, "sample", counted)
    return sizes


@pytest.mark.parametrize("sampler", together.DETERMINISTIC)
def test_segments_are_those_made_one_by_one(
    sampler: str, loaded: Loaded, passes: list[int]
) -> None:
    scene = Scene(loaded, 31, sampler)
    assert passes == [1] * 4
    scene.lose(0, 1, 2)
    ahead = scene.make()
    assert passes[4:] == [3] and ahead.note == ""
    assert [made.key for made in ahead.made] == [scene.handles[index].key for index in GAPS]
    for made, alone in zip(ahead.made, scene.alone, strict=True):
        # float32; a batch is multiplied in another order
        torch.testing.assert_close(latents(made), alone, rtol=1e-4, atol=1e-4)
        ends = latents(made)[:, [0, -1]]
        assert torch.equal(ends, alone[:, [0, -1]])
    assert not torch.allclose(scene.alone[0][:, 1], scene.alone[1][:, 1], atol=0.1)


def test_only_what_is_missing_is_made_and_one_is_left_for_its_turn(
    loaded: Loaded, passes: list[int]
) -> None:
    scene = Scene(loaded, 32)
    passes.clear()
    assert scene.make() == together.Ahead()
    scene.lose(1)
    assert scene.make() == together.Ahead() and passes == []
    scene.lose(2)
    ahead = scene.make()
    assert passes == [2] and [made.name for made in ahead.made] == ["seg1", "seg2"]
    assert torch.equal(latents(scene.handles[GAPS[0]]), scene.alone[0])
    handles = [scene.in_turn(number, ahead) for number in range(3)]
    assert passes == [2] and handles[1:] == list(ahead.made)
    scene.lose(1)
    assert scene.in_turn(1, ahead).key == handles[1].key and passes == [2, 1]
    assert torch.equal(latents(handles[1]), scene.alone[1])


def test_a_sampler_that_draws_noise_makes_them_one_by_one(
    loaded: Loaded, passes: list[int]
) -> None:
    scene = Scene(loaded, 33, "euler_ancestral")
    scene.lose(0, 1, 2)
    passes.clear()
    ahead = scene.make()
    assert ahead.made == () and passes == []
    assert ahead.note.startswith("made one by one") and "not euler_ancestral" in ahead.note
    made = scene.in_turn(0, ahead)
    assert torch.equal(latents(made), scene.alone[0])


@pytest.mark.parametrize(("room", "sizes"), [(3.0, [3]), (2.9, [2, 1]), (1.9, []), (0.0, [])])
def test_as_many_as_there_is_memory_for(
    room: float,
    sizes: list[int],
    loaded: Loaded,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(loaded, 34)
    scene.lose(0, 1, 2)
    passes.clear()
    model = loaded.model
    one = model.model.memory_required([2, 4, 4, 8, 8])
    free = model.model_size() - model.loaded_size() + room * one
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: free)
    ahead = scene.make()
    assert passes == sizes
    used = max(sizes, default=1)
    expected = f"{used} segments at once instead of 3: there is no memory free for more"
    assert ahead.note == ("" if used == 3 else expected)
    assert {made.note for made in ahead.made} <= {ahead.note}


def test_a_pass_that_is_too_large_is_left_to_its_segments(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(loaded, 36)
    scene.lose(0, 1, 2)
    sample = comfy.sample.sample

    def small_device(model: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(noise) > 1:
            raise comfy.model_management.OOM_EXCEPTION("no memory")
        return sample(model, noise, *args, **kwargs)

    monkeypatch.setattr(comfy.sample, "sample", small_device)
    ahead = scene.make()
    assert ahead.made == () and "the memory was not enough for 3 at once" in ahead.note


def test_segments_that_differ_are_refused() -> None:
    one = segments.Task("a", 4, 64, 64, 0, ((0, -1, 0),))
    for other in (replace(one, count=5), replace(one, given=((1, -1, 0),))):
        with pytest.raises(ValueError, match="differ in size or in what is given"):
            together.tasks_from_text(together.tasks_to_text([one, other]))
    with pytest.raises(ValueError, match="not understood"):
        together.tasks_from_text("")


def test_a_segment_that_breaks_is_named(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(loaded, 35)
    scene.lose(0, 1, 2)
    sample = comfy.sample.sample

    def broken(*args: Any, **kwargs: Any) -> Tensor:
        samples = sample(*args, **kwargs)
        samples[1, :, 2] = float("nan")
        return samples

    monkeypatch.setattr(comfy.sample, "sample", broken)
    with pytest.raises(ValueError, match="segment seg1 has NaN or infinity in frame 2"):
        scene.make()
