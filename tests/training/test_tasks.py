"""What is drawn for a sample: shares, dropouts, given frames, kept tokens."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.tasks import TASK_NAMES, Drawn, Draws, check_tasks, draw

SHAPE = (4, 8, 2, 2)


def drawn(draws: Draws, position: int, *, step: int = 0, shape=SHAPE, tokens: int = 4) -> Drawn:
    return draw(draws, 5, step, position, shape=shape, captions=("a cat", "cats"), tokens=tokens)


def test_shares_and_dropouts_are_independent() -> None:
    draws = Draws({"t2v": 0.5, "ti2v": 0.3, "tup": 0.2}, text_dropout=0.1, image_dropout=0.25)
    samples = [drawn(draws, i) for i in range(8000)]
    share = {n: c / 8000 for n, c in Counter(int(s.frame_mask.sum()) for s in samples).items()}
    assert abs(share[1] - 0.3 * 0.75) < 0.02
    assert abs(share[4] - 0.2 * 0.75) < 0.02
    assert abs(share[0] - (0.5 + 0.5 * 0.25)) < 0.02
    empty = [s.caption == "" for s in samples]
    assert abs(sum(empty) / 8000 - 0.1) < 0.012
    both = sum(e and not s.frame_mask.any() for e, s in zip(empty, samples, strict=True)) / 8000
    assert abs(both - 0.1 * share[0]) < 0.01
    captions = Counter(s.caption for s in samples)
    assert abs(captions["a cat"] / captions["cats"] - 1) < 0.12


def test_noise_and_time_are_standard() -> None:
    samples = [drawn(Draws({"t2v": 1.0}), i) for i in range(2000)]
    noise, t = torch.stack([s.noise for s in samples]), torch.stack([s.t for s in samples])
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert float(t.min()) > 0
    assert float(t.max()) < 1
    assert abs(float(t.mean()) - 0.5) < 0.02


@given(
    task=st.sampled_from(TASK_NAMES),
    frames=st.integers(1, 20),
    step=st.integers(0, 10**6),
    position=st.integers(0, 10**4),
    tokens=st.integers(1, 64),
    ratio=st.floats(0, 0.9),
)
def test_draws_are_sound_and_repeatable(task, frames, step, position, tokens, ratio) -> None:
    draws = Draws({task: 1.0}, mask_ratio=ratio)
    shape = (2, frames, 2, 2)
    first = drawn(draws, position, step=step, shape=shape, tokens=tokens)
    again = drawn(draws, position, step=step, shape=shape, tokens=tokens)
    assert torch.equal(first.noise, again.noise)
    assert first.t == again.t
    assert torch.equal(first.frame_mask, again.frame_mask)
    assert first.noise.shape == shape
    if frames == 1:
        assert not first.frame_mask.any()
    if ratio:
        kept = first.keep.tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == tokens - int(tokens * ratio)
        assert set(kept) <= set(range(tokens))
    else:
        assert first.keep is None


def test_random_frames_leave_something_to_generate() -> None:
    samples = [
        drawn(Draws({"random": 1.0}, image_dropout=0.0), i, shape=(1, 3, 1, 1)) for i in range(400)
    ]
    patterns = Counter(tuple(s.frame_mask.tolist()) for s in samples)
    assert (True, True, True) not in patterns
    assert len(patterns) == 7


def test_a_dropped_multi_view_input_is_blank_not_noised() -> None:
    always = drawn(Draws({"multi_view": 1.0}, image_dropout=1.0), 0)
    assert always.is_blank
    assert always.frame_mask.tolist() == [True] + [False] * 7
    assert not drawn(Draws({"ti2v": 1.0}, image_dropout=1.0), 0).frame_mask.any()


@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_shift_moves_times_to_noise(shift: float) -> None:
    t = torch.stack([drawn(Draws({"t2v": 1.0}, shift=shift), i).t for i in range(2000)])
    # P(t < 0.5): sigma' = s sigma / (1 + (s - 1) sigma) > 0.5 exactly where sigma > 1 / (1 + s)
    assert abs(float((t < 0.5).float().mean()) - shift / (1 + shift)) < 0.03


@pytest.mark.parametrize(("task", "most"), [("v2v", 4), ("first_last", 2)])
def test_tasks_that_give_every_frame_are_refused(task: str, most: int) -> None:
    shares = {"t2v": 0.5, task: 0.5}
    with pytest.raises(ValueError, match=rf"here: task {task} gives all {most} frames"):
        check_tasks(shares, most, "here")
    check_tasks(shares, most + 1, "here")
    check_tasks(shares, 1, "here")  # an image: nothing of it is given
    check_tasks({"t2v": 1.0, task: 0.0}, most, "here")
    check_tasks(dict.fromkeys(TASK_NAMES, 1 / len(TASK_NAMES)), 5, "here")
