"""LoRAs extracted from the difference of two checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stiv.convert.cli import main
from stiv.convert.lora.extract import best_factors, extract
from stiv.convert.lora.merge import merge
from stiv.convert.lora.reading import understand
from stiv.convert.weights import Weights

from .loras import QKV, changes, checkpoint, close, draw, network, written


def tuned_by(rank: int, base: dict[str, Tensor], layers: list[str]) -> dict[str, Tensor]:
    """The base with a random change of the rank in each layer."""
    tuned = dict(base)
    for i, layer in enumerate(layers):
        rows, columns = base[f"{layer}.weight"].shape
        change = draw(rows, rank, seed=i) @ draw(rank, columns, seed=50 + i)
        tuned[f"{layer}.weight"] = base[f"{layer}.weight"] + 0.1 * change
    return tuned


@pytest.mark.parametrize("is_fast", [False, True])
def test_what_a_lora_of_the_rank_changed_is_found_again(is_fast: bool) -> None:
    base = network(dtype=torch.float64).state_dict()
    layers = [QKV, "blocks.1.mlp.fc1", "patch_embed", "final.linear"]
    tuned = tuned_by(3, base, layers)
    found = extract(tuned, base, 3, dtype=torch.float64, is_fast=is_fast)
    assert len(found.tensors) == 3 * len(layers)
    added = changes(found.tensors, base)
    for name in tuned:
        assert close(base[name] + added.get(name, 0), tuned[name], 1e-12), name
    assert found.kept == pytest.approx(1, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_no_product_of_the_rank_is_nearer(rows: int, columns: int, rank: int, seed: int) -> None:
    """Eckart and Young: what is left are the singular values after the first `rank`."""
    change = draw(rows, columns, seed=seed)
    down, up = best_factors(change, rank)
    assert down.shape == (min(rank, rows, columns), columns) and up.shape[0] == rows
    left = torch.linalg.svdvals(change)[rank:].square().sum().sqrt()
    assert float((change - up @ down).norm() - left) < 1e-9
    assert torch.allclose(down.norm(dim=1), up.norm(dim=0), atol=1e-9)


def test_the_fast_way_is_nearly_as_near() -> None:
    """On nothing but noise, where singular values fall most slowly."""
    change = draw(300, 200, dtype=torch.float32)
    values = torch.linalg.svdvals(change).square()
    for rank in (4, 32):
        down, up = best_factors(change, rank, is_fast=True)
        again = best_factors(change, rank, is_fast=True)
        assert torch.equal(down, again[0]) and torch.equal(up, again[1])
        kept = 1 - float((change - up @ down).norm() ** 2 / values.sum())
        best = float(values[:rank].sum() / values.sum())
        assert 0.98 * best < kept <= best + 1e-5


def test_shares_of_the_difference_add_up() -> None:
    base, tuned = network().state_dict(), network(seed=1).state_dict()
    found = extract(tuned, base, 5, layers=["qkv"])
    assert {key.rsplit(".", 2)[0] for key in found.tensors if key.endswith(".weight")} == {
        f"diffusion_model.{block}.{kind}_attn.qkv"
        for block in ("blocks.0", "blocks.1", "decoder_blocks.0")
        for kind in ("spatial", "temporal")
    }
    by_name = {fit.name: fit for fit in found.fits}
    assert set(by_name) == set(base)
    kept = total = 0.0
    for name, fit in by_name.items():
        change = (tuned[name] - base[name]).double()
        values = torch.linalg.svdvals(change) if fit.is_stored else torch.zeros(6)
        assert fit.size == pytest.approx(float(change.norm()), rel=1e-5)
        assert fit.relative == pytest.approx(fit.size / float(base[name].norm()), rel=1e-5)
        share = float(values[:5].square().sum() / change.square().sum())
        assert fit.kept == pytest.approx(share, abs=1e-5)
        kept, total = kept + fit.kept * fit.size**2, total + fit.size**2
    assert found.kept == pytest.approx(kept / total)


def test_full_differences_make_the_whole_model() -> None:
    """At full rank, with biases, norms and tables, the tuned model comes back."""
    base, tuned = checkpoint(), checkpoint(seed=1)
    found = extract(tuned.diffusion_model, base.diffusion_model, 999, full_diff=True)
    lora = understand(found.tensors)
    merged = merge(base, [(lora, 1.0)]).diffusion_model
    for name, tensor in tuned.diffusion_model.items():
        assert close(merged[name], tensor, 1e-5), name
    assert set(lora.shapes) == set(base.diffusion_model)


def test_the_command_reports_and_writes(tmp_path: Path, capsys) -> None:
    base = written(tmp_path / "base.safetensors", dtype=torch.bfloat16)
    tensors = tuned_by(2, dict(base.diffusion_model), [QKV, "blocks.0.mlp.fc1"])
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    tensors["mask_token"] = tensors["mask_token"] + 1
    Weights(base.card, tensors).write(tmp_path / "tuned.safetensors")
    tuned = Weights.read(tmp_path / "tuned.safetensors")
    out = tmp_path / "lora.safetensors"
    command = ["lora", "extract", f"{tmp_path}/tuned.safetensors", f"{tmp_path}/base.safetensors"]
    main([*command, "--rank", "2", "--out", f"{out}"])
    said = capsys.readouterr().out
    assert f"{QKV}.weight: changed by" in said and "  mask_token: changed by" in said
    with safe_open(out, framework="pt") as file:
        noted = json.loads(file.metadata()["stiv.lora"])
    assert (noted["base"], noted["extracted_from"]) == (
        base.card.tensor_hash,
        tuned.card.tensor_hash,
    )
    assert 0.4 < noted["kept"] < 1
    stored = load_file(out)
    assert {t.dtype for k, t in stored.items() if "lora_" in k} == {torch.bfloat16}
    assert len(stored) == 6
    main(["lora", "info", f"{out}", "--base", f"{tmp_path}/base.safetensors"])
    said = capsys.readouterr().out
    assert "layers: 2 of rank 2" in said and f"base: {base.card.tensor_hash}" in said
    assert "every shape agrees" in said
    with pytest.raises(SystemExit, match="do not differ in these layers"):
        main([*command, "--rank", "2", "--layers", "kv", "--out", f"{tmp_path}/b.safetensors"])


def test_what_cannot_be_extracted_is_refused() -> None:
    base = network().state_dict()
    with pytest.raises(ValueError, match="rank is 0"):
        extract(base, base, 0)
    with pytest.raises(ValueError, match="'to_q' is no linear layer"):
        extract(base, base, 1, layers=["to_q"])
    other = dict(base)
    other["patch_embed.weight"] = torch.zeros(24, 64)
    del other["mask_token"]
    with pytest.raises(ValueError, match=r"not of one shape: 1 missing \(mask_token\); 1 of the"):
        extract(other, base, 1)
    with pytest.raises(ValueError, match=r"final\.linear\.bias holds values that are NaN"):
        extract({**base, "final.linear.bias": torch.full((32,), torch.nan)}, base, 1)
    far = {**base, "patch_embed.weight": base["patch_embed.weight"] + 1e12}
    with pytest.raises(ValueError, match=r"patch_embed\.weight is too large for torch\.float16"):
        extract(far, base, 1, dtype=torch.float16)
