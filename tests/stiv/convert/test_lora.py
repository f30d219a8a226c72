"""LoRAs read, converted and merged, against PEFT, diffusers and the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from stiv.convert.cli import main
from stiv.convert.foreign import Settings, import_weights
from stiv.convert.lora.forms import stored_tensors
from stiv.convert.lora.merge import merge, model_shapes
from stiv.convert.lora.reading import read_lora, understand
from stiv.convert.source import open_source
from stiv.header import CheckpointError

from .loras import QKV, changes, checkpoint, close, draw, network, with_peft

# --- PEFT as the oracle --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"fc1": 2}, "alpha_pattern": {"kv": 1.5, "blocks.1.mlp.fc1": 9}},
        {"lora_bias": True},
        {"use_dora": True},
    ],
    ids=lambda said: "-".join(said) or "plain",
)
@pytest.mark.filterwarnings("ignore:.*invalid shape")  # lora_B.bias is 1-D by right
def test_merges_what_peft_merges(tmp_path: Path, said: dict) -> None:
    wrapped = with_peft(network(), **said)
    wrapped.save_pretrained(tmp_path / "style")
    base = checkpoint()
    lora = read_lora(tmp_path / "style", model_shapes(base.diffusion_model))
    assert not lora.notes
    merged = merge(base, [(lora, 1.0)]).diffusion_model
    expected = wrapped.merge_and_unload().state_dict()
    assert set(merged) == set(expected)
    changed = [
        name for name in expected if not torch.equal(expected[name], base.diffusion_model[name])
    ]
    assert set(changed) == set(lora.shapes)
    assert all(close(merged[name], expected[name]) for name in expected)


def test_peft_loads_what_is_written_for_it(tmp_path: Path) -> None:
    """From kohya's names and unequal ranks to a folder that PEFT opens by itself."""
    state = {}
    for i, layer in enumerate(("patch_embed", QKV, "decoder_blocks.0.mlp.fc2")):
        rows, columns = network().get_submodule(layer).weight.shape
        stem = "lora_unet_" + layer.replace(".", "_")
        state[f"{stem}.lora_down.weight"] = draw(2 + i, columns, dtype=torch.float32)
        state[f"{stem}.lora_up.weight"] = draw(rows, 2 + i, dtype=torch.float32)
        state[f"{stem}.alpha"] = torch.tensor(1.0 + (i > 1))
    save_file(state, tmp_path / "kohya.safetensors")
    (tmp_path / "peft").mkdir()
    out = tmp_path / "peft" / "adapter_model.safetensors"
    main(["lora", "convert", f"{tmp_path}/kohya.safetensors", "--form", "peft", "--out", f"{out}"])
    found = PeftModel.from_pretrained(network(), out.parent).merge_and_unload().state_dict()
    base = network().state_dict()
    added = changes(state, base)
    assert all(close(found[name], base[name] + added[name]) for name in added)


# --- ancestors -----------------------------------------------------------------------------------


def tiny_diffusers(path: Path):
    """diffusers' PixArt of random weights, saved, and the same as a STIV checkpoint."""
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, caption_channels=12, sample_size=16, patch_size=2,
    ).requires_grad_(False)  # fmt: skip
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(path)
    return model, import_weights(open_source(path), Settings(heads=2))


def test_a_diffusers_lora_of_pixart_is_the_same_on_our_layers(tmp_path: Path) -> None:
    """Adapted and merged by PEFT, then imported; against imported, then merged here."""
    model, base = tiny_diffusers(tmp_path / "pixart")
    targets = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj", "linear",
               "linear_1", "linear_2", "proj_out"]  # fmt: skip
    wrapped = with_peft(model, target_modules=targets, alpha_pattern={"to_v": 2.5})
    wrapped.save_pretrained(tmp_path / "lora")
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = import_weights(open_source(tmp_path / "merged"), Settings(heads=2)).diffusion_model
    lora = read_lora(tmp_path / "lora", model_shapes(base.diffusion_model))
    assert lora.rank(f"{QKV}.weight") == 12
    merged = merge(base, [(lora, 1.0)]).diffusion_model
    assert all(close(merged[name], expected[name]) for name in expected)
    assert sum(not torch.equal(merged[n], base.diffusion_model[n]) for n in merged) == 21
    stored = dict(stored_tensors(lora, "comfy"))
    added = changes(stored, dict(base.diffusion_model))
    assert all(close(base.diffusion_model[n] + added[n], expected[n]) for n in added)


def test_diffusers_says_alpha_in_its_metadata(tmp_path: Path) -> None:
    """As `save_lora_weights` of a pipeline writes it, with the config of PEFT packed in."""
    from diffusers.loaders.lora_base import LoraBaseMixin

    model, base = tiny_diffusers(tmp_path / "pixart")
    wrapped = with_peft(model, target_modules=["to_q", "to_v"], lora_alpha=10)
    layers = get_peft_model_state_dict(wrapped)
    LoraBaseMixin._save_lora_weights(
        tmp_path,
        {"transformer": {k.removeprefix("base_model.model."): v for k, v in layers.items()}},
        {"transformer": wrapped.peft_config["default"].to_dict()},
    )
    lora = read_lora(tmp_path / "pytorch_lora_weights.safetensors")
    assert lora.form == "diffusers"
    assert {pair.scale for pairs in lora.pairs.values() for pair in pairs} == {10 / 4}
    merged = merge(base, [(lora, 1.0)]).diffusion_model
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = import_weights(open_source(tmp_path / "merged"), Settings(heads=2)).diffusion_model
    assert all(close(merged[name], expected[name]) for name in expected)


def test_a_lora_of_a_convolution_is_one_of_its_matrix() -> None:
    base = {"patch_embed.weight": torch.zeros(8, 16)}
    down, up = draw(3, 4, 2, 2), draw(8, 3, 1, 1)
    stem = "lora_unet_x_embedder_proj"
    state = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    added = changes(state, base)["patch_embed.weight"]
    whole = torch.einsum("or,rchw->ochw", up[:, :, 0, 0], down)
    assert close(added, whole.flatten(1), 1e-12)


def test_the_variance_s_rows_are_left_out() -> None:
    base = {"final.linear.weight": torch.zeros(16, 6), "final.linear.bias": torch.zeros(16)}
    stem = "base_model.model.final_layer.linear"
    up, down, bias = draw(32, 2), draw(2, 6), draw(32)
    state = {f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down, f"{stem}.diff_b": bias}
    added = changes(state, base)
    # rows are (pixel, channel): of 8 channels the first 4 are the noise
    rows = [8 * pixel + channel for pixel in range(4) for channel in range(4)]
    assert close(added["final.linear.weight"], (up @ down)[rows], 1e-12)
    assert torch.equal(added["final.linear.bias"], bias[rows])
    with pytest.raises(ValueError, match=r"last layer.*--base"):
        understand(state)


def test_a_pickled_lora_is_read_without_running_its_code(tmp_path: Path) -> None:
    stem = "unet.transformer_blocks.0.attn1.processor.to_out_lora"
    state = {f"{stem}.down.weight": draw(2, 8), f"{stem}.up.weight": draw(8, 2)}
    torch.save(state, tmp_path / "pytorch_lora_weights.bin")
    lora = read_lora(tmp_path / "pytorch_lora_weights.bin")
    changed = torch.zeros(8, 8, dtype=torch.float64)
    lora.apply("blocks.0.spatial_attn.proj.weight", changed)
    assert close(changed, state[f"{stem}.up.weight"] @ state[f"{stem}.down.weight"], 1e-12)
    torch.save({**state, "run": print}, tmp_path / "odd.bin")
    with pytest.raises(CheckpointError, match="could run code"):
        read_lora(tmp_path / "odd.bin")


# --- shares of a layer ---------------------------------------------------------------------------

SHARES = st.dictionaries(
    st.sampled_from(["to_q", "to_k", "to_v"]),
    st.tuples(st.integers(1, 5), st.none() | st.floats(0.25, 8, width=16)),
    min_size=1,
)


@settings(deadline=None)
@given(SHARES, st.integers(1, 6), st.integers(1, 7), st.sampled_from(["comfy", "kohya"]))
def test_shares_become_one_layer(shares: dict, width: int, columns: int, form: str) -> None:
    """Against the dense sum of every share's product, in its rows."""
    state, dense = {}, torch.zeros(3 * width, columns, dtype=torch.float64)
    for i, (name, (rank, alpha)) in enumerate(shares.items()):
        stem = f"transformer.transformer_blocks.1.attn1.{name}"
        down, up = draw(rank, columns, seed=i), draw(width, rank, seed=9 + i)
        state |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        if alpha is not None:
            state[f"{stem}.alpha"] = torch.tensor(alpha)
        first = ["to_q", "to_k", "to_v"].index(name) * width
        scale = 1.0 if alpha is None else alpha / rank
        dense[first : first + width] += scale * up @ down
    target = "blocks.1.spatial_attn.qkv.weight"
    base = {target: torch.zeros(3 * width, columns)}
    stored = dict(stored_tensors(understand(state, model_shapes(base)), form))
    assert len(stored) == 3
    assert stored[next(iter(stored))].shape == (sum(rank for rank, _ in shares.values()), columns)
    assert close(changes(stored, base)[target], dense, 1e-6)  # alpha is stored in float32


def test_factors_are_kept_bit_for_bit_where_shares_are_scaled_alike() -> None:
    state = {}
    for i, name in enumerate(("to_k", "to_v")):
        stem = f"transformer.transformer_blocks.0.attn2.{name}"
        state[f"{stem}.lora_A.weight"] = draw(4, 6, seed=i).bfloat16()
        state[f"{stem}.lora_B.weight"] = draw(5, 4, seed=i).bfloat16()
        state[f"{stem}.alpha"] = torch.tensor(2.0)
    stored = stored_tensors(understand(state), "comfy")
    stem = "diffusion_model.blocks.0.cross_attn.kv"
    down, up = stored[f"{stem}.lora_A.weight"], stored[f"{stem}.lora_B.weight"]
    assert (down.dtype, up.dtype, float(stored[f"{stem}.alpha"])) == (torch.bfloat16,) * 2 + (4.0,)
    for i, name in enumerate(("to_k", "to_v")):
        foreign = f"transformer.transformer_blocks.0.attn2.{name}"
        rows, ranks = slice(5 * i, 5 * i + 5), slice(4 * i, 4 * i + 4)
        assert torch.equal(down[ranks], state[f"{foreign}.lora_A.weight"])
        assert torch.equal(up[rows, ranks], state[f"{foreign}.lora_B.weight"])
    assert up.count_nonzero() == 2 * 5 * 4
    state["transformer.transformer_blocks.0.attn2.to_v.alpha"] = torch.tensor(1.0)
    uneven = stored_tensors(understand(state), "comfy")
    assert uneven[f"{stem}.lora_B.weight"].dtype == torch.float32
