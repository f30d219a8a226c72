"""The checkpoint format: round trips, atomic writing, the card and its checks."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import stiv.tensor_file
from stiv import MODELS, STIVConfig, STIVTransformer
from stiv.card import Card
from stiv.checkpoint import (
    CheckpointError,
    expected_shapes,
    read_card,
    read_checkpoint,
    tensor_hash,
    write_checkpoint,
)
from stiv.public import LATENT_SPACES, TEXT_ENCODERS
from stiv.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer, build_vocabulary

CONFIG = STIVConfig(
    width=32, depth=2, heads=2, text_width=16, pooled_width=16, mask_decoder_blocks=1
)
VOCABULARY = build_vocabulary(["red", "circle"])
TEXT_CONFIG = TextEncoderConfig(
    width=16, depth=1, heads=2, max_tokens=8, vocab_size=4 + len(VOCABULARY)
)
CARD = Card(
    config=CONFIG,
    latents=LATENT_SPACES["sd"],
    text={
        "encoder": "nano", "width": 16, "pooled_width": 16, "max_tokens": 8,
        "config": TEXT_CONFIG.to_dict(), "vocab": VOCABULARY,
    },
    tasks=[{"task": "t2v", "height": [64, 64], "width": [64, 96], "frames": [16, 16],
            "stride": [1, 1]}],
    sampling={"shift": 3.0},
    training={"data": "shapes 1", "steps": 10, "parents": ["ab" * 32]},
    modelspec={"title": "Tiny, \u201ctest\u201d", "license": "Apache-2.0"},
)  # fmt: skip
PLAIN_TEXT = {"encoder": "custom", "width": 16, "pooled_width": 16, "max_tokens": 8}
PLAIN_CARD = replace(CARD, text=PLAIN_TEXT)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    module.init_weights(torch.Generator().manual_seed(0))
    return dict(module.state_dict())


@pytest.fixture(scope="module")
def model() -> dict[str, torch.Tensor]:
    return weights(STIVTransformer(CONFIG))


@pytest.fixture(scope="module")
def text_encoder() -> dict[str, torch.Tensor]:
    return weights(TextEncoder(TEXT_CONFIG))


VAE = {"taesd_decoder.1.weight": torch.randn(4, 3), "vae_scale": torch.tensor(1.5)}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        as_bytes = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(*as_bytes), name


def test_model_alone_is_stored_bare(tmp_path: Path, model: dict) -> None:
    path = tmp_path / "model.safetensors"
    card = write_checkpoint(path, PLAIN_CARD, model)
    found, parts = read_checkpoint(path, verify=True)
    assert found == card == replace(PLAIN_CARD, tensor_hash=tensor_hash(model),
                                    modelspec=found.modelspec)  # fmt: skip
    assert_same(parts["diffusion_model"], model)
    assert parts["text_encoder"] == parts["vae"] == {}
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(model)
        assert file.metadata()["modelspec.title"] == "Tiny, \u201ctest\u201d"
        assert json.loads(file.metadata()["stiv.config"]) == CONFIG.to_dict()


def test_all_in_one(tmp_path: Path, model: dict, text_encoder: dict) -> None:
    path = tmp_path / "all.safetensors"
    write_checkpoint(path, CARD, model, text_encoder, VAE)
    card, parts = read_checkpoint(path, verify=True)
    assert read_card(path) == card
    assert_same(parts["diffusion_model"], model)
    assert_same(parts["text_encoder"], text_encoder)
    assert_same(parts["vae"], VAE)
    with safe_open(path, "pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == set(parts)  # noqa: SIM118
    assert card.text_encoder_config == TEXT_CONFIG
    assert card.tokenizer.encode("Red circle") == Tokenizer(VOCABULARY, 8).encode("red circle")
    STIVTransformer(card.config).load_state_dict(parts["diffusion_model"])
    TextEncoder(card.text_encoder_config).load_state_dict(parts["text_encoder"])


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
def test_weight_dtypes(tmp_path: Path, model: dict, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    cast = {name: tensor.to(dtype) for name, tensor in model.items()}
    write_checkpoint(path, PLAIN_CARD, cast)
    assert_same(read_checkpoint(path, verify=True)[1]["diffusion_model"], cast)


def test_other_dtypes_are_refused(tmp_path: Path, model: dict) -> None:
    for dtype in (torch.float64, torch.int64, torch.complex64):
        with pytest.raises(CheckpointError, match=r"final\.linear\.bias"):
            write_checkpoint(
                tmp_path / "x", PLAIN_CARD,
                {**model, "final.linear.bias": model["final.linear.bias"].to(dtype)},
            )  # fmt: skip


def test_equal_contents_give_equal_bytes(tmp_path: Path, model: dict) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_checkpoint(a, PLAIN_CARD, model)
    write_checkpoint(b, PLAIN_CARD, dict(reversed(model.items())))
    assert a.read_bytes() == b.read_bytes()


def test_views_and_strides_are_written_as_seen(tmp_path: Path, model: dict) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in model.values()])
    sizes = [tensor.numel() for tensor in model.values()]
    views = {
        name: part.view(tensor.shape)
        for (name, tensor), part in zip(model.items(), flat.split(sizes), strict=True)
    }
    views["final.linear.weight"] = model["final.linear.weight"].T.contiguous().T
    write_checkpoint(tmp_path / "x.safetensors", PLAIN_CARD, views)
    assert_same(read_checkpoint(tmp_path / "x.safetensors")[1]["diffusion_model"], model)


def test_tensor_hash_definition() -> None:
    b, a = torch.tensor([[1.0, -2.0]]).half(), torch.tensor(3, dtype=torch.uint8)
    expected = hashlib.sha256(
        b'["a","U8",[]]\n\x03' + b'["b","F16",[1,2]]\n' + b"\x00\x3c\x00\xc0"
    ).hexdigest()
    assert tensor_hash({"b": b, "a": a}) == tensor_hash({"a": a, "b": b}) == expected
    assert tensor_hash({"a": a, "c": b}) != expected
    assert tensor_hash({"a": a, "b": b.T}) != expected
    assert tensor_hash({"a": a, "b": b.view(torch.int16)}) != expected


def test_hash_streams_large_tensors_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"w": torch.arange(1000.0)}
    whole = tensor_hash(tensors)
    monkeypatch.setattr(stiv.tensor_file, "_CHUNK_BYTES", 7)
    assert tensor_hash(tensors) == whole


def test_verify_finds_a_flipped_bit(tmp_path: Path, model: dict) -> None:
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, PLAIN_CARD, model)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    read_checkpoint(path)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        read_checkpoint(path, verify=True)


@pytest.mark.parametrize("moment", ["data", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, model: dict, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, PLAIN_CARD, model)
    before = path.read_bytes()

    class Killed(BaseException):
        pass

    def die(*args: object) -> None:
        raise Killed

    if moment == "data":
        chunks, seen = stiv.tensor_file.tensor_bytes, []

        def die_half_way(tensor: torch.Tensor):
            seen.append(1)
            return die() if len(seen) > len(model) * 1.5 else chunks(tensor)  # hash, then half

        monkeypatch.setattr(stiv.tensor_file, "tensor_bytes", die_half_way)
    else:
        monkeypatch.setattr(os, moment, die)
    with pytest.raises(Killed):
        write_checkpoint(path, PLAIN_CARD, {n: t + 1 for n, t in model.items()})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_link_stays_a_link(tmp_path: Path, model: dict) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "real.safetensors", tmp_path / "link.safetensors"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_checkpoint(link, PLAIN_CARD, model)
    assert link.is_symlink() and read_card(link) == read_card(target)


def test_writing_checks_the_tensors(tmp_path: Path, model: dict, text_encoder: dict) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="1 missing"):
        write_checkpoint(path, CARD, {n: t for n, t in model.items() if n != "mask_token"})
    with pytest.raises(CheckpointError, match="no config and vocab"):
        write_checkpoint(path, PLAIN_CARD, model, text_encoder)
    with pytest.raises(ValueError):
        write_checkpoint(path, replace(CARD, training={"loss": float("nan")}), model)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("switches", [
    {},
    {"shared_adaln": False, "qk_norm": False, "micro_conditions": False, "pooled_width": 0},
    {"temporal_attention": False, "temporal_patch": 1, "mask_decoder_blocks": 0},
    {"temporal_gate": "own", "image_cross_attention": True, "latent_channels": 16},
    {"image_cross_attention": True, "temporal_patch": 1, "mlp_ratio": 2.7},
])  # fmt: skip
def test_expected_shapes_are_the_models(switches: dict) -> None:
    config = replace(CONFIG, **switches)
    model = STIVTransformer(config)
    assert expected_shapes(config) == {n: tuple(t.shape) for n, t in model.state_dict().items()}


@pytest.mark.parametrize("switches", [
    {"depth": 3, "latent_channels": 8},
    {"shared_adaln": False, "micro_conditions": False, "pooled_width": 0, "latent_channels": 16},
    {"temporal_attention": False, "temporal_patch": 1, "mask_decoder_blocks": 0},
    {"temporal_gate": "own", "image_cross_attention": True, "temporal_patch": 1},
    {"mlp_ratio": 87 / 32},
])  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_config_is_read_from_the_shapes(tmp_path: Path, switches: dict, prefix: str) -> None:
    """As ComfyUI's ModelSave leaves a model: prefixed, and without our metadata."""
    config = replace(CONFIG, **switches)
    tensors = {f"{prefix}{n}": torch.zeros(s) for n, s in expected_shapes(config).items()}
    path = tmp_path / "saved.safetensors"
    save_file(tensors, path, metadata={"prompt": "{}"})
    card, parts = read_checkpoint(path)
    assert card.config == config
    assert parts["diffusion_model"].keys() == expected_shapes(config).keys()
    assert "no STIV metadata" in card.summary()
    with pytest.raises(CheckpointError, match="no tensor hash"):
        read_checkpoint(path, verify=True)


def test_files_of_the_hosts_checkpoint_save(tmp_path: Path, model: dict, text_encoder: dict):
    tensors = {f"model.diffusion_model.{n}": t for n, t in model.items()}
    tensors |= {f"cond_stage_model.{n}": t for n, t in text_encoder.items()}
    tensors |= {f"first_stage_model.{n}": t for n, t in VAE.items()}
    save_file(tensors, tmp_path / "saved.safetensors")
    card, parts = read_checkpoint(tmp_path / "saved.safetensors")
    assert_same(parts["vae"], VAE)
    assert parts["text_encoder"] == {}
    assert any("vocabulary was not saved" in note for note in card.inferred)


def test_summary_is_for_people(tmp_path: Path, model: dict) -> None:
    text = replace(CARD, tensor_hash="0f" * 32).summary()
    for part in (
        "Tiny",
        "thousand parameters",
        "t2v (64–96 × 64 px, 16 frames, stride 1)",
        "sd, 4 channels",
        "nano (inside the file)",
        "Apache-2.0",
        "steps: 10",
        "0f0f",
    ):
        assert part in text  # fmt: skip
    assert all(line.isprintable() for line in text.split("\n"))
    xl = Card(config=MODELS["xl"], latents=LATENT_SPACES["sdxl"], text=TEXT_ENCODERS["clip_g"])
    assert "STIV xl: video model of" in xl.summary() and "not stated" in xl.summary()


def test_what_is_sampled_where_nobody_says_is_the_longest_task() -> None:
    tasks = [{"task": "t2i"}, {"task": "t2v", "frames": [8, 16], "stride": [3, 5]}]
    tasks.append({"task": "ti2v", "frames": [16, 16], "stride": [1, 1]})
    card = replace(CARD, tasks=tasks)
    assert card.longest_task["task"] == "t2v" and card.stride == 3
    silent = replace(CARD, tasks=[])
    assert silent.longest_task is None and silent.stride == 1
    assert replace(CARD, tasks=tasks[:1]).stride == 1


def test_doubts_are_told_where_training_was_for_something_else() -> None:
    assert CARD.doubt(None, 7) is CARD.doubt("t2v", 16) is None
    assert "was trained for multi-view (it lists t2v), so expect" in CARD.doubt("multi_view", 7)
    assert "(it lists no tasks)" in replace(CARD, tasks=[]).doubt("multi_view", 7)
    assert "for t2v with 16 frames, not 7: the other" in CARD.doubt("t2v", 7)
    rows = [{"task": "t2v", "frames": [1, 4]}, {"task": "t2v", "frames": [7, 7]}]
    spans = replace(CARD, tasks=rows)
    assert spans.doubt("t2v", 3) is spans.doubt("t2v", 7) is None
    assert "with 1 to 4 or 7 frames, not 5" in spans.doubt("t2v", 5)


@pytest.mark.parametrize(("change", "message"), [
    ({"latents": {**LATENT_SPACES["sd"], "channels": 16}}, "latents.channels is 16: expected"),
    ({"latents": {**LATENT_SPACES["sd"], "scale": [1.0]}}, "latents.scale is .*4 of them"),
    ({"latents": {**LATENT_SPACES["sd"], "scale": 0.0}}, "latents.scale is 0.0: expected no zero"),
    ({"latents": {**LATENT_SPACES["sd"], "shift": float("nan")}}, "latents.shift is nan"),
    ({"latents": {**LATENT_SPACES["sd"], "name": "mine"}}, "latents.name is 'mine'"),
    ({"latents": {**LATENT_SPACES["sd"], "scale": 0.5}}, "is 0.5: expected sd's 0.18215; call ano"),
    ({"latents": {**LATENT_SPACES["sd"], "shift": [0.1, 0, 0, 0]}}, "expected sd's 0.0; call"),
    ({"latents": {"name": "sd"}}, "latents.channels is None"),
    ({"text": {**PLAIN_TEXT, "width": 1280}}, "text.width is 1280: expected the config's 16"),
    ({"text": {**PLAIN_TEXT, "pooled_width": 0}}, "text.pooled_width is 0"),
    ({"text": {**PLAIN_TEXT, "encoder": "bert"}}, "text.encoder is 'bert'"),
    ({"text": {**CARD.text, "vocab": VOCABULARY[1:]}}, "text.config.vocab_size is"),
    ({"text": {**PLAIN_TEXT, "vocab": VOCABULARY}}, "text.config is None: expected both"),
    ({"tasks": [{"task": "t2v", "frames": [16, 8]}]}, r"tasks\[0\].frames is \[16, 8\]"),
    ({"tasks": [{"frames": [1, 1]}]}, r"tasks\[0\] is"),
    ({"sampling": {}}, "sampling is"),
    ({"sampling": {"shift": 0}}, "sampling.shift is 0: expected 0.01 to 100"),
    ({"sampling": {"shift": float("nan")}}, "sampling.shift is nan"),
    ({"training": []}, "training is"),
    ({"modelspec": {"title": 3}}, "modelspec.title is 3"),
    ({"tensor_hash": "abc"}, "tensor_hash is 'abc'"),
])  # fmt: skip
def test_a_card_checks_itself(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CARD, **change)


def test_a_card_without_sampling_samples_unshifted() -> None:
    metadata = CARD.to_metadata()
    assert Card.from_metadata(metadata).sampling == {"shift": 3.0}
    del metadata["stiv.sampling"]
    assert Card.from_metadata(metadata).sampling == {"shift": 1.0}


def test_a_public_space_may_be_rounded() -> None:
    short = float(torch.tensor(0.18215, dtype=torch.float32))
    latents = {**LATENT_SPACES["sd"], "scale": short, "shift": [0.0] * 4}
    assert replace(PLAIN_CARD, latents=latents).latents["scale"] == short != 0.18215


def test_custom_latents_per_channel(tmp_path: Path, model: dict) -> None:
    latents = {"name": "custom", "channels": 4, "scale": [1.0, 2.0, 0.5, 3.0], "shift": [0.0] * 4,
               "downscale": 8}  # fmt: skip
    write_checkpoint(tmp_path / "x.safetensors", replace(PLAIN_CARD, latents=latents), model)
    assert read_card(tmp_path / "x.safetensors").latents == latents
