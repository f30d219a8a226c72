"""The optimizers a run may choose, and their state as named tensors for checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from .adafactor import AdaFactor, Beta2Mode, Precision

__all__ = ["AdaFactor", "build_optimizer", "optimizer_state"]


def build_optimizer(
    named_parameters: Iterable[tuple[str, Tensor]],
    kind: Literal["adafactor", "adamw"] = "adafactor",
    lr: float = 2e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    *,
    beta2_mode: Beta2Mode = "capped",
    momentum: Precision = "fp32",
    clip: float = 1.0,
    lr_shares: Mapping[str, float] | None = None,
) -> Optimizer:
    """The optimizer of the parameters that require gradients, plain or sharded by FSDP2.

    Weights of layers decay, everything else (biases, norms, tables of modulation, the mask token)
    does not. lr_shares: parameters whose names begin with a key learn at that share of the rate;
    a group's share is its `lr_share`. beta2_mode, momentum and clip (the RMS of an update) are
    AdaFactor's. Raises ValueError for an unknown kind or when nothing is trained.
    """
    trained = [(name, p) for name, p in named_parameters if p.requires_grad]
    if not trained:
        raise ValueError("no parameter requires a gradient: there is nothing to train")
    members = defaultdict(list)
    for name, parameter in trained:
        share = next((s for key, s in (lr_shares or {}).items() if name.startswith(key)), 1.0)
        members[share, weight_decay if _decays(name, parameter) else 0.0].append(parameter)
    groups = [
        {"params": params, "weight_decay": decay, "lr": lr * share, "lr_share": share}
        for (share, decay), params in members.items()
    ]
    if kind == "adafactor":
        return AdaFactor(groups, lr, betas, beta2_mode=beta2_mode, momentum=momentum, clip=clip)
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas)
    raise ValueError(f"optimizer kind is {kind!r}: expected 'adafactor' or 'adamw'")


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and name.endswith("weight")


def optimizer_state(
    optimizer: Optimizer, named_parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """{"<parameter's name>.<field>": tensor}, the tensors themselves, not copies.

    State that does not exist before the first step is made (zeros), so the names depend on the
    parameters alone: what `torch.distributed.checkpoint` saves, and what it can load into. Fields
    are `step` and, for AdaFactor, `momentum` with `rows` and `columns` (matrices) or `second`
    (vectors); for AdamW `exp_avg` and `exp_avg_sq`. Raises ValueError where a parameter of the
    optimizer has no name.
    """
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    names = {parameter: name for name, parameter in named_parameters.items()}
    nameless = [tuple(p.shape) for p in groups if p not in names]
    if nameless:
        raise ValueError(
            f"{len(nameless)} parameters of the optimizer have no name, the first of shape "
            f"{nameless[0]}: give the mapping that the optimizer was built from"
        )
    return {
        f"{names[parameter]}.{field}": value
        for parameter, group in groups.items()
        for field, value in _state_of(optimizer, parameter, group).items()
    }


def _state_of(optimizer: Optimizer, parameter: Tensor, group: dict) -> dict[str, Tensor]:
    if isinstance(optimizer, AdaFactor):
        return optimizer.init_state(parameter, group)
    state = optimizer.state[parameter]
    if not state:  # what torch's Adam itself makes at the first step
        device = parameter.device if group.get("fused") or group.get("capturable") else None
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state
