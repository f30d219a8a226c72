"""Real processes: the same run on one or several, sharded or not, and killed at any moment."""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate.state import AcceleratorState
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard

from tests.training.launches import (
    ALONE,
    FSDP2,
    ON_CPUS,
    Ranks,
    Sharing,
    launch,
    launched,
    losses,
    train,
)
from training.config import EngineSection
from training.parallel import make_accelerator
from training.sharding import like
from training.state import states


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last state, whole, whoever saved them."""
    state = states(folder / "run")[-1]
    metadata = dcp.FileSystemReader(state).read_metadata().state_dict_metadata
    tensors = {n: torch.empty(m.size, dtype=m.properties.dtype) for n, m in metadata.items()}
    dcp.load(tensors, checkpoint_id=state, no_dist=True)
    return tensors


def shapes_of(folder: Path) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in stored(folder).items()}


def shards_of(folder: Path) -> int:
    """In how many pieces the last state holds its weights."""
    metadata = dcp.FileSystemReader(states(folder / "run")[-1]).read_metadata()
    return max(len(tensor.chunks) for tensor in metadata.state_dict_metadata.values())


@pytest.mark.parametrize(
    "engine", [{}, {"precision": "bf16", "checkpointing": "selective"}], ids=["fp32", "bf16"]
)
def test_processes_and_shards_give_the_losses_of_one(recipe, tmp_path: Path, engine: dict) -> None:
    recipe = {**recipe, "steps": 4, "engine": engine}
    train(recipe, tmp_path / "one")
    train(recipe, tmp_path / "ddp", 2)
    train(recipe, tmp_path / "fsdp", 2, sharing=FSDP2)
    expected, shapes = losses(tmp_path / "one"), shapes_of(tmp_path / "one")
    assert len(expected) == 4
    for name, shards in {"ddp": 1, "fsdp": 2}.items():
        assert losses(tmp_path / name) == pytest.approx(expected, rel=2e-4), name
        assert shapes_of(tmp_path / name) == shapes
        assert shards_of(tmp_path / name) == shards


def test_a_sharded_state_opens_on_one_process(recipe, tmp_path: Path) -> None:
    recipe = {**recipe, "steps": 4}
    train(recipe, tmp_path / "one")
    folder = tmp_path / "mixed"
    launch(recipe, folder, 2, "--until", "2", sharing=FSDP2)
    assert len(losses(folder)) == 2
    train(recipe, folder)
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=2e-4)


def test_replicas_of_shards_and_offloading_give_the_losses_of_one(recipe, tmp_path: Path) -> None:
    recipe = {**recipe, "steps": 4}
    train(recipe, tmp_path / "one")
    expected, shapes = losses(tmp_path / "one"), shapes_of(tmp_path / "one")
    shards = ("--num_processes", "4", "--parallelism_config_dp_shard_size", "2")
    _, hsdp = launched("hsdp", *shards)
    train(recipe, tmp_path / "replicas", 4, "--until", "2", sharing=hsdp)
    assert len(losses(tmp_path / "replicas")) == 2
    train(recipe, tmp_path / "replicas", 4, sharing=hsdp)
    _, offload = launched("fsdp2", "--num_processes", "2", "--fsdp_offload_params", "true")
    train(recipe, tmp_path / "offloading", 2, sharing=offload)
    for name in ("replicas", "offloading"):
        assert losses(tmp_path / name) == pytest.approx(expected, rel=2e-4), name
        assert shapes_of(tmp_path / name) == shapes
        assert shards_of(tmp_path / name) == 2, name


def test_one_process_does_not_offload(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ON_CPUS, **FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(ValueError, match="num_processes to at least 2") as refused:
            make_accelerator(EngineSection())
    finally:
        AcceleratorState._reset_state(True)  # else all that follows in this process is on the CPU
    assert "\n" not in str(refused.value)


def test_what_belongs_to_offloaded_weights_is_offloaded_too() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        # There need be no GPU: the weights of this mesh are not on it.
        mesh = DeviceMesh("cuda", torch.arange(1), _init_backend=False)
        weight = SimpleNamespace(device_mesh=mesh, placements=(Shard(0),))
        for whole in (False, True):
            part = torch.ones(2, 3)
            made = like(part, weight, (2, 3), whole=whole)
            assert (made.shape, made.device.type) == ((2, 3), "cpu")
            assert made.to_local().data_ptr() == part.data_ptr()
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("processes", "sharing"),
    [
        pytest.param(1, ALONE, id="one"),
        pytest.param(2, FSDP2, id="shards", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_anywhere_continues_bit_for_bit(
    recipe, tmp_path: Path, processes: int, sharing: Sharing
) -> None:
    recipe = {**recipe, "steps": 20, "save": {"steps": 1}}
    train(recipe, tmp_path / "whole", processes, sharing=sharing)
    folder, rng = tmp_path / "killed", random.Random(processes)
    kills = 0
    while kills < 3:
        ranks = Ranks(recipe, folder, processes, sharing=sharing)
        begun = len(losses_so_far(folder))
        deadline = time.monotonic() + 120
        while ranks.running and time.monotonic() < deadline:
            if len(losses_so_far(folder)) >= begun + 3 + kills:
                time.sleep(rng.random() * 0.1)  # in a step, or in the middle of a save
                break
            time.sleep(0.01)
        finished = not ranks.running
        ranks.kill()
        if finished:
            break
        kills += 1
    assert kills
    train(recipe, folder, processes, sharing=sharing)
    assert losses(folder) == losses(tmp_path / "whole")
    expected, got = stored(tmp_path / "whole"), stored(folder)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def losses_so_far(folder: Path) -> list[str]:
    file = folder / "run" / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_sigterm_saves_before_it_ends(recipe, tmp_path: Path) -> None:
    recipe = {**recipe, "steps": 100_000, "save": {"steps": 100_000}}
    ranks = Ranks(recipe, tmp_path, 1, sharing=ALONE)
    (process,) = ranks.commands
    deadline = time.monotonic() + 120
    while len(losses_so_far(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    ranks.succeed()
    assert "stopped by SIGTERM" in process.stderr
    (state,) = states(tmp_path / "run")
    assert f"step {int(state.name[5:])}, saved" in process.stderr


def test_a_batch_that_does_not_divide_is_refused(recipe, tmp_path: Path) -> None:
    words = ("--set", "data.streams=[{batch: 3}]")
    for rank in Ranks(recipe, tmp_path, 2, *words, sharing=ALONE).commands:
        assert rank.wait(seconds=120) == 1
        assert "a global batch of 3 does not divide by 2 ranks" in rank.stderr
