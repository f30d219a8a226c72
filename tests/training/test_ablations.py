"""The ablation tables' page, their costs, and the commands that train a row."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scripts.prepare import ROOT
from stiv import ABLATIONS, MODELS, STIVConfig, STIVTransformer, ablation
from stiv.ablations import Ablation
from stiv.convert.initialise import Aim, grow
from stiv.shapes import expected_shapes
from tests.training.conftest import refused, run
from training.ablations import SHAPES, command, cost, obstacle, overrides, recipe
from training.cli import parser
from training.config import TrainConfig, load_config
from training.loop import Trainer

TRAINED = [row for row in ABLATIONS.values() if not obstacle(row)]
AS_THE_RECIPE = ("t2i/captions", "t2v/base", "ti2v/frame_replacement")
T2I_XL = replace(MODELS["xl"], temporal_attention=False, temporal_patch=1)


def test_page_is_what_the_command_prints(capsys: pytest.CaptureFixture) -> None:
    run("ablations", "--markdown")
    page = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page, (
        "make it anew: python -m training ablations --markdown > docs/ablations.md"
    )


def test_terminal_lists_every_row(capsys: pytest.CaptureFixture) -> None:
    run("ablations")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(ABLATIONS) + 1]] == list(ABLATIONS)


def test_a_row_tells_what_it_changes_and_what_it_costs(capsys: pytest.CaptureFixture) -> None:
    run("ablations", "t2v/patch_4")
    said = capsys.readouterr().out
    assert "t2v/base with temporal_patch: 4" in said
    assert f"{cost(ablation('t2v/patch_4')).parameters / 1e6:.1f} M parameters" in said


def test_flops_are_those_that_torch_counts_at_the_tables_sizes() -> None:
    """Networks of the real width and tokens, without their depth: nothing is computed."""
    for row in {row.config: row for row in ABLATIONS.values()}.values():
        row = replace(row, config=replace(row.config, depth=2))
        config, (T, h, w) = row.config, SHAPES[row.table]
        with torch.device("meta"):
            model = STIVTransformer(config)
            x, image = torch.zeros(1, config.latent_channels, T, h, w), None
            if config.image_cross_attention:
                image = x[:, :, 0]
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                model(x, torch.zeros(1), torch.zeros(1, 77, config.text_width), image=image)
        assert cost(row).forward == counter.get_total_flops(), row.name


def test_masking_makes_training_cheaper_but_not_sampling() -> None:
    masked, whole = cost(ablation("t2v/base")), cost(ablation("t2v/no_spatial_mask"))
    assert masked.forward == whole.forward
    assert whole.training > 1.7 * masked.training
    assert whole.training == pytest.approx(3 * whole.forward, rel=1e-3)


# --- training a row ------------------------------------------------------------------------------


def loaded(row: Ablation) -> TrainConfig:
    """The config that the row's command trains, by the real command line."""
    words = shlex.split(command(row).replace("\\\n", " "), comments=True)
    args = parser().parse_args(words[3:])
    assert (words[:3], args.command) == (["python", "-m", "training"], "train")
    return load_config(ROOT / args.config, args.set)


@pytest.mark.parametrize("row", TRAINED, ids=lambda row: row.name)
def test_command_trains_the_row(row: Ablation) -> None:
    config, setup = loaded(row), row.setup
    assert config.model.build() == replace(row.config, latent_channels=4)
    assert (config.optimizer.kind, config.optimizer.lr) == (setup.optimizer, setup.lr)
    assert config.masking.ratio == setup.spatial_mask
    assert bool(config.masking.unmasked_steps) == bool(setup.spatial_mask)
    assert config.text.encoder == setup.text_encoder
    assert setup.text_encoder in str(config.text.file)
    assert config.data.tasks == {"ti2v" if row.table == "ti2v" else "t2v": 1.0}


def test_no_two_rows_share_a_run_or_a_cache_of_another_encoder() -> None:
    configs = [loaded(row) for row in TRAINED]
    assert len({config.run for config in configs}) == len(configs)
    caches = {(config.text.encoder, config.text.cache) for config in configs}
    assert len({cache for _, cache in caches}) == len(caches) == 2


@pytest.mark.parametrize("name", AS_THE_RECIPE)
def test_final_rows_are_the_recipes_as_they_are(name: str) -> None:
    row = ablation(name)
    assert set(overrides(row)) == {"name", "run"}
    config, base = loaded(row), load_config(recipe(row))
    own = {"name": config.name, "run": config.run}
    assert config == base.model_copy(update=own)


@pytest.mark.parametrize(
    "row", [row for row in TRAINED if row.table == "t2v"], ids=lambda row: row.name
)
def test_a_video_row_starts_from_the_image_model(row: Ablation) -> None:
    config = loaded(row)
    assert config.init.weights.name == "t2i_256.safetensors"
    old, new = small(T2I_XL), small(config.model.build())
    tensors = {name: torch.zeros(shape) for name, shape in expected_shapes(old).items()}
    assert set(grow(tensors, old, Aim(config=new))) == set(expected_shapes(new))


def small(config: STIVConfig) -> STIVConfig:
    return replace(config, width=32, depth=2, heads=2, text_width=8, pooled_width=8)


@pytest.mark.parametrize(
    "name",
    [
        "t2i/baseline",
        "t2i/maskdit",
        "t2v/patch_1",
        "t2v/patch_4",
        "t2v/causal",
        "t2v/temporal_gate",
        "ti2v/cross_attention",
        "ti2v/both",
    ],
)
def test_a_step_of_the_row_trains(name: str, tiny) -> None:
    """The row's switches and settings on a tiny network, with its small text encoder."""
    given, row = loaded(ablation(name)), ablation(name)
    sizes = {"width": 48, "depth": 1, "heads": 3, "text_width": 16}
    sizes["pooled_width"] = 16 if row.config.pooled_width else 0
    still = not row.config.temporal_attention
    config = tiny(
        **{
            "model.changes": {**given.model.build().to_dict(), **sizes},
            "data.streams": [{"batch": 2, "still": still}],
            "data.tasks": given.data.tasks,
            "data.image_attention": given.data.image_attention,
            "optimizer.kind": given.optimizer.kind,
            "masking.ratio": given.masking.ratio,
            "engine.checkpointing": "selective",
        }
    )
    trainer = Trainer(config)
    trainer.start()
    trainer.run(2)
    assert trainer.networks["diffusion_model"].final.linear.weight.abs().max() > 0  # begins at zero


def test_command_is_printed_with_what_is_not_as_in_the_paper(capsys) -> None:
    run("ablations", "t2i/baseline", "--recipe")
    said = capsys.readouterr().out
    assert said.rstrip("\n") == command(ablation("t2i/baseline"))
    assert "# unlike the paper it learns the velocities of a flow" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("t2i/vae_8", "--recipe"), "t2i/vae_8 cannot be trained here: the paper's VAE"),
        (("t2v/temporal_mask", "--recipe"), "masking here leaves out spatial tokens only"),
        (("t2i/ropes",), "did you mean 't2i/rope'?"),
        (("--recipe",), "name it"),
        (("t2i/rope", "--markdown"), "leave out the name"),
    ],
)
def test_mistakes_and_rows_that_cannot_be_trained_end_in_one_line(words, expected: str) -> None:
    assert expected in refused("ablations", *words)
