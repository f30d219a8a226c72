"""What a run will cost, told before it begins: work, time, memory."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.training.machines import CPU, H200, shipped
from training import outlook
from training.estimate import flops, parameters
from training.loop import Trainer
from training.outlook import Machine, cost, loads, plan


def test_plan_tells_stages_work_and_memory(tmp_path) -> None:
    config = shipped("stiv_512", f"run={tmp_path}/run", f"data.latents={tmp_path}/latents")
    text = plan(config, machine=H200)
    model = config.model.build()
    assert "500,000 steps" in text
    assert "400,000 steps with 50% of the spatial tokens left out" in text
    assert f"{parameters(model):,} parameters" in text
    assert "batches of 1,024, 100.0% of the steps" in text
    step = 1024 * flops(model, (20, 64, 64), kept=0.5)
    assert f"{step / 1e15:.2f} PFLOP a step" in text
    days = 1024 * (4e5 * step / 1024 + 1e5 * flops(model, (20, 64, 64))) / (0.4 * 8 * 989e12)
    assert f"about {days / 86400:,.1f} days at 40% of its peak" in text
    assert "samples at once 128, each " in text
    assert "does not fit: at most" in text


def test_plan_counts_what_is_cached(tiny) -> None:
    text = plan(tiny(), machine=CPU)
    assert "4x4x4: 12 clips, batches of 4, 70.0% of the steps" in text
    assert "(stills): 12 clips, batches of 4, 30.0% of the steps" in text
    assert "so no time is given" in text


def test_plan_of_a_run_that_is_under_way_says_what_is_left(tiny) -> None:
    config = tiny()
    trainer = Trainer(config)
    trainer.start()
    trainer.run(4)
    text = plan(config, machine=CPU)
    assert "continues at step 4: 2 to go" in text


def test_advice_fits() -> None:
    """The number of samples that the advice gives fits, and one more does not."""
    config = shipped("t2v_512")
    batches = loads(config)
    estimate = cost(config, H200, batches)
    fits = int(re.search(r"at most ([\d,]+)", outlook.memory_advice(H200, estimate))[1])
    for samples, advice in ((fits, False), (fits + 1, True)):
        one = replace(batches[0], batch=8 * samples)
        assert bool(outlook.memory_advice(H200, cost(config, H200, (one,)))) == advice


def test_plan_tells_the_device_s_memory_from_the_host_s() -> None:
    no_swap, no_offload = "engine.swap_blocks=0", "engine.offload_activations=false"
    costs = []
    for changes in ((no_swap, no_offload), (no_offload,), (no_swap,), ()):
        config = shipped("low_memory", *changes)
        costs.append(cost(config, H200, loads(config)))
        text = plan(config, machine=H200)
        assert f"{costs[-1].memory / 1e9:,.2f} GB of the" in text
        line = f"in the host's memory {costs[-1].host / 1e9:,.2f} GB"
        assert (line in text) == bool(costs[-1].host)
    none, swap, offload, both = costs
    assert both.host == swap.host + offload.host and not none.host
    assert none.memory - swap.memory == pytest.approx(swap.host * 28 / 30, rel=0.01)
    assert none.memory - offload.memory == pytest.approx(offload.host * 29 / 30, rel=0.01)
    assert none.memory + both.memory == swap.memory + offload.memory


def test_sharing_the_weights_divides_the_state() -> None:
    config = shipped("t2v_256", "model.size=m")
    whole, shared = (cost(config, replace(H200, shards=shards), ()).state for shards in (1, 8))
    assert shared.weights == pytest.approx(whole.weights / 8, rel=1e-6)
    assert shared.total < whole.total / 6


def test_machine_is_as_launched(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert (Machine.here().processes, Machine.here().shards) == (16, 1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert Machine.here().shards == 16
    monkeypatch.setenv("PARALLELISM_CONFIG_DP_SHARD_SIZE", "8")
    assert Machine.here().shards == 8
