"""AdaFactor with momentum, as the paper trains (section 4: beta1 0.9, beta2 0.999, no decay).

The second moment of a matrix is kept as its row and column means, so the state is little more
than the momentum. Order of one update: factored root mean square, clip of the update's own RMS,
learning rate, momentum without debiasing. Convolutions are matrices of their outputs; vectors
keep their whole second moment.

A parameter may be plain or sharded by FSDP2. Rows are then local; column sums and the update's
norm are summed over the processes that share the rows, in two collectives a step. Large matrices
are worked through a tile of rows at a time, so that temporaries stay small whatever the model;
small ones of the same shape together, as otherwise starting their kernels would be most of a step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from .sharding import like, local, row_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Beta2Mode = Literal["constant", "debiased", "capped"]
Precision = Literal["fp32", "bf16"]

_TINY = 1e-30
# Numbers in a tile: about half of a core's share of the cache, or enough to fill a GPU.
_TILE = defaultdict(lambda: 1 << 24, cpu=1 << 18)


class AdaFactor(Optimizer):
    """AdaFactor (Shazeer and Stern, 2018) with first moment, on whole or sharded parameters.

    lr: step size in units of a unit-RMS update. betas: decay of momentum and second moment.
    beta2_mode: what beta2 means in the first steps. "constant": always beta2 (the first
    updates are limited by `clip` alone); "debiased": beta2 with Adam's bias correction;
    "capped": at most 1 - step^-0.8, as published. momentum: its dtype, "fp32" (4 bytes a
    parameter) or "bf16" (2). clip: largest RMS of one update. weight_decay: decoupled, as AdamW.
    Computes in float32 (float64 parameters: float64). Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        beta2_mode: Beta2Mode = "capped",
        momentum: Precision = "fp32",
        clip: float = 1.0,
        weight_decay: float = 0.0,
    ):
        for name, value, low, high in (
            ("lr", lr, 0.0, 1.0),
            ("beta1", betas[0], 0.0, 1 - 1e-9),
            ("beta2", betas[1], 0.0, 1 - 1e-9),
            ("clip", clip, 1e-6, 1e6),
            ("weight_decay", weight_decay, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"AdaFactor {name} is {value!r}: expected {low} to {high}")
        for name, value, choices in (
            ("beta2_mode", beta2_mode, ("constant", "debiased", "capped")),
            ("momentum", momentum, ("fp32", "bf16")),
        ):
            if value not in choices:
                raise ValueError(f"AdaFactor {name} is {value!r}: expected one of {choices}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "beta2_mode": beta2_mode,
            "momentum": momentum,
            "clip": clip,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; returns the closure's loss.

        With sharded parameters every process must call it, with gradients for the same ones.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tasks = [
            self._task(parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        alike, others = _alike(tasks)
        for together in alike:
            _update_stacked(together)
        for together in _batches(others):
            _update(together)
        return loss

    def init_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The state of a parameter; zeros before its first step.

        step (), momentum like the parameter, and rows (R, 1) with columns (1, C) for a matrix or
        second (n,) for a vector. Rows are sharded as the parameter, columns are whole everywhere.
        """
        state = self.state[parameter]
        part = local(parameter)
        wanted = _momentum_dtype(parameter, group)
        if not state:
            dtype = _computing_dtype(parameter)

            def zeros(*shape: int) -> Tensor:
                return torch.zeros(shape, dtype=dtype, device=part.device)

            state["step"] = torch.zeros((), dtype=torch.int64)
            momentum = torch.zeros_like(part, dtype=wanted)
            state["momentum"] = like(momentum, parameter, tuple(parameter.shape))
            if parameter.ndim < 2:
                second = zeros(*part.shape)
                state["second"] = like(second, parameter, tuple(parameter.shape))
            else:
                height, width = parameter.shape[0], math.prod(parameter.shape[1:])
                state["rows"] = like(zeros(len(part), 1), parameter, (height, 1))
                state["columns"] = like(zeros(1, width), parameter, (1, width), whole=True)
        elif state["momentum"].dtype != wanted:  # a run continued with the other choice
            state["momentum"] = state["momentum"].to(wanted)
        return state

    def _task(self, parameter: Tensor, group: dict[str, Any]) -> _Task:
        state = self.init_state(parameter, group)
        state["step"] += 1
        matrix = parameter.ndim >= 2
        return _Task(
            *(_flat(local(tensor)) for tensor in (parameter, parameter.grad, state["momentum"])),
            rows=local(state["rows"] if matrix else state["second"]),
            columns=local(state["columns"]) if matrix else None,
            height=parameter.shape[0] if matrix else 1,
            size=parameter.numel(),
            decay=_decay(group["beta2_mode"], group["betas"][1], int(state["step"])),
            group=group,
            ranks=row_group(parameter),
        )


@dataclass
class _Task:
    """One parameter's update: views of what this process holds, and what it must know of the
    whole. columns: None for a vector, whose `rows` are its whole second moment."""

    value: Tensor
    gradient: Tensor
    momentum: Tensor
    rows: Tensor
    columns: Tensor | None
    height: int
    size: int
    decay: float
    group: dict[str, Any]
    ranks: ProcessGroup | None

    @property
    def tile_rows(self) -> int:
        return max(1, _TILE[self.value.device.type] // max(1, self.value.shape[1]))

    def tiles(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The same few rows of each tensor, from top to bottom."""
        for start in range(0, len(self.value), self.tile_rows):
            yield tuple(tensor[start : start + self.tile_rows] for tensor in tensors)


def _flat(tensor: Tensor) -> Tensor:
    """A view as vector or matrix; `view` because -1 would be ambiguous without rows."""
    if tensor.ndim <= 2:
        return tensor
    return tensor.view(len(tensor), math.prod(tensor.shape[1:]))


def _computing_dtype(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _momentum_dtype(parameter: Tensor, group: dict[str, Any]) -> torch.dtype:
    return torch.bfloat16 if group["momentum"] == "bf16" else _computing_dtype(parameter)


def _decay(mode: Beta2Mode, beta2: float, step: int) -> float:
    """Weight of the old second moment at a step that counts from 1."""
    if mode == "capped":
        return min(beta2, 1 - step**-0.8)
    if mode == "debiased":  # the moment is kept as if already divided by 1 - beta2^step
        return beta2 * (1 - beta2 ** (step - 1)) / (1 - beta2**step)
    return beta2


def _alike(tasks: list[_Task]) -> tuple[list[list[_Task]], list[_Task]]:
    """Whole matrices that fill a tile together, and all others."""
    stacks: dict[Any, list[list[_Task]]] = {}
    others = []
    for task in tasks:
        room = _TILE[task.value.device.type] // max(1, task.value.numel())
        if task.columns is None or task.ranks is not None or room < 2:
            others.append(task)
            continue
        parts = (task.value, task.gradient, task.momentum)
        kinds = (*(part.dtype for part in parts), task.value.device)
        key = (*task.value.shape, *kinds, task.decay, id(task.group))
        found = stacks.setdefault(key, [[]])
        if len(found[-1]) == room:
            found.append([])
        found[-1].append(task)
    return [stack for found in stacks.values() for stack in found], others


def _batches(tasks: list[_Task]) -> Iterator[list[_Task]]:
    """What is updated together: all that is sharded over the same processes (their sums travel
    together), all plain vectors (one kernel for many), plain matrices one by one (in cache)."""
    batches: dict[Any, list[_Task]] = {}
    for i, task in enumerate(tasks):
        alone = i if task.ranks is None and task.columns is not None else None
        key = (task.ranks, alone, task.value.device, task.rows.dtype)
        batches.setdefault(key, []).append(task)
    yield from batches.values()


def _update(tasks: list[_Task]) -> None:
    matrices = [task for task in tasks if task.columns is not None]
    vectors = [task for task in tasks if task.columns is None]
    rows = tasks[0].rows
    scratch = _scratch(matrices)
    _second_moments(matrices, scratch[0])
    updates = _vector_updates(vectors)
    squares = rows.new_zeros(len(tasks))
    for task, square in zip(matrices, squares, strict=False):
        _add_square(task, square, scratch[0])
    if vectors:
        squares[len(matrices) :] = torch.stack(torch._foreach_norm(updates)).square()
    _sum_over(tasks[0].ranks, squares)

    sizes = squares.new_tensor([task.size for task in (*matrices, *vectors)])
    clips = squares.new_tensor([task.group["clip"] for task in (*matrices, *vectors)])
    rates = squares.new_tensor([task.group["lr"] for task in (*matrices, *vectors)])
    scales = (rates / ((squares / sizes).sqrt() / clips).clamp(min=1.0)).unbind()
    for task, scale in zip(matrices, scales, strict=False):
        _apply_to_matrix(task, scale, scratch)
    if vectors:
        _apply_to_vectors(vectors, updates, list(scales[len(matrices) :]))


def _update_stacked(tasks: list[_Task]) -> None:
    """`_update` of n whole matrices of one shape as one (n, R, C): a kernel does all of them."""
    group, new = tasks[0].group, 1 - tasks[0].decay
    rows, columns = (
        torch.stack(part) for part in ([t.rows for t in tasks], [t.columns for t in tasks])
    )
    gradient = torch.stack([task.gradient for task in tasks]).to(rows.dtype)
    square = gradient.square()
    rows.lerp_(square.mean(2, keepdim=True).add_(_TINY), new)
    columns.lerp_(square.mean(1, keepdim=True).add_(_TINY), new)
    tiny = torch.finfo(rows.dtype).tiny
    row_factors = (rows / columns.mean(2, keepdim=True)).clamp_(min=tiny).rsqrt_()
    update = gradient.mul_(row_factors).mul_(columns.clamp(min=tiny).rsqrt_())
    size = torch.mul(update, update, out=square).mean((1, 2), keepdim=True).sqrt_()
    update.mul_(group["lr"] / (size / group["clip"]).clamp_(min=1.0))
    momentum = torch.stack([task.momentum for task in tasks]).to(rows.dtype)
    momentum.lerp_(update, 1 - group["betas"][0])

    values = [task.value for task in tasks]
    if _shrink(tasks[0]) != 1:
        torch._foreach_mul_(values, _shrink(tasks[0]))
    torch._foreach_sub_(values, list(momentum.unbind()))
    for name, stacked in (("momentum", momentum), ("rows", rows), ("columns", columns)):
        kept = [getattr(task, name) for task in tasks]
        torch._foreach_copy_(kept, list(stacked.unbind()))


def _scratch(matrices: list[_Task]) -> tuple[Tensor, Tensor]:
    """Memory for one tile (and for its momentum where that is not kept exactly), made once for
    every tile: fresh memory would cost more than the arithmetic."""
    if not matrices:
        return torch.empty(0), torch.empty(0)
    rows = matrices[0].rows
    numbers = max(min(t.value.numel(), t.tile_rows * t.value.shape[1]) for t in matrices)
    rounded = any(task.momentum.dtype != rows.dtype for task in matrices)
    return rows.new_empty(numbers), rows.new_empty(numbers if rounded else 0)


def _sum_over(ranks: ProcessGroup | None, tensor: Tensor) -> None:
    if ranks is not None:
        torch.distributed.all_reduce(tensor, group=ranks)


def _second_moments(matrices: list[_Task], scratch: Tensor) -> None:
    """Move row and column means towards those of the squared gradients."""
    if not matrices:
        return
    sums = scratch.new_zeros(sum(task.columns.numel() for task in matrices))
    columns = sums.split([task.columns.numel() for task in matrices])
    for task, column in zip(matrices, columns, strict=True):
        for gradient, rows in task.tiles(task.gradient, task.rows):
            square = _squared(gradient, scratch)
            column += square.sum(0)
            rows.lerp_(square.mean(1, keepdim=True).add_(_TINY), 1 - task.decay)
    _sum_over(matrices[0].ranks, sums)
    for task, column in zip(matrices, columns, strict=True):
        task.columns.lerp_(column.div_(task.height).add_(_TINY)[None], 1 - task.decay)


def _factors(task: _Task) -> tuple[Tensor, Tensor]:
    """Rows (r, 1) and columns (1, C) whose product is 1 / sqrt of the second moment.

    The mean of the rows, by which they are divided, is also the mean of the columns, and those
    are whole on every process.
    """
    tiny = torch.finfo(task.rows.dtype).tiny
    mean = task.columns.mean()
    return (task.rows / mean).clamp_(min=tiny).rsqrt_(), task.columns.clamp(min=tiny).rsqrt_()


def _add_square(task: _Task, square: Tensor, scratch: Tensor) -> None:
    """Add the squared norm of the update, before clip and learning rate, to `square` ()."""
    row_factors, column_factors = _factors(task)
    weights = column_factors.square_().view(-1)
    for gradient, rows in task.tiles(task.gradient, row_factors.square_()):
        square += torch.mv(_squared(gradient, scratch), weights).dot(rows.view(-1))


def _apply_to_matrix(task: _Task, scale: Tensor, scratch: tuple[Tensor, Tensor]) -> None:
    row_factors, column_factors = _factors(task)
    beta1, shrink = task.group["betas"][0], _shrink(task)
    parts = (task.value, task.gradient, task.momentum, row_factors.mul_(scale))
    for value, gradient, momentum, rows in task.tiles(*parts):
        update = torch.mul(gradient, column_factors, out=_tile(scratch[0], gradient)).mul_(rows)
        exact = momentum
        if momentum.dtype != update.dtype:
            exact = _tile(scratch[1], momentum).copy_(momentum)
        exact.lerp_(update, 1 - beta1)
        if exact is not momentum:
            momentum.copy_(exact)
        if shrink != 1:
            value.mul_(shrink)
        value.sub_(exact)


def _tile(scratch: Tensor, shaped: Tensor) -> Tensor:
    return scratch[: shaped.numel()].view(shaped.shape)


def _squared(gradient: Tensor, scratch: Tensor) -> Tensor:
    out = _tile(scratch, gradient)
    if gradient.dtype == out.dtype:
        return torch.mul(gradient, gradient, out=out)
    return out.copy_(gradient).square_()  # the square of a bf16 number is not one


def _shrink(task: _Task) -> float:
    return 1 - task.group["lr"] * task.group["weight_decay"]


def _vector_updates(vectors: list[_Task]) -> list[Tensor]:
    """Update second moments; gradients divided by their roots, before clip and learning rate."""
    if not vectors:
        return []
    updates = [task.gradient.to(task.rows.dtype, copy=True) for task in vectors]
    seconds, new = [task.rows for task in vectors], [1 - task.decay for task in vectors]
    torch._foreach_mul_(seconds, [task.decay for task in vectors])
    torch._foreach_addcmul_(seconds, updates, updates, new)
    torch._foreach_add_(seconds, [_TINY * weight for weight in new])
    roots = torch._foreach_sqrt(seconds)
    torch._foreach_div_(updates, roots)
    return updates


def _apply_to_vectors(vectors: list[_Task], updates: list[Tensor], scales: list[Tensor]) -> None:
    momenta = [task.momentum for task in vectors]
    exact = [momentum.to(task.rows.dtype) for momentum, task in zip(momenta, vectors, strict=True)]
    betas = [task.group["betas"][0] for task in vectors]
    torch._foreach_mul_(updates, scales)
    torch._foreach_mul_(updates, [1 - beta for beta in betas])
    torch._foreach_mul_(exact, betas)
    torch._foreach_add_(exact, updates)
    if exact[0] is not momenta[0]:
        torch._foreach_copy_(momenta, exact)
    values = [task.value for task in vectors]
    shrinks = [_shrink(task) for task in vectors]
    if any(shrink != 1 for shrink in shrinks):
        torch._foreach_mul_(values, shrinks)
    torch._foreach_sub_(values, exact)
