"""Which spatial tokens masked training keeps (MaskDiT; paper section 3: half, never frames)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def draw_kept_tokens(
    rngs: Sequence[np.random.Generator], tokens: int, ratio: float
) -> Tensor | None:
    """(B, K) int64 indices of the tokens kept of each sample, ascending; for the model's `keep`.

    rngs: one per sample, so that a sample's draw does not depend on its batch. tokens: of one
    frame; every frame keeps the same places. ratio: share that is dropped, 0 <= ratio < 1; at
    least one token stays. None for ratio 0: nothing is masked. Raises ValueError out of range.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"masking ratio is {ratio!r}: expected 0 <= ratio < 1")
    if tokens < 1:
        raise ValueError(f"a frame has {tokens!r} tokens: expected at least 1")
    if not ratio:
        return None
    kept = tokens - int(tokens * ratio)
    drawn = [np.sort(rng.permutation(tokens)[:kept]) for rng in rngs]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.empty(0, kept, dtype=torch.int64)
