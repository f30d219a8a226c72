"""Differences of outputs: measured block by block, on the channels that both networks have."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from stiv.convert.difference import output, relative_rms
from stiv.convert.initialise import Aim, plan, stages
from stiv.convert.streamed import whole
from stiv.tensor_file import LazyTensors
from tests.stiv.convert.starts import PIXART, STDIT, STIV, inputs_for, outputs, trained


@pytest.mark.parametrize("config", [STIV, PIXART, STDIT])
def test_a_network_whose_blocks_are_read_when_they_run_is_the_network(config) -> None:
    tensors, read = trained(config), []

    def make(name: str) -> torch.Tensor:
        read.append(name)
        return tensors[name]

    lazy, inputs = LazyTensors(tensors, make), inputs_for(config)
    with torch.inference_mode():
        model = whole(lazy, config, torch.float64)
        assert not any("blocks." in name for name in read)
        got = model(**inputs)
    assert torch.equal(got, outputs(tensors, config, inputs))
    assert sorted(read) == sorted(tensors)


def test_small_numbers_of_weights_are_measured_in_float32() -> None:
    tensors = trained(STIV)
    exact = output(tensors, STIV, dtype=torch.float64)
    assert exact.shape == (3, 4, 4, 8, 8)
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    assert output(half, STIV).dtype == torch.float32
    assert 1e-4 < relative_rms(output(half, STIV), exact) < 0.1


def test_relative_rms_is_of_the_common_channels() -> None:
    old = torch.ones(1, 4, 1, 2, 2)
    new = torch.cat([1.1 * old, 7 * old], 1)
    assert relative_rms(new, old) == pytest.approx(0.1)
    assert relative_rms(old, torch.zeros_like(old)) == float("inf")
    assert relative_rms(0 * old, 0 * old) == 0


def test_exact_steps_measure_nothing_and_others_something() -> None:
    steps = plan(PIXART, Aim(config=STIV))
    configs = [PIXART, *(step.after for step in steps)]
    states = stages(steps, trained(PIXART))
    found = [output(t, c, still=True) for t, c in zip(states, configs, strict=True)]
    for step, (before, after) in zip(steps, pairwise(found), strict=True):
        if step.exact:
            assert relative_rms(after, before) < 1e-5, step.name
        else:
            assert relative_rms(after, before) > 1e-3, step.name
