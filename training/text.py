"""A head start for the small text encoder: name what a caption of the shapes domain says.

The paper conditions on a text encoder that already understands text (a CLIP). The nano's learns
with the model, but first spends a minute on naming which attributes belong together in a caption
(red with circle, circle with left, …), which gives it states worth conditioning on.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stiv.text_encoder import TextEncoder, Tokenizer

from .shapes.captions import caption
from .shapes.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, sample_scene

log = logging.getLogger(__name__)

LABELS = [
    *((c, s) for c in COLOURS for s in SHAPES),
    *((s, m) for s in SHAPES for m in MOTIONS),
    *((c, m) for c in COLOURS for m in MOTIONS),
    *((b,) for b in BACKGROUNDS),
]
_INDEX = {label: i for i, label in enumerate(LABELS)}


def labels(scene: Scene) -> Tensor:
    """(len(LABELS),) 0 or 1: the pairs of attributes in a scene, and its background."""
    target = torch.zeros(len(LABELS))
    target[_INDEX[(scene.background,)]] = 1
    for o in scene.objects:
        for pair in ((o.colour, o.shape), (o.shape, o.motion), (o.colour, o.motion)):
            target[_INDEX[pair]] = 1
    return target


def pretrain(
    encoder: TextEncoder, tokenizer: Tokenizer, steps: int, *, seed: int, batch: int = 64
) -> float:
    """Train in place on captions of training scenes; returns the last loss.

    Every step is a function of (seed, step), so a rerun gives the same encoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.config.width, len(LABELS))
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    loss = torch.zeros(())
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        scenes = [sample_scene(rng, "train") for _ in range(batch)]
        tokens, mask = tokenizer.encode_batch([caption(scene, rng) for scene in scenes])
        _, pooled = encoder(tokens, mask)
        target = torch.stack([labels(scene) for scene in scenes])
        loss = F.binary_cross_entropy_with_logits(head(pooled), target) * len(LABELS)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100, (steps - step) / (0.3 * steps))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            log.info("text encoder: step %d of %d, loss %.4f", step + 1, steps, loss.item())
    return loss.item()
