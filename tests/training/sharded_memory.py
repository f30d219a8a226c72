"""What each rank does in the tests of activation checkpointing on several processes."""

from __future__ import annotations

import torch
import torch._dynamo.backends.debugging  # before the ranks fork: slow to import
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from stiv import STIVConfig, STIVTransformer
from tests.models import random_model
from training.memory import blocks_of, set_checkpointing

TINY = STIVConfig(
    width=32,
    depth=2,
    heads=2,
    mlp_ratio=2.0,
    text_width=12,
    pooled_width=8,
    mask_decoder_blocks=1,
)
KEEP = [[0, 2, 3, 5, 6, 7, 9, 11]] * 2


def build(attention=None) -> STIVTransformer:
    """The same model in every process."""
    return random_model(TINY, std=0.1, attention=attention)


def loss(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of fixed latents, text and kept tokens, computed in a dtype."""
    torch.manual_seed(1)
    x = torch.randn(2, 4, 4, 6, 8).to(dtype)
    text = torch.randn(2, 5, TINY.text_width).to(dtype)
    given = {"t_B": torch.tensor([0.3, 0.6]), "text_BLD": text}
    return model(x, **given, keep=torch.tensor(KEEP)).float().square().mean()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if gradient is None:  # frozen
            continue
        whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        found[name.removeprefix("module.")] = whole.clone()
    return found


def parallel(engine: str, mode: str, compiled: bool, offload: bool) -> dict[str, Tensor]:
    """Gradients, in full, of the same batch on every rank."""
    model = build()
    set_checkpointing(model, mode, offload=offload, compiled=compiled, backend="aot_eager")
    if engine == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    for _ in range(2):  # the second pass finds everything resharded
        model.zero_grad()
        loss(model).backward()
    return gradients(model)


def every_engine(cases: list) -> dict[str, dict[str, Tensor]]:
    return {"/".join(map(str, case)): parallel(*case) for case in cases}
