"""One process or many: what accelerate decides for us, and what it leaves open."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    parse_flag_from_env,
)
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy

from .config import EngineSection
from .networks import DTYPES


def make_accelerator(engine: EngineSection) -> Accelerator:
    """The accelerator of this process; `accelerate launch` has said through the environment
    whether there are others, and how they share (DDP, FSDP2, HSDP).

    Precision is not accelerate's affair: `Networks` compute in it, and shards are gathered in it.
    Raises ValueError for settings of the launch and of the engine that do not go together.
    """
    is_sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    plugin = _sharding(engine) if is_sharded else None
    # Temporal attention is idle in steps on still images, which DDP must be told to expect.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[ddp], fsdp_plugin=plugin)
    # One that is refused at once would break the connection that others are still making, and
    # what they say of that would hide why.
    accelerator.wait_for_everyone()
    return accelerator


def _sharding(engine: EngineSection) -> FullyShardedDataParallelPlugin:
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise ValueError(f"FSDP version is {plugin.fsdp_version}: set fsdp_version: 2")
    if engine.swap_blocks:
        raise ValueError(
            "engine.swap_blocks does not go with FSDP2, which shares the weights: set it to 0, "
            "and fsdp_offload_params: true where that is not enough"
        )
    dtype = DTYPES[engine.precision]
    # Times are float32 inputs that bfloat16 would blur, so inputs are left as they are.
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"))
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        if state.num_processes == 1:
            raise ValueError(
                "fsdp_offload_params is true, but FSDP2 shares and offloads nothing with one "
                "process: set it to false, or num_processes to at least 2"
            )
        plugin.cpu_offload = CPUOffloadPolicy(pin_memory=state.device.type != "cpu")
    if state.distributed_type == DistributedType.MULTI_CPU:
        # On CPUs accelerate falls back to DDP without a word, and refuses HSDP. Both work there
        # (and are tested): it shards what it takes for GPUs.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return plugin


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> nn.Module:
    """The model as this launch shares it; the optimizer keeps following its parameters."""
    if accelerator.num_processes == 1:
        return model.to(accelerator.device)
    # The velocity is a view where nothing was cast; nobody changes it in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    prepared, _ = accelerator.prepare(model, optimizer)
    return prepared


@contextmanager
def accumulating(accelerator: Accelerator, model: nn.Module, is_last: bool) -> Iterator[None]:
    """Gradients of DDP cross processes once per step, after the last micro-batch."""
    is_ddp = isinstance(model, nn.parallel.DistributedDataParallel)
    with nullcontext() if is_last or not is_ddp else model.no_sync():
        yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded as a plain one; every process must call."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def forget_gathered(model: nn.Module) -> None:
    """Drop whole weights that FSDP2 gathered for a forward pass without a backward: the next
    pass gathers them again, from shards that may have changed in between."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def mean(value: Tensor) -> Tensor:
    """The mean of a scalar over all processes; every process must call."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def agree(flags: list[bool], device: torch.device) -> list[bool]:
    """Each flag is true on every process if it is on any; every process must call."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flags
    values = torch.tensor([float(flag) for flag in flags], device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]
