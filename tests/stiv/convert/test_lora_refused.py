"""LoRA files that do not fit, and what the forms have no place for: refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stiv.convert.cli import main
from stiv.convert.lora.forms import stored_tensors
from stiv.convert.lora.merge import model_shapes
from stiv.convert.lora.reading import read_lora, understand
from stiv.header import CheckpointError

from .loras import QKV, checkpoint, draw, written

STEM = f"diffusion_model.{QKV}"
A, B = f"{STEM}.lora_A.weight", f"{STEM}.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.clear(), "holds no tensors of a LoRA"),
        (lambda t: t.pop(B), "lora_A.weight has no partner"),
        (lambda t: t.update({A: draw(3, 24)}), r"lora_A.weight \(3, 24\).*are no pair"),
        (lambda t: t.update({A: draw(4, 25)}), r"shape \(72, 25\), the model's is \(72, 24\)"),
        (lambda t: t.update({B: draw(71, 4)}), r"shape \(71, 24\), the model's is"),
        (lambda t: t.update({A: draw(0, 24), B: draw(72, 0)}), "are no pair"),
        (lambda t: t.update({A: draw(4, 24).long()}), r"is torch.int64: expected floating"),
        (lambda t: t.update({f"{STEM}.alpha": torch.ones(2)}), r"shape \(2,\): expected one"),
        (lambda t: t.update({f"{STEM}.alpha": torch.tensor(torch.nan)}), "is nan"),
        (lambda t: t.update({f"{QKV}.lora_down.weight": t[A].clone()}), "both are the down"),
        (lambda t: t.update({"patch_embed.alpha": torch.ones(())}), "comes without factors"),
        (lambda t: t.update({f"{STEM}.dora_scale": draw(5, 1)}), r"expected \(72,\) or \(1, 24"),
        (lambda t: t.update({f"{QKV}.diff_b": draw(70)}), r"of shape \(70,\)"),
        (
            lambda t: t.update({"blocks.7.mlp.fc1.alpha": torch.ones(()), "odd": torch.ones(2)}),
            r"2 of its 4 tensors mean nothing to this model \(.*blocks.7.*odd.*--skip-unknown",
        ),
        (lambda t: t.update({"lora_unet_mid.hada_w1_a": draw(2)}), "LoHa is not read"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change, message: str) -> None:
    tensors = {A: draw(4, 24), B: draw(72, 4)}
    change(tensors)
    path = tmp_path / "odd.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) as error:
        read_lora(path, model_shapes(checkpoint().diffusion_model))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_alpha_is_stated_once(tmp_path: Path) -> None:
    """Any number will do, as some trainers store integers; but not two of them."""
    tensors = {A: draw(4, 24), B: draw(72, 4)}
    save_file(tensors, tmp_path / "a.safetensors")
    save_file({**tensors, f"{STEM}.alpha": torch.tensor(8)}, tmp_path / "b.safetensors")
    assert read_lora(tmp_path / "a.safetensors", alpha=2).alpha(f"{QKV}.weight") == 2
    assert read_lora(tmp_path / "b.safetensors").alpha(f"{QKV}.weight") == 8
    with pytest.raises(CheckpointError, match="every layer states an alpha itself"):
        read_lora(tmp_path / "b.safetensors", alpha=2)
    with pytest.raises(ValueError, match="alpha is -1"):
        read_lora(tmp_path / "a.safetensors", alpha=-1)


def test_weights_that_would_not_be_finite_are_not_written(tmp_path: Path) -> None:
    written(tmp_path / "base.safetensors")
    odd = draw(4, 24)
    odd[0, 0] = torch.nan
    save_file({A: odd, B: draw(72, 4)}, tmp_path / "a.safetensors")
    out = tmp_path / "merged.safetensors"
    with pytest.raises(SystemExit, match=r"qkv\.weight is no longer finite .* a\.safetensors"):
        main([
            "lora", "merge", f"{tmp_path}/base.safetensors", f"{tmp_path}/a.safetensors",
            "--out", f"{out}",
        ])  # fmt: skip
    assert not list(tmp_path.glob("*merged*"))
    save_file({A: torch.full((4, 24), 1e6), B: draw(72, 4)}, tmp_path / "large.safetensors")
    convert = ["lora", "convert", f"{tmp_path}/large.safetensors", "--out", f"{out}"]
    with pytest.raises(SystemExit, match=r"large\.safetensors: .*lora_A\.weight is not finite in"):
        main([*convert, "--dtype", "fp16"])
    assert not list(tmp_path.glob("*merged*"))
    main(convert)


def test_unreadable_metadata_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({A: draw(4, 24), B: draw(72, 4)}, path, metadata={"stiv.lora": "{"})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: has unreadable LoRA metadata"):
        read_lora(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "1", "2"], "2 numbers for 1 LoRAs"),
        (["--strength", "nan"], "expected a number from -100"),
    ],
)
def test_strengths_are_checked(tmp_path: Path, options: list[str], message: str) -> None:
    out = f"{tmp_path}/out.safetensors"
    with pytest.raises(SystemExit, match=message):
        main(["lora", "merge", "no.safetensors", "no.safetensors", *options, "--out", out])


def test_unknown_tensors_are_listed_when_skipped(tmp_path: Path, capsys) -> None:
    save_file(
        {A: draw(4, 24), B: draw(72, 4), "odd.lora_A.weight": draw(2, 2)},
        tmp_path / "a.safetensors",
    )
    command = ["lora", "convert", f"{tmp_path}/a.safetensors", "--out", f"{tmp_path}/b.safetensors"]
    with pytest.raises(SystemExit, match="1 of its 3 tensors mean nothing to a STIV model"):
        main(command)
    assert not (tmp_path / "b.safetensors").exists()
    main([*command, "--skip-unknown"])
    assert "left out: 1 tensors" in (out := capsys.readouterr().out) and "odd.lora_A.weight" in out
    assert len(load_file(tmp_path / "b.safetensors")) == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is no valid JSON"),
        ("[]", "is no table"),
        ('{"peft_type": "LOHA", "lora_alpha": 1}', "is a LOHA of PEFT"),
        ('{"lora_alpha": "8"}', r"gives the alphas \['8'\]"),
        ('{"lora_alpha": 8, "alpha_pattern": {"(a+)+": 2}}', r"by the pattern '\(a\+\)\+'"),
        ('{"lora_alpha": 8, "fan_in_fan_out": true}', "transposed"),
    ],
)
def test_odd_peft_configs_are_refused(tmp_path: Path, config: str, message: str) -> None:
    save_file({A: draw(4, 24), B: draw(72, 4)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        read_lora(tmp_path)


def test_what_a_form_has_no_place_for_is_refused() -> None:
    table = {"diffusion_model.blocks.0.modulation_table.diff": draw(6, 24)}
    assert set(stored_tensors(understand(table), "comfy")) == set(table)
    with pytest.raises(ValueError, match="modulation_table is no layer, kohya's form"):
        stored_tensors(understand(table), "kohya")
    with pytest.raises(ValueError, match="modulation_table has a difference without factors"):
        stored_tensors(understand(table), "peft")
    both = {A: draw(4, 24), B: draw(72, 4), f"diffusion_model.{QKV}.diff": draw(72, 24)}
    with pytest.raises(ValueError, match="has both factors and a difference"):
        stored_tensors(understand(both), "comfy")


def test_a_folder_of_peft_s_has_its_names(tmp_path: Path) -> None:
    save_file({A: draw(4, 24), B: draw(72, 4)}, tmp_path / "a.safetensors")
    command = ["lora", "convert", f"{tmp_path}/a.safetensors", "--form", "peft", "--out"]
    with pytest.raises(SystemExit, match=r"only files of the name adapter_model\.safetensors"):
        main([*command, f"{tmp_path}/b.safetensors"])
    (folder := tmp_path / "style").mkdir()
    main([*command, f"{folder}/adapter_model.safetensors", "--dry-run"])
    assert not list(folder.iterdir())
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"adapter_config\.json: is there already"):
        main([*command, f"{folder}/adapter_model.safetensors"])


def test_metadata_is_kept_and_completed(tmp_path: Path) -> None:
    from safetensors import safe_open

    base = written(tmp_path / "base.safetensors")
    said = {"modelspec.title": "Ink", "modelspec.license": "MIT", "ss_steps": "900"}
    save_file({A: draw(4, 24), B: draw(72, 4)}, tmp_path / "a.safetensors", metadata=said)
    main([
        "lora", "convert", f"{tmp_path}/a.safetensors", "--dtype", "fp16", "--alpha", "2",
        "--base", f"{tmp_path}/base.safetensors", "--out", f"{tmp_path}/b.safetensors",
    ])  # fmt: skip
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert {key: metadata[key] for key in said} == said
    assert metadata["modelspec.architecture"] == "stiv/lora"
    assert json.loads(metadata["stiv.lora"]) == {
        "format": "1", "rank": 4, "alpha": 2.0, "base": base.card.tensor_hash,
        "converted": {"file": "a.safetensors", "form": "ComfyUI"},
    }  # fmt: skip
    tensors = load_file(tmp_path / "b.safetensors")
    assert (tensors[A].dtype, float(tensors[f"{STEM}.alpha"])) == (
        torch.float16,
        2.0,
    )
