"""Every row of the paper's tables is a network that builds, and one step from its base."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from stiv import ABLATIONS, MODELS, STIVConfig, STIVTransformer, ablation
from stiv.ablations import METRICS, Ablation, Setup
from stiv.convert.names import foreign_tensors
from stiv.public import TEXT_ENCODERS
from stiv.shapes import expected_shapes
from tests.models import random_model

# The figures of the paper, in the order of its tables.
PAPER = {
    "t2i": (26.17, 25.60, 25.76, 25.58, 26.35, 24.96, 21.16, 20.26, 23.85, 22.83, 20.02, 18.40,
            19.57, 17.97, 18.04),
    "t2v": (78.25, 79.07, 77.61, 74.30, 78.04, 75.25, 78.52),
    "ti2v": (77.3, 73.0, 77.1),
}  # fmt: skip
STEPS = [row for row in ABLATIONS.values() if row.base]
T2I_XL = replace(MODELS["xl"], temporal_attention=False, temporal_patch=1)


def small(config: STIVConfig) -> STIVConfig:
    pooled = min(config.pooled_width, 8)
    return replace(config, width=32, depth=1, heads=2, text_width=16, pooled_width=pooled)


def velocity(model: STIVTransformer) -> torch.Tensor:
    """Of fixed inputs: two samples of 5 frames of 6 x 4 latents."""
    config, generator = model.config, torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    x = draw(2, config.latent_channels, 5, 6, 4)
    text, image = draw(2, 7, config.text_width), draw(2, config.latent_channels, 6, 4)
    with torch.no_grad():
        return model(x, torch.tensor([0.2, 0.7]), text, image=image)


@pytest.mark.parametrize("table", PAPER)
def test_figures_are_the_papers(table: str) -> None:
    rows = [row for row in ABLATIONS.values() if row.table == table]
    assert tuple(row.figure for row in rows) == PAPER[table]
    assert table in METRICS


def test_there_is_no_other_table() -> None:
    assert {row.table for row in ABLATIONS.values()} == set(PAPER) == set(METRICS)


@pytest.mark.parametrize("row", ABLATIONS.values(), ids=lambda row: row.name)
def test_network_builds_and_predicts(row: Ablation) -> None:
    assert expected_shapes(row.config)  # builds the whole of it on no device
    out = velocity(random_model(small(row.config), std=0.1))
    assert out.shape == (2, row.config.latent_channels, 5, 6, 4)
    assert out.isfinite().all()


@pytest.mark.parametrize("row", STEPS, ids=lambda row: row.name)
def test_row_differs_from_its_base_as_it_says(row: Ablation) -> None:
    base = ablation(row.base)
    for mine, its, said in (
        (row.config.to_dict(), base.config.to_dict(), row.network),
        (asdict(row.setup), asdict(base.setup), row.settings),
    ):
        assert {key: value for key, value in mine.items() if value != its[key]} == said
    assert row.network or row.settings


@pytest.mark.parametrize("row", [row for row in STEPS if row.network], ids=lambda row: row.name)
def test_step_of_the_network_changes_what_it_computes(row: Ablation) -> None:
    before, after = (random_model(small(r.config)) for r in (ablation(row.base), row))
    if {n: p.shape for n, p in before.named_parameters()} == {
        n: p.shape for n, p in after.named_parameters()
    }:
        after.load_state_dict(before.state_dict())
        assert not torch.allclose(velocity(before), velocity(after))


def test_the_ladder_is_one_chain_from_pixart_to_the_final_model() -> None:
    names = [row.name for row in ABLATIONS.values() if row.table == "t2i"]
    assert [ablation(name).base for name in names] == [None, *names[:-1]]
    last = ablation(names[-1])
    assert last.config == replace(T2I_XL, latent_channels=8)  # the paper's VAE, never published
    assert last.setup == Setup()


def test_videos_begin_with_the_final_model() -> None:
    for name in ("t2v/base", "ti2v/frame_replacement"):
        assert ablation(name).config == replace(MODELS["xl"], latent_channels=8)


def test_the_baseline_with_shared_adaln_and_16_heads_has_the_tensors_of_pixart() -> None:
    ours = replace(ablation("t2i/baseline").config, shared_adaln=True, heads=16)
    with torch.device("meta"):
        pixart = PixArtTransformer2DModel(
            sample_size=32, out_channels=4, caption_channels=4096, use_additional_conditions=False
        )
    theirs = {name: parameter.shape for name, parameter in pixart.named_parameters()}
    names = foreign_tensors(ours.depth, "diffusers", is_video=False, has_null_text=False)
    for name, shape in expected_shapes(ours).items():
        parts = [theirs.pop(part) for part in names[name]]
        rows, rest = sum(part[0] for part in parts), parts[0][1:]
        # the patch embedding is a convolution there
        assert (rows, *([rest.numel()] if rest else [])) == shape, name
    assert not theirs


@pytest.mark.parametrize("row", ABLATIONS.values(), ids=lambda row: row.name)
def test_text_widths_are_the_encoders(row: Ablation) -> None:
    facts = TEXT_ENCODERS[row.setup.text_encoder]
    assert (row.config.text_width, row.config.pooled_width) == (
        facts["width"],
        facts["pooled_width"],
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("t2i/ropes", "did you mean 't2i/rope'"), ("", "expected one of t2i/baseline, t2i/qk_norm")],
)
def test_an_unknown_name_is_answered_with_those_that_there_are(name: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"no ablation '{name}': {expected}"):
        ablation(name)
