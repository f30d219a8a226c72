"""What the optimizer and the average need to know of sharded parameters (FSDP2's DTensors).

Nothing here imports torch.distributed unless a sharded tensor is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor, as FSDP2 makes of every parameter."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing memory: all of a plain one, its rows of a
    sharded one (dimension 0; possibly none)."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def row_group(tensor: Tensor) -> ProcessGroup | None:
    """The processes among which dimension 0 is split; None where this process holds every row.

    Replicas (HSDP's other mesh dimension) are not among them. Raises ValueError for a tensor
    split in any other way.
    """
    if not is_sharded(tensor):
        return None
    split = [i for i, place in enumerate(tensor.placements) if not place.is_replicate()]
    if not split:
        return None
    if len(split) > 1 or not tensor.placements[split[0]].is_shard(0):
        raise ValueError(
            f"a parameter of shape {tuple(tensor.shape)} has placements {tensor.placements}: "
            "expected rows split over one mesh dimension, as fully_shard does; "
            "tensor parallelism is not supported"
        )
    return tensor.device_mesh.get_group(split[0])


def like(local_part: Tensor, tensor: Tensor, shape: tuple[int, ...], *, whole: bool = False):
    """`local_part` as a tensor of the global `shape` that is split over processes as `tensor` is,
    or `whole` on each of them; unchanged where `tensor` is not a DTensor."""
    if not is_sharded(tensor):
        return local_part
    from torch.distributed.tensor import DTensor, Replicate
    from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

    mesh = tensor.device_mesh
    placements = (Replicate(),) * mesh.ndim if whole else tensor.placements
    meta = TensorMeta(
        torch.Size(shape), torch.empty(shape, device="meta").stride(), local_part.dtype
    )
    # `DTensor.from_local` would move it to the mesh's device, away from offloaded weights.
    return DTensor(local_part, DTensorSpec(mesh, placements, meta), requires_grad=False)
