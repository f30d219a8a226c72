"""`python -m stiv.convert init`: from files to a file, with what it prints and refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stiv.card import Card
from stiv.checkpoint import read_card, read_checkpoint
from stiv.config import STIVConfig
from stiv.convert.weights import Weights
from stiv.model import STIVTransformer
from stiv.public import EPSILON, LATENT_SPACES
from stiv.tensor_file import LazyTensors
from tests.models import random_model
from tests.stiv.convert.checkpoints import checkpoint, fails, run, write
from tests.stiv.convert.releases import pixart
from tests.stiv.convert.starts import IMAGE, PIXART, STDIT, STIV

ROOT = Path(__file__).parents[3]


def base(path: Path, config: STIVConfig, **card) -> Path:
    """A checkpoint of a network with random weights."""
    text = {"encoder": "custom", "max_tokens": 120}
    text |= {"width": config.text_width, "pooled_width": config.pooled_width}
    values = {"config": config, "latents": LATENT_SPACES["sd"], "text": text} | card
    weights = Weights(Card(**values), random_model(config).half().state_dict())
    return write(path, weights)


def test_an_imported_image_model_becomes_a_stiv_video_model(tmp_path: Path) -> None:
    """In a process of its own, as a person would; the output fits the model strictly."""
    ancestor = replace(PIXART, text_width=4096)
    source = base(tmp_path / "pixart.safetensors", ancestor, sampling=EPSILON)
    out = tmp_path / "start.safetensors"
    command = [
        sys.executable, "-m", "stiv.convert", "init", source, "--velocity", "--like", "xl",
        "--set", "width=16", "--set", "heads=2", "--set", "depth=2", "--out", out,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said, total = done.stdout.split("all steps change the output by ")
    steps = re.findall(r"^(\S.*?): ", said, re.MULTILINE)
    changes = dict(zip(steps, map(float, re.findall(r"output by (.*)%", said)), strict=True))
    assert steps[0] == "null text" and steps[-1] == "velocity"
    assert changes["temporal attention"] < 0.01 and changes["velocity"] == 0  # but for its sign
    assert changes["rotary positions"] > 0.1 and float(total.partition("%")[0]) > 0.1
    card, parts = read_checkpoint(out, verify=True)
    assert card.prediction == "velocity" and card.text["encoder"] == "clip_g"
    assert card.config == STIVConfig(width=16, heads=2, depth=2)
    STIVTransformer(card.config).load_state_dict(parts["diffusion_model"])
    parents = [entry["parents"] for entry in card.training["operations"]]
    assert parents == [[read_card(source).tensor_hash], *([[]] * (len(steps) - 1))]


def test_dry_run_lists_the_plan_without_reading_a_tensor(tmp_path, capsys, monkeypatch) -> None:
    source = base(tmp_path / "image.safetensors", IMAGE)
    monkeypatch.setattr(LazyTensors, "__getitem__", lambda *_: pytest.fail("a tensor was read"))
    out = tmp_path / "video.safetensors"
    arguments = ("init", source, "--set", "temporal_attention=true", "--out", out, "--dry-run")
    assert run(*arguments, "--set", "temporal_patch=2") == 0
    said = capsys.readouterr().out
    assert "temporal patch: tokens of 2 frames" in said and "exact for every input" in said
    assert "to be trained: blocks.*.temporal_attn" in said
    assert "would write" in said and not out.exists()


def test_joint_start_with_both_parents(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    large = replace(IMAGE, space_scale=0.5)
    spatial = base(tmp_path / "t2i_512.safetensors", large, tasks=[{"task": "t2i"}])
    temporal = base(tmp_path / "t2v_256.safetensors", STIV)
    out = tmp_path / "t2v_512.safetensors"
    settings = ("--set", "temporal_attention=true", "--set", "temporal_patch=2")
    assert (
        run("init", spatial, "--temporal", temporal, *settings, "--no-measure", "--out", out) == 0
    )
    said = capsys.readouterr().out
    assert "changes the output" not in said
    assert "tasks: none (no longer: t2i, to be trained)" in said
    card, parts = read_checkpoint(out)
    assert card.config == replace(STIV, space_scale=0.5)
    joint = card.training["operations"][-1]
    assert joint["step"] == "joint start"
    assert joint["parents"] == [read_card(temporal).tensor_hash]
    theirs = read_checkpoint(temporal)[1]["diffusion_model"]
    name = "blocks.1.temporal_attn.qkv.weight"
    assert torch.equal(parts["diffusion_model"][name], theirs[name])


def test_larger_longer_deeper_with_other_latents(tmp_path: Path) -> None:
    source = base(tmp_path / "small.safetensors", replace(STIV, space_scale=0.5))
    out = tmp_path / "large.safetensors"
    assert run(
        "init", source, "--size", "512:1024", "--frames", "20:40", "--depth-map", "0,new,1",
        "--latents", "flux", "--out", out,
    ) == 0  # fmt: skip
    card = read_card(out)
    assert card.config == replace(
        STIV, space_scale=0.25, time_scale=0.5, depth=3, latent_channels=16
    )
    assert card.latents == LATENT_SPACES["flux"]
    custom = {"name": "custom", "channels": 8, "scale": 2.0, "shift": 0.0, "downscale": 8}
    assert run("init", source, "--latents", json.dumps(custom), "--overwrite", "--out", out) == 0
    assert read_card(out).latents == custom


def test_the_same_start_is_the_same_file_and_parts_inside_stay(tmp_path: Path) -> None:
    source = write(tmp_path / "all.safetensors", checkpoint())
    outs = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        arguments = ("--set", "mask_decoder_blocks=2", "--seed", seed, "--no-measure")
        assert run("init", source, *arguments, "--out", out) == 0
    first, second, other = (out.read_bytes() for out in outs)
    assert first == second != other
    found, wanted = read_checkpoint(outs[0])[1], read_checkpoint(source)[1]
    for part in ("text_encoder", "vae"):
        assert all(torch.equal(found[part][name], t) for name, t in wanted[part].items())


def test_float8_weights_are_a_start_too(tmp_path: Path) -> None:
    source = base(tmp_path / "half.safetensors", IMAGE)
    weights = Weights.read(source)
    small = {name: t.to(torch.float8_e4m3fn) for name, t in weights.diffusion_model.items()}
    source = write(tmp_path / "small.safetensors", replace(weights, diffusion_model=small))
    out = tmp_path / "out.safetensors"
    assert run("init", source, "--set", "temporal_patch=2", "--no-measure", "--out", out) == 0
    made = read_checkpoint(out)[1]["diffusion_model"]
    assert made["patch_embed.weight"].dtype == torch.bfloat16
    assert made["blocks.0.mlp.fc1.weight"].dtype == torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "heads=4"], r"base\.safetensors: heads 2 cannot become 4"),
        (["--set", "width"], "--set width: expected FIELD=VALUE with one of latent_channels"),
        (["--set", "breadth=4"], "--set breadth=4: expected FIELD=VALUE"),
        (["--set", "depth=2.5"], r"STIVConfig\.depth is 2\.5: expected int"),
        (["--set", "position=spiral"], r"STIVConfig\.position is 'spiral': expected one of"),
        (["--set", "latent_channels=8"], "without saying whose latents they are: add --latents"),
        (["--set", "text_width=7"], "of no encoder that is known: add --text custom"),
        (["--size", "256"], "--size 256: expected trained:new, as in 256:512"),
        (["--frames", "0:40"], "--frames 0:40: expected trained:new"),
        (["--depth-map", "0,one"], "'one' is neither a block's number nor new"),
        (["--depth-map", "0,5"], "the depth map names block 5: the source has 0 to 1"),
        (["--latents", "sd4"], "--latents sd4: expected sd, sdxl, sd3, flux, or JSON"),
        (["--latents", '{"channels": 8}'], r"latents\.name is None"),
        (["--velocity"], "predicts velocity already: leave out --velocity"),
        (["--temporal", "absent.safetensors"], r"absent\.safetensors: there is no such file"),
        ([], "is what was asked for already"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(tmp_path, arguments, message) -> None:
    source = base(tmp_path / "base.safetensors", STIV)
    out = tmp_path / "out.safetensors"
    fails(message, "init", source, *arguments, "--out", out)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]


def test_like_takes_the_switches_and_leaves_the_positions(tmp_path: Path) -> None:
    config = replace(STIV, space_scale=0.5, depth=6, heads=2, mask_decoder_blocks=0)
    source = base(tmp_path / "base.safetensors", replace(config, temporal_attention=False))
    out = tmp_path / "out.safetensors"
    shape = [f"--set={name}={getattr(config, name)}" for name in ("width", "heads", "depth")]
    assert run("init", source, "--like", "nano", *shape, "--text", "custom", "--out", out) == 0
    found = read_card(out)
    assert found.config.space_scale == 0.5 and found.config.text_width == 128
    assert found.text["encoder"] == "custom"


def test_rotary_positions_begin_anew(tmp_path: Path) -> None:
    source = base(tmp_path / "base.safetensors", replace(PIXART, space_scale=0.5))
    out = tmp_path / "out.safetensors"
    settings = ("--set", "position=rope", "--size", "256:512", "--no-measure")
    assert run("init", source, *settings, "--out", out) == 0
    assert read_card(out).config == replace(PIXART, position="rope", space_scale=0.5, sincos_base=0)
    fails("fit themselves to any size", "init", source, "--size", "256:512", "--overwrite",
          "--out", out)  # fmt: skip
    counted = base(tmp_path / "counted.safetensors", STDIT)  # goes on counting, as Open-Sora does
    options = ("--size", "256:512", "--no-measure", "--overwrite")
    assert run("init", counted, *options, "--out", out) == 0
    assert read_card(out).config == replace(STDIT, space_scale=0.5)


def test_a_release_is_imported_started_and_started_again(tmp_path: Path) -> None:
    """Released file, ancestor, STIV image model, STIV video model: the card knows all of it."""
    released, imported, image, video = (
        tmp_path / f"{name}.safetensors" for name in ("released", "imported", "image", "video")
    )
    save_file(pixart(), released)
    assert run("import", released, "--heads", "2", "--out", imported) == 0
    shape = [f"--set={field}" for field in ("width=32", "depth=2", "heads=2")]
    picture = ("--set", "temporal_attention=false", "--set", "temporal_patch=1")
    first = ("--like", "xl", *shape, *picture, "--velocity", "--no-measure")
    assert run("init", imported, *first, "--out", image) == 0
    assert run("init", image, "--like", "xl", *shape, "--no-measure", "--out", video) == 0
    card = read_card(video)
    assert card.config == STIVConfig(width=32, depth=2, heads=2)
    assert card.prediction == "velocity" and card.text["encoder"] == "clip_g"
    operations = card.training["operations"]
    taken = [parent for entry in operations for parent in entry["parents"]]
    assert taken[1:] == [read_card(imported).tensor_hash, read_card(image).tensor_hash]
    assert operations[0]["operation"] == "import"
    assert [entry["step"] for entry in operations[-2:]] == ["temporal patch", "temporal attention"]
