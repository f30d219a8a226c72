"""A LoRA's dropout: fair draws, and the same whole, resumed, in micro-batches, computed again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tests.models import random_model
from tests.training import sharded_memory as worker
from training.dropout import SeededDropout, dropping, sample_seeds
from training.export import export
from training.loop import Trainer
from training.lora import add_lora
from training.memory import set_checkpointing


def dropped(share: float, seeds: Tensor, numbers: int = 200_000, layers: int = 1) -> list[Tensor]:
    model = nn.ModuleList(SeededDropout(share) for _ in range(layers))
    with dropping(model, seeds):
        return [layer(torch.ones(len(seeds), numbers)) for layer in model]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_a_share_is_dropped_and_the_rest_scaled_up(share: float) -> None:
    (out,) = dropped(share, sample_seeds(0, 0, range(4)))
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - share))}
    # five standard deviations of a fair draw
    spread = 5 * (share * (1 - share) / out.shape[1]) ** 0.5
    assert ((out == 0).double().mean(1) - share).abs().max() < spread


def test_draws_of_samples_steps_and_layers_have_nothing_in_common() -> None:
    first, second = dropped(0.5, sample_seeds(0, 0, range(2)), layers=2)
    (later,) = dropped(0.5, sample_seeds(0, 1, range(2)))
    (other,) = dropped(0.5, sample_seeds(1, 0, range(2)))
    rows = torch.cat([first, second, later, other, first.roll(1, 1)])  # neighbours, too
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 * rows.shape[1] ** -0.5


def test_a_sample_drops_the_same_in_every_batch() -> None:
    (whole,) = dropped(0.5, sample_seeds(3, 7, range(4)))
    (part,) = dropped(0.5, sample_seeds(3, 7, [2, 3]))
    assert torch.equal(part, whole[2:])


def test_nothing_is_dropped_outside() -> None:
    layer, x = SeededDropout(0.5), torch.randn(2, 8)
    with dropping(layer, None):
        assert layer(x) is x
    with pytest.raises(KeyError), dropping(layer, sample_seeds(0, 0, range(2))):
        assert not torch.equal(layer(x), x)
        raise KeyError
    assert layer(x) is x


def test_compiled_blocks_drop_the_same_and_share_their_code() -> None:
    def step(mode: str, compiled: bool) -> list[Tensor]:
        model = random_model(replace(worker.TINY, depth=3), std=0.1)
        add_lora(model, 2, 2.0, dropout=0.3)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.data.fill_(0.05)
        set_checkpointing(model, mode, compiled=compiled, backend="aot_eager")
        with dropping(model, sample_seeds(0, 0, range(2))):
            loss = worker.loss(model)
            loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]

    torch._dynamo.reset()
    counters.clear()
    plain, again = step("none", False), step("full", False)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    for one, other in zip(plain, step("selective", True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    # the first block, whose input has no gradient, the others, and those after unmasking
    assert counters["stats"]["unique_graphs"] == 3


@pytest.fixture
def lora(tiny, tmp_path: Path):
    """lora(name, dropout, **engine): a LoRA run on a tiny checkpoint."""
    first = Trainer(tiny(run=str(tmp_path / "base")))
    first.start()
    first.run(1)
    export(first.config, tmp_path / "base.safetensors")

    def make(name: str, dropout: float = 0.3, **engine):
        return tiny(
            run=str(tmp_path / name),
            init={"weights": str(tmp_path / "base.safetensors")},
            lora={"rank": 2, "alpha": 2.0, "dropout": dropout},
            engine=engine,
        )

    return make


def test_a_run_drops_the_same_whatever_happens_to_it(lora) -> None:
    def finish(config, *stops: int) -> tuple[dict[str, Tensor], list[float]]:
        for number, stop in enumerate((*stops, config.steps)):
            trainer = Trainer(config)
            trainer.start()
            torch.manual_seed(number)  # a process of its own would not be at the same place
            trainer.run(stop)
        lines = (config.run / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        return {name: tensor.clone() for name, tensor in trainer._tensors().items()}, losses

    expected, losses = finish(lora("whole"))
    for config, stops in (
        (lora("parts"), (2, 5)),
        (lora("full", checkpointing="full"), ()),
        (lora("selective", checkpointing="selective"), ()),
    ):
        found, _ = finish(config, *stops)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), config.run
    _, accumulated = finish(lora("accumulated", accumulate=2))
    assert accumulated == pytest.approx(losses, rel=1e-4)
    none, _ = finish(lora("none", 0.0))
    assert not all(torch.equal(none[name], expected[name]) for name in expected)
