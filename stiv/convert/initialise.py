"""Start a model from others (the paper's progressive recipe, section 4).

From a source's tensors and an aim follows a plan: small named steps in a fixed order, each of
which says for which inputs it leaves the output as it was, or what has to be trained. Nothing is
read while planning, and the tensors of a plan are made one at a time when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..config import STIVConfig
from ..tensor_file import LazyTensors, described
from .steps import STEPS, Aim, Step, Temporal, Tensors
from .weights import Weights

__all__ = ["Aim", "Step", "Temporal", "grow", "initialised", "plan", "records", "stages"]

_REASONS = {
    "width": "no step widens or narrows a network: start from a model of that width",
    "heads": "other heads would cut the trained queries and keys in other places: keep {old}",
    "depth": "say which block each of the {new} is to be (depth map)",
    "mlp_ratio": "no step widens or narrows the FFN: keep {old}",
    "patch": "no step makes patches of another size: keep {old}",
    "qk_norm": "what the norm evened out is not known: keep it",
    "sandwich_norm": "what the norm evened out is not known: keep it",
    "condition_norm": "what the norm evened out is not known: keep it",
    "position": "sin-cos embeddings would be new to all that follows them: keep rope",
    "micro_conditions": "what they add depends on the picture: keep them",
    "temporal_attention": "what temporal attention adds, a picture needs too: keep it",
    "temporal_gate": "no step leads there: keep {old}, or take 'none' or 'own'",
    "mask_decoder_blocks": "they are part of the trained function: keep {old}",
}
"""Why a field cannot change in a way that no step knows."""

_STAYS = ("sai_model_spec", "architecture", "implementation", "license", "author", "thumbnail")
"""Of the public metadata; what tells of a date, a size or a purpose is no longer true."""


def plan(source: STIVConfig, aim: Aim) -> list[Step]:
    """The steps from a source to an aim, in order; none where nothing is to be done.

    Raises ValueError, naming the field, both values and the reason, for an aim that cannot be
    reached.
    """
    _check_depth_map(source, aim)
    now, steps = source, []
    for find in STEPS:
        if step := find(now, aim):
            steps.append(step)
            now = step.after
    for field in fields(STIVConfig):
        old, new = getattr(now, field.name), getattr(aim.config, field.name)
        if old != new:
            reason = _REASONS[field.name].format(old=old, new=new)
            raise ValueError(f"{field.name} {old!r} cannot become {new!r}: {reason}")
    return steps


def stages(steps: Sequence[Step], tensors: Tensors) -> list[Tensors]:
    """The tensors before the first step and after each one; they are made when asked for."""
    return list(accumulate(steps, lambda now, step: step.apply(now), initial=tensors))


def grow(tensors: Mapping[str, Tensor], source: STIVConfig, aim: Aim) -> dict[str, Tensor]:
    """Float32 state dict of the model that a plan leads to. Raises ValueError as `plan`."""
    known = {
        name: torch.empty(tensor.shape, dtype=torch.float32, device="meta")
        for name, tensor in described(tensors).items()
    }
    wide = LazyTensors(known, lambda name: tensors[name].detach().float())
    grown = stages(plan(source, aim), wide)[-1]
    return {name: grown[name].clone() for name in grown}


def initialised(
    weights: Weights,
    aim: Aim,
    steps: Sequence[Step],
    *,
    latents: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
) -> Weights:
    """The weights that a plan leads to, with a card that says what was done.

    latents, text: the card's, where they change. Tasks stay listed where every step keeps them.
    """
    old = weights.card
    title = old.modelspec.get("title", f"STIV {old.size}")
    done = [*old.training.get("operations", []), *records(steps, aim, old.tensor_hash)]
    card = replace(
        old,
        config=aim.config,
        latents=dict(latents or old.latents),
        text=dict(text or old.text),
        tasks=kept_tasks(old.tasks, steps),
        sampling={"shift": 1.0} if aim.velocity else old.sampling,
        training={**old.training, "operations": done},
        tensor_hash=None,
        modelspec={
            **{k: v for k, v in old.modelspec.items() if k in _STAYS},
            "title": f"Start from {title.removeprefix('Start from ')}",
        },
    )
    changed = replace(
        weights, card=card, diffusion_model=stages(steps, weights.diffusion_model)[-1]
    )
    if text is not None:
        changed = replace(changed, text_encoder={})
    if latents is not None:
        changed = replace(changed, vae={})
    return changed


def records(steps: Sequence[Step], aim: Aim, parent: str | None) -> list[dict[str, Any]]:
    """The steps as entries of a card's `operations` (see `Weights.derived`).

    parent: the tensor hash of the checkpoint that the first one takes.
    """
    return [
        {
            "operation": "init",
            **step.record(),
            "seed": aim.seed,
            "parents": [*([] if number else [parent]), *step.parents],
        }
        for number, step in enumerate(steps)
    ]


def kept_tasks(tasks: Sequence[dict[str, Any]], steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The tasks that a model can do after the steps as before."""
    keeps = {step.keeps for step in steps}
    if "nothing" in keeps:
        return []
    return [task for task in tasks if "pictures" not in keeps or task["task"] == "t2i"]


def _check_depth_map(source: STIVConfig, aim: Aim) -> None:
    if aim.depth_map is None:
        return
    if len(aim.depth_map) != aim.config.depth:
        raise ValueError(
            f"the depth map names {len(aim.depth_map)} blocks, the new model has {aim.config.depth}"
        )
    for block in aim.depth_map:
        if block is not None and not 0 <= block < source.depth:
            raise ValueError(
                f"the depth map names block {block}: the source has 0 to {source.depth - 1}"
            )
