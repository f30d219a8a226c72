"""Names of LoRA tensors: every trainer's name of a layer is known, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stiv.config import MODELS
from stiv.convert.lora.keys import FORMS, Place, factor_keys, form_of, matching, parse, place_of
from stiv.convert.names import foreign_layers
from stiv.shapes import expected_shapes

LAYER = "blocks.3.cross_attn.kv"
KV = Place(f"{LAYER}.weight")


@pytest.mark.parametrize(
    "stem",
    [
        LAYER,
        f"diffusion_model.{LAYER}",
        f"model.diffusion_model.{LAYER}",
        f"transformer.{LAYER}",
        f"base_model.model.{LAYER}",
        f"base_model.model.diffusion_model.{LAYER}",
        f"unet.{LAYER}",
        f"unet.base_model.model.{LAYER}",
        "lora_unet_blocks_3_cross_attn_kv",
        "lora_transformer_blocks_3_cross_attn_kv",
        "lycoris_blocks_3_cross_attn_kv",
    ],
)
def test_wrappers_mean_the_same_layer(stem: str) -> None:
    assert place_of(stem) == KV


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_A.style_2.weight", ".lora_B.style_2.weight"),
        (".lora_A", ".lora_B"),
        (".lora_down.weight", ".lora_up.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
    ],
)
def test_ends_of_factors(down: str, up: str) -> None:
    assert parse(LAYER + down) == (LAYER, "down")
    assert parse(LAYER + up) == (LAYER, "up")


@pytest.mark.parametrize(
    ("end", "role"),
    [
        (".alpha", "alpha"),
        (".diff", "diff"),
        (".w_norm", "diff"),
        (".diff_b", "bias_diff"),
        (".b_norm", "bias_diff"),
        (".lora_B.bias", "up_bias"),
        (".lora_B.default.bias", "up_bias"),
        (".dora_scale", "magnitude"),
        (".lora_magnitude_vector", "magnitude"),
        (".lora_magnitude_vector.weight", "magnitude"),
        (".lora_magnitude_vector.default.weight", "magnitude"),
    ],
)
def test_other_ends(end: str, role: str) -> None:
    assert parse(LAYER + end) == (LAYER, role)


@pytest.mark.parametrize(
    ("theirs", "tensor", "part", "parts"),
    [
        ("transformer_blocks.2.attn1.to_k", "blocks.2.spatial_attn.qkv.weight", 1, 3),
        ("transformer_blocks.2.attn2.to_v", "blocks.2.cross_attn.kv.weight", 1, 2),
        ("transformer_blocks.2.attn1.processor.to_v", "blocks.2.spatial_attn.qkv.weight", 2, 3),
        ("transformer_blocks.2.attn1.processor.to_out", "blocks.2.spatial_attn.proj.weight", 0, 1),
        ("transformer_blocks.2.ff.net.0.proj", "blocks.2.mlp.fc1.weight", 0, 1),
        ("transformer_blocks.2.scale_shift_table", "blocks.2.modulation_table", 0, 1),
        ("blocks.2.attn_temp.qkv", "blocks.2.temporal_attn.qkv.weight", 0, 1),
        ("caption_projection.linear_2", "text_embed.fc2.weight", 0, 1),
        ("y_embedder.y_proj.fc2", "text_embed.fc2.weight", 0, 1),
    ],
)
def test_layers_of_ancestors(theirs: str, tensor: str, part: int, parts: int) -> None:
    expected = Place(tensor, part, parts, is_foreign=True)
    assert place_of(f"transformer.{theirs}") == expected
    if "processor" not in theirs:
        assert place_of("lora_unet_" + theirs.replace(".", "_")) == expected


def test_every_layer_is_found_by_every_name() -> None:
    """Those of all our models, and all that `stiv.convert.names` lists."""
    for config in MODELS.values():
        for name in expected_shapes(config):
            layer = name.removesuffix(".weight")
            assert place_of(f"diffusion_model.{layer}") == Place(name)
            assert place_of("lora_unet_" + layer.replace(".", "_")) == Place(name)
    for layout, is_video in (("original", True), ("diffusers", False)):
        for ours, theirs in foreign_layers(12, layout, is_video=is_video).items():
            for part, name in enumerate(theirs):
                for stem in (f"transformer.{name}", "lora_unet_" + name.replace(".", "_")):
                    place = place_of(stem)
                    found = (place.tensor, place.part, place.parts)
                    assert found == (f"{ours}.weight", part, len(theirs))


@pytest.mark.parametrize("form", FORMS)
def test_names_that_are_written_are_understood(form: str) -> None:
    for layer in ("patch_embed", "blocks.11.mlp.fc1", "decoder_blocks.0.temporal_attn.qkv"):
        for key, role in zip(factor_keys(layer, form), ("down", "up", "alpha"), strict=True):
            stem, found = parse(key)
            assert (place_of(stem), found) == (Place(f"{layer}.weight"), role)


@pytest.mark.parametrize(
    "key",
    [
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight",
        "blocks.99999.mlp.fc1.lora_A.weight",
        "lora_unet_blocks.3.mlp.fc1.alpha",
    ],
)
def test_layers_of_other_networks_are_unknown(key: str) -> None:
    stem, _ = parse(key)
    assert place_of(stem) is None


@pytest.mark.parametrize("key", ["blocks.0.mlp.fc1.weight", "x.hada_w1_a", ".alpha", "lora_A"])
def test_tensors_of_no_lora_are_unknown(key: str) -> None:
    assert parse(key) is None


@given(st.text(max_size=64) | st.from_regex(r"(\w{1,9}[._]){1,9}(lora_A|alpha)(\.\w+)?"))
def test_any_text_is_a_name_or_none(key: str) -> None:
    found = parse(key)
    if found:
        assert key.startswith(found[0]) and len(found[0]) < len(key)
        place_of(found[0])


def test_forms_are_named() -> None:
    assert form_of([f"base_model.model.{LAYER}.lora_A.weight"]) == "PEFT"
    assert form_of(["lora_unet_x.alpha", "transformer.y.alpha"]) == "diffusers and kohya"


def test_targets() -> None:
    names = ["patch_embed", "blocks.0.mlp.fc1", "blocks.0.cross_attn.q", "decoder_blocks.0.mlp.fc1"]
    assert matching(names, ["fc1"]) == ["blocks.0.mlp.fc1", "decoder_blocks.0.mlp.fc1"]
    assert matching(names, ["patch_embed", "cross_attn.q"]) == [names[0], names[2]]
    with pytest.raises(ValueError, match=r"'embed' is no linear layer.*fc1, q"):
        matching(names, ["embed"])
