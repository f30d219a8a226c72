"""Held-out loss against closed forms and a brute-force loop."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiv.frames import TASKS, task_positions
from training.watch.heldout import held_out_loss

TIMES = (0.0, 0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Clip:
    latents: Tensor
    key: str


def clips(count: int, frames: int = 5) -> list[Clip]:
    generator = torch.Generator().manual_seed(frames)
    return [
        Clip(torch.randn(3, frames, 2, 4, generator=generator), f"clip {i}") for i in range(count)
    ]


def perfect(x: Tensor, t: Tensor, samples: list[Clip]) -> Tensor:
    """Knows the data: x = t data + (1 - t) noise gives data - noise = (data - x) / (1 - t)."""
    data = torch.stack([sample.latents for sample in samples])
    return (data - x) / (1 - t.view(-1, 1, 1, 1, 1))


def zero(x: Tensor, t: Tensor, samples: list[Clip]) -> Tensor:
    return torch.zeros_like(x)


def noise_of(sample: Clip, seed: int) -> Tensor:
    """The noise as a model sees it: x at t = 0 without given frames."""
    seen = {}

    def look(x: Tensor, t: Tensor, samples: list[Clip]) -> Tensor:
        seen.update({s.key: row for s, row in zip(samples, x, strict=True)})
        return x

    held_out_loss(look, [sample], tasks=["t2v"], times=[0.0], seed=seed)
    return seen[sample.key]


def test_a_perfect_model_has_no_loss() -> None:
    losses = held_out_loss(perfect, clips(3), tasks=[*TASKS, "random"], times=TIMES, seed=1)
    assert set(losses) == {f"{task}@{t:g}" for task in (*TASKS, "random") for t in TIMES}
    assert max(losses.values()) < 1e-10


def test_zero_velocity_has_the_mean_square_of_data_minus_noise() -> None:
    samples = clips(4)
    losses = held_out_loss(zero, samples, tasks=["t2v", "first_last"], times=TIMES, seed=1)
    squares = torch.stack([(s.latents - noise_of(s, 1)).square() for s in samples]).double()
    for t in TIMES:
        assert losses[f"t2v@{t:g}"] == pytest.approx(float(squares.mean()), rel=1e-6)
        inner = squares[:, :, 1:-1]
        assert losses[f"first_last@{t:g}"] == pytest.approx(float(inner.mean()), rel=1e-6)


@given(
    count=st.integers(1, 5),
    frames=st.integers(2, 7),
    task=st.sampled_from([*TASKS, "random"]),
    t=st.floats(0, 1, width=16),
    batch=st.integers(1, 6),
)
@settings(max_examples=30, deadline=None)
def test_a_loop_over_numbers_agrees(count: int, frames: int, task: str, t: float, batch: int):
    samples = clips(count, frames)
    seen = []

    def model(x: Tensor, times: Tensor, chosen: list[Clip]) -> Tensor:
        assert times.tolist() == [t] * len(x)
        seen.extend(zip(chosen, x, strict=True))
        return x.sin()

    losses = held_out_loss(model, samples, tasks=[task], times=[t], seed=3, batch=batch)
    total, counted = 0.0, 0
    for sample, x in seen:
        noise, squares = noise_of(sample, 3), []
        given = {f for f in range(frames) if torch.equal(x[:, f], sample.latents[:, f])}
        if task != "random" and t < 1:
            assert given == set(task_positions(task, frames))
        elif t == 1:  # all frames look clean
            if task == "random":
                return
            given = set(task_positions(task, frames))
        for f in set(range(frames)) - given:
            for c in range(3):
                for h in range(2):
                    for w in range(4):
                        data = sample.latents[c, f, h, w].item()
                        target = data - noise[c, f, h, w].item()
                        mixed = t * data + (1 - t) * noise[c, f, h, w].item()
                        assert x[c, f, h, w].item() == pytest.approx(mixed, abs=1e-5)
                        squares.append((x[c, f, h, w].sin().item() - target) ** 2)
        if squares:
            total, counted = total + sum(squares) / len(squares), counted + 1
    assert len(seen) == counted
    assert losses == ({f"{task}@{t:g}": pytest.approx(total / counted, 1e-4)} if counted else {})


def test_neither_order_nor_batches_nor_company_change_a_loss() -> None:
    samples = clips(5)

    def losses(chosen: list[Clip], batch: int = 8, seed: int = 1) -> dict[str, float]:
        tasks = ["ti2v", "random"]
        return held_out_loss(
            lambda x, t, s: x.cos(), chosen, tasks=tasks, times=TIMES, seed=seed, batch=batch
        )

    whole = losses(samples)
    assert losses(samples[::-1], batch=2) == pytest.approx(whole, rel=1e-6)
    singly = [losses([sample]) for sample in samples]
    means = {name: sum(one[name] for one in singly) / 5 for name in whole}
    assert means == pytest.approx(whole, rel=1e-6)
    assert losses(samples, seed=2) != whole


def test_images_are_one_task_and_shapes_do_not_mix() -> None:
    shapes = []

    def model(x: Tensor, t: Tensor, chosen: list[Clip]) -> Tensor:
        assert len(x) == len(chosen)
        shapes.append(tuple(x.shape))
        return x

    mixed = [*clips(2, 1), *clips(3, 4), *clips(1, 1)]
    losses = held_out_loss(model, mixed, tasks=["t2v", "ti2v"], times=[0.5], seed=0)
    assert set(losses) == {"t2i@0.5", "t2v@0.5", "ti2v@0.5"}
    assert sorted(shapes) == [(3, 3, 1, 2, 4), (3, 3, 4, 2, 4), (3, 3, 4, 2, 4)]


def test_a_task_that_gives_every_frame_is_left_out() -> None:
    losses = held_out_loss(zero, clips(2, 3), tasks=["v2v", "t2v"], times=[0.5], seed=0)
    assert set(losses) == {"t2v@0.5"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": []}, "at least one sample"),
        ({"tasks": []}, "one task"),
        ({"times": [1.5]}, "time is 1.5"),
        ({"tasks": ["t3v"]}, "'t3v'"),
    ],
)
def test_bad_settings_are_named(change: dict, message: str) -> None:
    chosen = {"samples": clips(1), "tasks": ["t2v"], "times": [0.5], **change}
    with pytest.raises(ValueError, match=message):
        held_out_loss(zero, chosen.pop("samples"), seed=0, **chosen)
