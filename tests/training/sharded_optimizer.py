"""What each rank does in the tests of the optimizer and the average on sharded parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from training.ema import EMA
from training.optimizer import build_optimizer, optimizer_state

STEPS = 4
DTYPE = torch.float64


class Uneven(nn.Module):
    """Rows that no number of ranks divides, fewer rows than ranks, a convolution, a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(13, 7)
        self.table = nn.Parameter(torch.empty(2, 9))
        self.conv = nn.Conv2d(3, 5, 3)
        self.single = nn.Parameter(torch.empty(1))


def make(dtype: torch.dtype) -> Uneven:
    """The same weights in every process."""
    module = Uneven().to(dtype)
    rng = np.random.default_rng(0)
    for parameter in module.parameters():
        values = torch.from_numpy(rng.standard_normal(parameter.shape))
        parameter.data.copy_(values)
    return module


def gradients(module: nn.Module, step: int) -> dict[str, Tensor]:
    """The whole gradient of every parameter at a step; one row of the matrix is zero."""
    rng = np.random.default_rng([1, step])
    made = {n: torch.from_numpy(rng.standard_normal(p.shape)) for n, p in module.named_parameters()}
    made["wide.weight"][3] = 0
    return made


def set_gradients(module: nn.Module, step: int) -> None:
    for name, gradient in gradients(module, step).items():
        parameter = module.get_parameter(name)
        gradient = gradient.to(parameter.dtype)
        if hasattr(parameter, "device_mesh"):
            gradient = distribute_tensor(
                gradient, parameter.device_mesh, parameter.placements, src_data_rank=None
            )
        parameter.grad = gradient


def train(module: nn.Module, settings: dict, steps: range = range(STEPS)) -> tuple:
    """Steps on the given gradients; (optimizer, average)."""
    optimizer = build_optimizer(module.named_parameters(), **settings)
    average = EMA(dict(module.named_parameters()), 0.99)
    for step in steps:
        set_gradients(module, step)
        optimizer.step()
        average.update(dict(module.named_parameters()), step)
    return optimizer, average


def here(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, bool]]:
    """What this process holds of every tensor, and whether that is a part."""
    found = {}
    for name, tensor in tensors.items():
        places = getattr(tensor, "placements", ())
        tensor = (tensor.to_local() if places else tensor).detach()
        found[name] = (tensor.clone(), any(place.is_shard() for place in places))
    return found


def everything(module, optimizer, average) -> dict[str, dict]:
    parameters = dict(module.named_parameters())
    return {
        "weights": here(parameters),
        "state": here(optimizer_state(optimizer, parameters)),
        "average": here(average.tensors),
    }


MESHES = {"three": [0, 1, 2], "two": [0, 1], "hybrid": [[0, 1], [2, 3]]}
"""Ranks of the world of four; "hybrid" replicates what two ranks share (HSDP)."""


def all_meshes(settings: dict[str, dict], folder: str) -> dict[str, Any]:
    """Every setting on every mesh, in one world of four ranks; what this rank then holds.

    What "three" ranks saved of each setting is loaded by "two", which then take one more step.
    """
    results: dict[str, Any] = {}
    for mesh_name, ranks in MESHES.items():
        ndim = np.ndim(ranks)
        mesh = DeviceMesh("cpu", ranks, mesh_dim_names=("replicate", "shard")[-ndim:])
        if distributed.get_rank() in np.ravel(ranks):
            for name, setting in settings.items():
                path = f"{folder}/{name}"
                results[f"{mesh_name} {name}"] = _run(mesh, setting, path)
                if mesh_name == "two":
                    results[f"reshard {name}"] = _resume(mesh, setting, path)
        distributed.barrier()
    return results


def _run(mesh: DeviceMesh, setting: dict, folder: str) -> dict:
    module = fully_shard(make(DTYPE), mesh=mesh)
    optimizer, average = train(module, setting)
    parameters = dict(module.named_parameters())
    result = everything(module, optimizer, average)
    with average.swap(module):
        result["swapped"] = here(parameters)
    result["after swap"] = everything(module, optimizer, average)
    result["rows"] = {name: len(p.to_local()) for name, p in parameters.items()}
    state = optimizer_state(optimizer, parameters)
    result["placements"] = {n: str(getattr(t, "placements", None)) for n, t in state.items()}
    if mesh.size() == 3:
        saved = {"weights": parameters, "optimizer": state, "average": average.tensors}
        checkpoint.save(saved, checkpoint_id=folder, process_group=mesh.get_group())
    return result


def _resume(mesh: DeviceMesh, setting: dict, folder: str) -> dict:
    """Load what three ranks saved into fresh objects; then one more step."""
    module = fully_shard(make(DTYPE), mesh=mesh)
    parameters = dict(module.named_parameters())
    optimizer = build_optimizer(parameters.items(), **setting)
    average = EMA(parameters, 0.99)
    state = optimizer_state(optimizer, parameters)
    saved = {"weights": parameters, "optimizer": state, "average": average.tensors}
    checkpoint.load(saved, checkpoint_id=folder, process_group=mesh.get_group())
    loaded = everything(module, optimizer, average)
    set_gradients(module, STEPS)
    optimizer.step()
    average.update(parameters, STEPS)
    return {"loaded": loaded, "continued": everything(module, optimizer, average)}
