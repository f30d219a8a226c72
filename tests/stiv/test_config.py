"""The config refuses what no model is, quoting the value."""

from __future__ import annotations

import json

import pytest

from stiv import MODELS, STIVConfig, STIVTransformer


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str) -> None:
    config = MODELS[name]
    assert STIVConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("name", "depth", "width", "heads", "millions"),
    # blocks, width and heads are the paper's table; millions of parameters were computed apart
    [("xl", 28, 1152, 18, 814), ("xxl", 38, 1536, 24, 1918), ("m", 46, 3072, 48, 9172)],
)
def test_sizes_are_the_papers(name, depth, width, heads, millions) -> None:
    config = MODELS[name]
    assert (config.depth, config.width, config.heads) == (depth, width, heads)
    assert config.head_dim == 64
    model = STIVTransformer(config, device="meta")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 10**9},
        {"depth": 0},
        {"depth": 2.5},
        {"depth": True},
        {"width": "1152"},
        {"width": 1153},
        {"heads": 7},
        {"position": "alibi"},
        {"qk_norm": 1},
        {"mlp_ratio": float("nan")},
        {"rope_theta": float("inf")},
        {"temporal_gate": "own", "temporal_attention": False},
        {"colour": "red"},
    ],
    ids=str,
)
def test_bad_values_are_quoted(change: dict) -> None:
    with pytest.raises(ValueError) as caught:
        STIVConfig.from_dict(change)
    key, value = next(iter(change.items()))
    assert key in str(caught.value)
    assert str(value) in str(caught.value) or repr(value) in str(caught.value)


def test_not_a_table() -> None:
    with pytest.raises(ValueError, match="mapping"):
        STIVConfig.from_dict([1, 2])
