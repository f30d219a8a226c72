"""PixArt-alpha and Open-Sora 1.0 become STIV checkpoints of the same function, and go back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stiv import STIVTransformer
from stiv.checkpoint import CheckpointError, read_checkpoint
from stiv.convert.cli import main
from stiv.convert.export import export_tensors
from stiv.convert.foreign import Settings, import_weights, open_foreign
from stiv.convert.source import open_source
from stiv.convert.weights import Weights
from stiv.public import LATENT_SPACES
from stiv.rope import sincos_2d

from .releases import golden, pixart, stdit

HEADS = Settings(heads=2)


def network(weights: Weights, dtype: torch.dtype) -> STIVTransformer:
    model = STIVTransformer(weights.card.config, dtype=dtype).requires_grad_(False)
    model.load_state_dict({name: t.to(dtype) for name, t in weights.diffusion_model.items()})
    return model


@pytest.fixture
def opensora(tmp_path: Path) -> Path:
    path = tmp_path / "OpenSora-v1-HQ-16x256x256.pth"
    torch.save(stdit(), path)
    return path


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("wanted", ["output", "null_output"])
def test_equals_stdit(opensora: Path, dtype: torch.dtype, limit: float, wanted: str) -> None:
    record = golden()
    model = network(import_weights(open_source(opensora), HEADS), dtype)
    text = record["text"].to(dtype)
    if wanted == "null_output":
        text = model.null_text.expand_as(text)
    t = 1 - record["t"].double() / 1000
    actual = model(record["x"].to(dtype), t, text, text_mask=record["mask"])
    expected = record[wanted][:, :4]  # the other channels are the variance
    error = (actual - expected).norm() / expected.norm()
    assert error < limit


def test_what_the_card_says(opensora: Path) -> None:
    card = import_weights(open_source(opensora), HEADS).card
    assert card.prediction == "epsilon"
    assert card.config.space_scale == 2.0 and card.config.time_scale == 1.5
    assert card.config.temporal_gate == "spatial" and card.config.sincos_base == 0
    assert card.tasks == [
        {"task": "t2v", "height": [48, 48], "width": [48, 48], "frames": [3, 3], "stride": [3, 3]}
    ]
    entry = card.training["operations"][0]
    assert entry["operation"] == "import" and entry["file"] == opensora.name


@pytest.mark.parametrize("spacing", [0.5, 1.0, 2 / 3, 1.5, 2.0])
def test_spacing_of_positions_is_read_from_the_file(tmp_path: Path, spacing: float) -> None:
    state, place = pixart(), (torch.device("cpu"), torch.float32)
    state["pos_embed"] = sincos_2d(16, 16, 32, spacing, 0, 1e4, *place)[None].clone()
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    config = import_weights(open_source(tmp_path / "a.pth"), HEADS).card.config
    assert config.space_scale == pytest.approx(spacing) and config.sincos_base == 16


def test_positions_of_another_kind_are_refused(tmp_path: Path) -> None:
    state = pixart()
    state["pos_embed"] = torch.randn_like(state["pos_embed"])
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: pos_embed differs by .* from sines"):
        import_weights(open_source(tmp_path / "a.pth"), HEADS)


def test_there_and_back_is_the_same(tmp_path: Path, opensora: Path) -> None:
    """import, export, import: every tensor bit for bit, also positions and null text."""
    for layout, given_state, path in (
        ("original", pixart(), tmp_path / "pixart.pth"),
        ("diffusers", pixart(), tmp_path / "pixart.pth"),
        ("original", stdit(), opensora),
    ):
        torch.save(given_state, path)
        first = import_weights(open_source(path), HEADS)
        out = tmp_path / f"{layout}.safetensors"
        save_file(dict(export_tensors(first, layout)), out)
        size = None if layout == "original" else 256
        second = import_weights(open_source(out), Settings(heads=2, size=size))
        assert second.card.config == first.card.config
        assert second.card.tasks == first.card.tasks
        for name, tensor in first.diffusion_model.items():
            assert torch.equal(second.diffusion_model[name], tensor), name
        if layout == "original":
            exported = load_file(out)
            assert exported.keys() == given_state.keys()
            for name, tensor in given_state.items():
                same = exported[name].shape == tensor.shape
                noise = name.startswith("final_layer.linear")  # its variance was left out
                assert same and (noise or torch.allclose(exported[name], tensor, atol=1e-6)), name


def test_diffusers_folder_and_shards(tmp_path: Path) -> None:
    source = tmp_path / "a.pth"
    torch.save(pixart(512), source)
    main(["import", str(source), "--heads", "2", "--out", str(tmp_path / "a.safetensors")])
    main(["export", str(tmp_path / "a.safetensors"), "--to", "diffusers",
          "--out", str(tmp_path / "folder")])  # fmt: skip
    ours = Weights.read(tmp_path / "a.safetensors")
    again = import_weights(open_source(tmp_path / "folder"))  # heads and size from its config
    assert again.card.config == ours.card.config
    assert again.card.modelspec["license"] == ours.card.modelspec["license"] == "agpl-3.0"
    state = load_file(tmp_path / "folder" / "diffusion_pytorch_model.safetensors")
    halves = dict(list(state.items())[::2]), dict(list(state.items())[1::2])
    index = {"weight_map": {}}
    for number, half in enumerate(halves):
        save_file(half, tmp_path / f"part{number}.safetensors")
        index["weight_map"] |= dict.fromkeys(half, f"part{number}.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    sharded = import_weights(open_source(path), Settings(heads=2, size=512))
    for name, tensor in ours.diffusion_model.items():
        assert torch.equal(sharded.diffusion_model[name], tensor), name


@settings(max_examples=25, deadline=None)
@given(
    width=st.sampled_from([8, 16, 24]),
    depth=st.integers(1, 3),
    text=st.integers(1, 9),
    tokens=st.integers(2, 7),
    size=st.sampled_from([32, 64, 256]),
)
def test_any_size_goes_there_and_back(tmp_path_factory, width, depth, text, tokens, size) -> None:
    path = tmp_path_factory.mktemp("a") / "a.safetensors"
    save_file(pixart(size, width, depth, text, tokens), path)
    weights = import_weights(open_source(path), HEADS)
    config = weights.card.config
    assert (config.width, config.depth, config.text_width) == (width, depth, text)
    assert config.null_text_tokens == tokens and weights.card.tasks[0]["height"] == [size, size]
    network(weights, torch.float32)  # every tensor has its place


def test_the_command_writes_a_checkpoint(tmp_path: Path, opensora: Path, capsys) -> None:
    out = tmp_path / "a.safetensors"
    command = ["import", str(opensora), "--heads", "2", "--dtype", "bf16", "--out", str(out)]
    main([*command, "--dry-run"])
    assert not out.exists() and "would write" in capsys.readouterr().out
    main(command)
    card, parts = read_checkpoint(out, verify=True)
    assert {t.dtype for t in parts["diffusion_model"].values()} == {torch.bfloat16}
    assert card.training["operations"][0]["parents"][0]  # the hash of what it came from
    with pytest.raises(SystemExit, match=r"is there already.*--overwrite"):
        main(command)


def test_a_full_disk_is_seen_before_and_a_failed_write_is_told(
    tmp_path: Path, opensora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.safetensors"
    command = ["import", str(opensora), "--heads", "2", "--out", str(out)]

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(SystemExit, match=r"a\.safetensors: could not be written: No space"):
            main(command)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(SystemExit, match=r"a\.safetensors: \d+ MB are needed, 0 MB are free"):
        main(command)
    assert not list(tmp_path.glob("*a.safetensors*"))


def test_an_ancestor_is_told_from_other_files(tmp_path: Path) -> None:
    save_file({"some.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    assert open_foreign(tmp_path / "other.safetensors") is None
    with pytest.raises(CheckpointError, match="is neither PixArt-alpha nor Open-Sora"):
        import_weights(open_source(tmp_path / "other.safetensors"))


BROKEN = {
    "missing": (lambda s: s.pop("blocks.1.mlp.fc2.bias"), r"1 missing \(blocks\.1\.mlp\.fc2\.bias"),
    "surplus": (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown \(extra\)"),
    "shape": (
        lambda s: s.update({"blocks.0.attn.proj.weight": torch.zeros(3, 3)}),
        r"blocks\.0\.attn\.proj\.weight is \(3, 3\), expected \(32, 32\)",
    ),
    "dtype": (
        lambda s: s.update({"t_block.1.bias": torch.zeros(192, dtype=torch.int64)}),
        r"t_block\.1\.bias is torch\.int64",
    ),
    "1024": (
        lambda s: s.update({"csize_embedder.mlp.0.weight": torch.zeros(2, 2)}),
        "is PixArt-alpha for 1024 pixels",
    ),
    "wide positions": (
        lambda s: s.update(pos_embed=torch.zeros(1, 4, 10**6)),
        r"pos_embed has shape \(1, 4, 1000000\): expected \(1, positions, 32\)",
    ),
    "no grid": (lambda s: s.update(pos_embed=torch.zeros(1, 6, 32)), "expected a square grid"),
    "huge grid": (lambda s: s.update(pos_embed=torch.zeros(1, 257**2, 32)), "up to 65,536"),
    "other positions": (lambda s: s.update(pos_embed=s["pos_embed"] + 0.1), "trained or made"),
    "null text": (
        lambda s: s.update({"y_embedder.y_embedding": torch.ones(())}),
        r"y_embedding is missing or no matrix, shape \(\)",
    ),
    "scalar": (
        lambda s: s.update({"final_layer.linear.bias": torch.ones(())}),
        r"final_layer\.linear\.bias is \(\), expected",
    ),
    "no size": (lambda s: s.pop("pos_embed"), "--size 256 or --size 512"),
    "no final": (lambda s: s.pop("final_layer.linear.bias"), r"final_layer\.linear\.bias"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_fit_is_named(tmp_path: Path, what: str) -> None:
    change, message = BROKEN[what]
    state = pixart()
    change(state)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=rf"a\.safetensors: .*{message}"):
        import_weights(open_source(tmp_path / "a.safetensors"), HEADS)


def test_heads_and_size_are_asked_for_where_nobody_knows(tmp_path: Path) -> None:
    save_file(pixart(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="how many heads a width of 32 has: --heads"):
        import_weights(open_source(tmp_path / "a.safetensors"))
    with pytest.raises(CheckpointError, match="those of 256 pixels, --size is 512"):
        import_weights(open_source(tmp_path / "a.safetensors"), Settings(heads=2, size=512))


def test_sigma_is_told_by_its_prompts_and_needs_its_own_latents(tmp_path: Path) -> None:
    save_file(pixart(tokens=300), tmp_path / "a.safetensors")
    source = open_source(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"looks like PixArt-Sigma.*--latents sdxl"):
        import_weights(source, HEADS)
    card = import_weights(source, replace(HEADS, latents="sdxl")).card
    assert card.latents == LATENT_SPACES["sdxl"] and card.text["max_tokens"] == 300
    assert card.modelspec["title"] == "PixArt-Sigma 256" and "license" not in card.modelspec


def test_only_a_baseline_goes_back(tmp_path: Path, opensora: Path) -> None:
    weights = import_weights(open_source(opensora), HEADS)
    config = replace(weights.card.config, sandwich_norm=True)
    changed = replace(weights, card=replace(weights.card, config=config))
    with pytest.raises(ValueError, match="sandwich_norm is True"):
        export_tensors(changed, "original")
    with pytest.raises(ValueError, match="diffusers has no names"):
        export_tensors(weights, "diffusers")


def test_numbers_too_large_for_the_dtype_are_named(tmp_path: Path) -> None:
    state = pixart()
    state["blocks.1.mlp.fc2.weight"][0, 0] = 1e5
    save_file(state, tmp_path / "a.safetensors")
    command = ["import", str(tmp_path / "a.safetensors"), "--heads", "2", "--out"]
    with pytest.raises(SystemExit, match=r"blocks\.1\.mlp\.fc2\.weight .* too large for .*float16"):
        main([*command, str(tmp_path / "b.safetensors"), "--dtype", "fp16"])
    broken = state | {"blocks.1.mlp.fc2.weight": torch.full((32, 128), torch.nan)}
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(SystemExit, match=r"blocks\.1\.mlp\.fc2\.weight holds NaN or infinity"):
        main(["import", str(tmp_path / "broken.safetensors"), *command[2:],
              str(tmp_path / "b.safetensors")])  # fmt: skip
    assert not (tmp_path / "b.safetensors").exists()
    main([*command, str(tmp_path / "b.safetensors"), "--dtype", "bf16"])
