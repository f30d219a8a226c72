"""Files that cannot be used: each ends in one line that names file, fault and remedy."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stiv.checkpoint import CheckpointError, expected_shapes, read_card, write_checkpoint
from stiv.header import MAX_JSON_ITEMS
from stiv.public import LATENT_SPACES
from tests.stiv.bad_files import (
    CARD,
    CONFIG,
    TEXT,
    edited,
    entry,
    only_refuses,
    packed,
    refusal,
    tensors,
)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    expected_shapes(CONFIG)  # imports and caches of torch's meta device are not the file's cost


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def good(path: Path) -> bytes:
    write_checkpoint(path, CARD, tensors())
    return path.read_bytes()


def with_metadata(good: bytes, key: str, value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return edited(good, lambda table: table["__metadata__"].update({key: text}))


def test_missing_folder_link_and_special_file(tmp_path: Path, path: Path) -> None:
    assert "no such file" in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    path.symlink_to(tmp_path / "gone")
    assert "link to a lost file" in refusal(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(path: Path, good: bytes) -> None:
    path.chmod(0)
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("cut", [0, 5, 9, 200, -1, -1000])
def test_truncated(path: Path, good: bytes, cut: int) -> None:
    path.write_bytes(good[:cut])
    assert "download it again" in refusal(path)


def test_longer_than_its_header_says(path: Path, good: bytes) -> None:
    path.write_bytes(good + b"\0")
    assert "the file holds" in refusal(path)


@pytest.mark.parametrize("body", [b'{"a": 1}' * 4, b"\0" * 64])
def test_header_of_two_gigabytes(path: Path, body: bytes) -> None:
    path.write_bytes(struct.pack("<Q", 2**31) + body)
    assert "claims 2,147,483,648 bytes" in refusal(path)


def test_header_of_two_gigabytes_in_a_sparse_file(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 2**31) + b"{")
        file.truncate(2**32)
    assert "at most 67,108,864" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"weight": [1.0] * 9}, protocol=2), "a Python pickle"),
        (pickle.dumps({"weight": [1.0] * 9}), "a Python pickle"),
        (b"GGUF" + b"\x03" * 40, "GGUF loader"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "no safetensors file"),
        (struct.pack("<Q", 16) + b"x" * 30, "not a safetensors file"),
    ],
)
def test_other_kinds_of_file(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert message in refusal(path)


def test_torch_pickle_renamed(path: Path) -> None:
    torch.save(tensors(), path)
    message = refusal(path)
    assert "a Python pickle" in message and "convert it to safetensors" in message


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{]}", "bad header"),
        (b"{" + b"\xff" * 8 + b"}", "utf-8"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' + b"[" * 30 + b"]" * 30 + b"}", "more than 16 levels"),
        (b'{"a":[' + b"0," * (MAX_JSON_ITEMS + 1) + b"0]}", "more than 1,000,000 values"),
        (b'{"a":' + b"9" * 10_000 + b"}", "bad header"),
        (b'{"a":NaN}', "NaN is not a number"),
        (b'{"a":1e999}', "a number is too large"),
        (b'{"\\ud800":1}', "surrogates"),
        (b'{"a":{"dtype":"F32"},"a":{"dtype":"F32"}}', "'a' is there twice"),
        ({"__metadata__": {"a": 1}}, "__metadata__"),
        ({"__metadata__": []}, "__metadata__"),
        ({"a": 1}, "must have dtype, shape and data_offsets"),
        ({"a": entry(more=1)}, "must have dtype, shape and data_offsets"),
        ({"a": entry("F4")}, "dtype 'F4'"),
        ({"a": entry(["F32"])}, "dtype"),
        ({"a": entry(shape=[-2])}, "shape [-2]"),
        ({"a": entry(shape=[2.0])}, "shape [2.0]"),
        ({"a": entry(shape=[True, 2])}, "shape [True, 2]"),
        ({"a": entry(shape=[1] * 9)}, "shape"),
        ({"a": entry(shape=[2**40, 2**40])}, "needs 4,835,703,278,458,516,698,824,704 bytes"),
        ({"a": entry(offsets=[8, 0])}, "data_offsets [8, 0]"),
        ({"a": entry(offsets=[0, 8, 9])}, "data_offsets"),
        ({"a": entry(offsets=[0, 2**40], shape=[2**38])}, "the file holds 8"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, "overlaps"),
        ({"a": entry(), "b": entry()}, "overlaps"),
        ({"a": entry(offsets=[4, 12])}, "leaves a hole"),
        ({"": entry()}, "empty, too long or unprintable"),
        ({"a\n": entry()}, "empty, too long or unprintable"),
        ({"a" * 600: entry()}, "empty, too long or unprintable"),
    ],
)
def test_bad_headers(path: Path, header: object, message: str) -> None:
    path.write_bytes(packed(header, b"\0" * 8))
    assert message in refusal(path)


def test_missing_unknown_and_misshapen_tensors(path: Path) -> None:
    changed = tensors()
    for name in ("final.linear.bias", "time_embed.fc1.bias"):
        del changed[name]
    changed["blocks.0.extra"] = torch.zeros(1)
    changed["patch_embed.weight"] = torch.zeros(8, 31)
    metadata = CARD.to_metadata()
    save_file(changed, path, metadata=metadata)
    message = refusal(path)
    assert "2 missing (" in message
    assert "final.linear.bias" in message and "time_embed.fc1.bias" in message
    assert "1 unknown (blocks.0.extra)" in message
    assert "patch_embed.weight is (8, 31), expected (8, 32)" in message


def test_many_faults_are_counted_and_the_first_named(path: Path) -> None:
    save_file({n: t for n, t in tensors().items() if ".fc" not in n}, path, CARD.to_metadata())
    missing = sum(".fc" in name for name in tensors())
    message = refusal(path)
    assert f"{missing} missing (" in message and ", …" in message


def test_wrong_dtype(path: Path) -> None:
    changed = {**tensors(), "final.linear.bias": torch.zeros(32, dtype=torch.int64)}
    save_file(changed, path, CARD.to_metadata())
    assert "final.linear.bias is I64" in refusal(path)


def test_a_tensor_under_two_prefixes(path: Path) -> None:
    twice = {"vae.a": torch.zeros(1), "first_stage_model.a": torch.ones(1), **tensors()}
    save_file(twice, path, CARD.to_metadata())
    assert "twice" in refusal(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stiv.config", {**CONFIG.to_dict(), "depth": 10**9}, "1000000000"),
        ("stiv.config", {**CONFIG.to_dict(), "width": 2**40}, "width"),
        ("stiv.config", {**CONFIG.to_dict(), "depth": 512}, "holds 1 blocks, its config says 512"),
        ("stiv.config", {**CONFIG.to_dict(), "depth": "x" * 9000}, "depth"),
        ("stiv.config", {**CONFIG.to_dict(), "layers": 3}, "layers"),
        ("stiv.config", [1, 2], "STIVConfig"),
        ("stiv.config", '{"width": ' + "9" * 9000 + "}", "stiv.config"),
        ("stiv.config", "{", "stiv.config is no valid JSON"),
        ("stiv.config", "[" * 100_000, "nested too deeply"),
        ("stiv.format", "2", "update the pack"),
        ("stiv.latents", {**LATENT_SPACES["sd"], "channels": 16}, "expected the config's 4"),
        ("stiv.latents", '{"name": "\\ud800"}', "surrogates"),
        ("stiv.text", {**TEXT, "width": 1280}, "text.width is 1280: expected the config's 4"),
        ("stiv.text", {**TEXT, "config": {"depth": 10**9}, "vocab": ["a"]}, "1000000000"),
        ("stiv.tasks", 3, "tasks is 3"),
        ("stiv.training", {"operations": 5}, "training.operations is 5: expected a list"),
        ("stiv.tensor_hash", "0" * 63, "tensor_hash"),
    ],
)
def test_bad_cards(path: Path, good: bytes, key: str, value: object, message: str) -> None:
    path.write_bytes(with_metadata(good, key, value))
    assert message in refusal(path)


@pytest.mark.parametrize("key", ["stiv.format", "stiv.config", "stiv.latents", "stiv.text"])
def test_missing_metadata_is_named(path: Path, good: bytes, key: str) -> None:
    path.write_bytes(edited(good, lambda table: table["__metadata__"].pop(key)))
    assert key in refusal(path)


UNET = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("names", "family", "loader"),
    [
        ([UNET, "conditioner.embedders.0.transformer.x"], "SDXL", "Load Checkpoint"),
        ([UNET, "cond_stage_model.transformer.text_model.x"], "Stable Diffusion 1", "Load Check"),
        (["double_blocks.0.img_attn.qkv.weight", "img_in.weight"], "Flux", "Load Diffusion Model"),
        (["blocks.0.self_attn.norm_q.weight", "patch_embedding.weight"], "Wan", "Load Diffusion"),
        (
            ["blocks.0.cross_attn.kv_linear.weight", "x_embedder.proj.weight"],
            "PixArt",
            "STIV Load Model",
        ),
        (
            ["blocks.0.attn_temp.qkv.weight", "blocks.0.cross_attn.kv_linear.weight"],
            "STDiT",
            "STIV Load Model",
        ),
        (["adaln_single.emb.timestep_embedder.linear_1.bias"], "PixArt", "STIV Load Model"),
        (["diffusion_model.blocks.0.spatial_attn.qkv.lora_A.weight"], "LoRA", "Load LoRA"),
        (["first_stage_model.decoder.conv_in.weight", UNET], "U-Net", "Load Diffusion Model"),
        (["decoder.conv_in.weight"], "a VAE", "Load VAE"),
        (["text_model.encoder.layers.0.x"], "a text encoder", "Load CLIP"),
    ],
)
def test_other_models_are_recognised(path: Path, names: list, family: str, loader: str) -> None:
    save_file({name: torch.zeros(2) for name in names}, path)
    message = refusal(path)
    assert f"{family}" in message and loader in message and "not a STIV model" in message


def test_unknown_models(path: Path) -> None:
    save_file({"w": torch.zeros(2)}, path)
    assert "not a STIV model (w)" in refusal(path)
    save_file({"w": torch.zeros(2)}, path, {"modelspec.architecture": "thing/1"})
    assert "'thing/1'" in refusal(path)
    path.write_bytes(packed({}))
    assert "not a STIV model" in refusal(path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("patch_embed.weight", (0, 0), "bad model card: tensor 'patch_embed.weight'"),
        ("text_embed.fc1.weight", (5,), "bad model card: tensor 'text_embed.fc1.weight'"),
        ("blocks.0.spatial_attn.q_norm.weight", (3,), "of the wrong shape"),
    ],
)
def test_odd_shapes_without_metadata(path: Path, name: str, shape: tuple, message: str) -> None:
    save_file({**tensors(), name: torch.zeros(shape)}, path)
    assert message in refusal(path)


def test_empty_tensor_of_an_impossible_shape(path: Path, good: bytes) -> None:
    empty = entry(shape=[0, *[2**60] * 7], offsets=[0, 0])
    only_refuses(path, edited(good, lambda table: table.update({"vae.x": empty})))


def test_a_card_alone_is_checked_as_strictly(path: Path, good: bytes) -> None:
    path.write_bytes(good[:-4])
    with pytest.raises(CheckpointError):
        read_card(path)
