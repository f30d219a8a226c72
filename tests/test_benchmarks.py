"""The peers of the benchmarks compute what they claim to."""

from __future__ import annotations

import pytest
import torch

from stiv import STIVConfig
from tests.models import random_model

pytest.importorskip("diffusers", reason="the parts are diffusers'")

TINY = STIVConfig(
    width=32, depth=2, heads=2, text_width=24, pooled_width=24, mask_decoder_blocks=0,
    space_scale=0.5, time_scale=0.75,
)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("temporal", [True, False], ids=["video", "image"])
def test_the_model_of_diffusers_parts_is_ours(temporal: bool) -> None:
    """Same weights, same outputs, on a grid whose sides differ."""
    from benchmarks.parts import from_parts

    config = STIVConfig(**{**TINY.to_dict(), "temporal_attention": temporal})
    model = random_model(config)
    torch.manual_seed(1)
    given = {
        "x_BCTHW": torch.randn(2, 4, 6, 8, 4),
        "t_B": torch.rand(2),
        "text_BLD": torch.randn(2, 5, 24),
        "pooled": torch.randn(2, 24),
    }
    expected = model(**given)
    found = from_parts(model, (3, 4, 2))(**given)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
