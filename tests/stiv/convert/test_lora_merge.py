"""LoRAs merged into checkpoints, against the trainer and the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stiv.convert.cli import main
from stiv.convert.lora.forms import stored_tensors
from stiv.convert.lora.merge import merge, model_shapes
from stiv.convert.lora.reading import read_lora, understand
from stiv.convert.weights import Weights
from stiv.tensor_file import tensor_hash
from training.lora import add_lora, save_lora

from .loras import QKV, changes, checkpoint, close, draw, network, written


def test_merges_what_the_trainer_trained(tmp_path: Path) -> None:
    model = network().requires_grad_(True)
    add_lora(model, 4, 2.0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data = draw(*parameter.shape, dtype=torch.float32) * 0.3
    save_lora(tmp_path / "a.safetensors", model, {"base": "0" * 64, "steps": 1})
    base = checkpoint()
    lora = read_lora(tmp_path / "a.safetensors", model_shapes(base.diffusion_model))
    assert lora.form == "ComfyUI"
    merged = merge(base, [(lora, 1.0)]).diffusion_model
    expected = dict(base.diffusion_model)
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):  # peft's own sum
            key = f"{name}.weight"
            expected[key] = expected[key] + layer.get_delta_weight("default").detach()
    assert merged.keys() == expected.keys()
    assert all(close(merged[name], expected[name]) for name in expected)
    assert not torch.equal(merged[f"{QKV}.weight"], base.diffusion_model[f"{QKV}.weight"])


def test_strengths_order_and_rounding(tmp_path: Path) -> None:
    """Two LoRAs on a layer in bfloat16: summed wide, rounded once."""
    weights = written(tmp_path / "base.safetensors", dtype=torch.bfloat16)
    loras = []
    for i in range(2):
        stem = f"diffusion_model.{QKV}"
        state = {
            f"{stem}.lora_A.weight": draw(3, 24, seed=i, dtype=torch.float32),
            f"{stem}.lora_B.weight": draw(72, 3, seed=5 + i, dtype=torch.float32),
            f"{stem}.alpha": torch.tensor(1.5),
            "diffusion_model.blocks.1.modulation_table.diff": draw(6, 24, dtype=torch.float32),
            f"{stem}.diff_b": draw(72, dtype=torch.float32),
        }
        save_file(state, tmp_path / f"{i}.safetensors")
        loras.append(state)
    out = tmp_path / "merged.safetensors"
    paths = [f"{tmp_path}/{i}.safetensors" for i in range(2)]
    command = ["lora", "merge", f"{tmp_path}/base.safetensors", *paths, "--strength", "0.5", "-2"]
    main([*command, "--out", f"{out}"])
    merged = Weights.read(out)
    base = {name: tensor.double() for name, tensor in weights.diffusion_model.items()}
    for strength, state in zip((0.5, -2), loras, strict=True):
        for name, added in changes(state, base).items():
            base[name] = base[name] + strength * added
    found, before = merged.diffusion_model, weights.diffusion_model
    changed = {name for name in base if not torch.equal(found[name], before[name])}
    assert changed == {f"{QKV}.weight", f"{QKV}.bias", "blocks.1.modulation_table"}
    for name, exact in base.items():
        assert found[name].dtype == torch.bfloat16
        # rounded once: off by at most half a unit in the last of 8 bits (and float32's error)
        assert ((found[name] - exact).abs() <= exact.abs() / 255).all()
    entry = merged.card.training["operations"][-1]
    assert entry["operation"] == "lora merge"
    assert [row["strength"] for row in entry["loras"]] == [0.5, -2.0]
    assert entry["parents"] == [weights.card.tensor_hash, *map(tensor_hash, loras)]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_on_either_side(dtype: torch.dtype) -> None:
    """Weights that were cast without scales, and factors in few bits, shares and differences."""
    stem = "transformer.transformer_blocks.0.attn2"
    state = {
        f"{stem}.to_k.lora_A.weight": draw(2, 24).to(dtype),
        f"{stem}.to_k.lora_B.weight": draw(24, 2).to(dtype),
        f"{stem}.to_v.diff_b": draw(24).to(dtype),
    }
    base = checkpoint(dtype=torch.float16)
    cast = {name: tensor.to(dtype) for name, tensor in base.diffusion_model.items()}
    stored = dict(stored_tensors(understand(state), "comfy"))
    assert {t.dtype for key, t in stored.items() if not key.endswith("alpha")} == {dtype}
    merged = merge(Weights(base.card, cast), [(understand(stored), 1.0)]).diffusion_model
    for name, added in changes(state, base.diffusion_model).items():
        exact = cast[name].double() + added
        assert torch.equal(merged[name].float(), exact.float().to(dtype).float())
    assert not torch.equal(added, torch.zeros_like(added))


def test_dora_of_columns_sets_their_norms() -> None:
    """As LyCORIS trains it: the columns of the changed weight get the norms that were learned."""
    weight, down, up = draw(5, 7), draw(2, 7, seed=1), draw(5, 2, seed=2)
    magnitude = draw(1, 7, seed=3).abs()
    stem = "diffusion_model.blocks.0.mlp.fc1"
    state = {
        f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(1.0), f"{stem}.dora_scale": magnitude,
    }  # fmt: skip
    lora = understand(state)
    changed = weight.clone()
    lora.apply("blocks.0.mlp.fc1.weight", changed)
    whole = weight + 0.5 * up @ down
    assert close(changed, whole * magnitude / whole.norm(dim=0), 1e-12)
    assert torch.equal(stored_tensors(lora, "comfy")[f"{stem}.dora_scale"], magnitude)
    half = weight.clone()
    lora.apply("blocks.0.mlp.fc1.weight", half, 0.5)
    assert close(half, (weight + changed) / 2, 1e-12)


def test_dora_of_rows_is_merged_but_not_converted() -> None:
    stem = "base_model.model.blocks.0.mlp.fc1"
    state = {
        f"{stem}.lora_A.weight": draw(2, 7), f"{stem}.lora_B.weight": draw(5, 2),
        f"{stem}.lora_magnitude_vector": draw(5).abs(),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.fc1\.weight has norms of its rows"):
        stored_tensors(understand(state), "comfy")
