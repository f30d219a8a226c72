"""Task mixing: shares, dropout and what each task gives clean."""

from __future__ import annotations

import numpy as np
import torch

from training.tasks import draw_frame_masks, drop_texts


def test_shares_and_dropout_are_independent() -> None:
    rng = np.random.default_rng(0)
    shares = {"t2v": 0.5, "ti2v": 0.3, "tup": 0.2}
    masks = draw_frame_masks(shares, 20000, 8, rng, image_dropout=0.25)
    given = masks.sum(1)
    share = {count: (given == count).float().mean().item() for count in (0, 1, 4)}
    assert abs(share[1] - 0.3 * 0.75) < 0.015
    assert abs(share[4] - 0.2 * 0.75) < 0.015
    assert abs(share[0] - (0.5 + 0.5 * 0.25)) < 0.015
    assert masks[given == 1][:, 0].all()
    assert torch.equal(masks[given == 4][0], torch.tensor([True, False] * 4))


def test_texts_are_dropped_by_their_share() -> None:
    texts = drop_texts(["a cat"] * 20000, 0.1, np.random.default_rng(0))
    assert abs(texts.count("") / 20000 - 0.1) < 0.01
    assert set(texts) == {"", "a cat"}
