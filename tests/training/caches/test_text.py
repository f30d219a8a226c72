"""The text cache: ragged states go in and come out, whatever their lengths."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from training.caches import text as module
from training.caches.shards import read_header, shard_paths
from training.caches.text import TextCache, cache_text, caption_hash

CAPTIONS = ["a red circle", "red", "a circle moves left, then stops", "Ünïcode 狐", "red"]


class Lengths:
    """An encoder whose states are a function of the caption, of as many tokens as it says."""

    name, hash, width, pooled_width, max_tokens, batch = "lengths", "b" * 64, 3, 2, 99, 4

    def encode(self, captions):
        return [self.one(caption) for caption in captions]

    def one(self, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
        length = int(caption or 1)
        states = torch.arange(length * 3).reshape(length, 3) / 8 + length
        return states.float(), torch.tensor([length, -length]).float()


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), max_size=25),
    shard=st.integers(1, 9),
    asked=st.data(),
)
def test_ragged_lengths(lengths: list[int], shard: int, asked: st.DataObject) -> None:
    encoder, captions = Lengths(), [str(length) for length in lengths]
    with tempfile.TemporaryDirectory() as folder:
        report = cache_text(captions, encoder, folder, shard=shard)
        assert report.written == len({*captions, ""})
        for path in shard_paths(folder, "text"):
            offsets = load_file(path)["offsets"]
            assert len(offsets) <= shard + 1 and offsets[-1] == read_header(path).shape[0]
        cache = TextCache(folder)
        assert len(cache) == report.written
        wanted = asked.draw(st.lists(st.sampled_from(["", *captions]), min_size=1, max_size=9))
        text, mask, pooled = cache.get(wanted)
        assert text.dtype == pooled.dtype == torch.float32 and mask.dtype == torch.bool
        assert text.shape == (len(wanted), max(int(c or 1) for c in wanted), 3)
        for i, caption in enumerate(wanted):
            states, end = encoder.one(caption)
            assert mask[i].tolist() == [j < len(states) for j in range(mask.shape[1])]
            assert torch.equal(text[i][mask[i]], states) and (text[i][~mask[i]] == 0).all()
            assert torch.equal(pooled[i], end)


@pytest.mark.parametrize("pooled", [True, False])
def test_a_real_encoder(tmp_path: Path, text, pooled: bool) -> None:
    encoder = text(pooled)
    report = cache_text(CAPTIONS, encoder, tmp_path)
    assert (report.written, report.skipped) == (5, 1)
    cache = TextCache(tmp_path)
    assert cache.provenance == {"encoder": "nano", "hash": "a" * 64, "max_tokens": 12}
    assert (cache.width, cache.pooled_width) == (16, 16 if pooled else 0)
    states, mask, ends = cache.get(["", *CAPTIONS])
    for i, (expected, end) in enumerate(encoder.encode(["", *CAPTIONS])):
        assert mask[i].sum() == len(expected)
        assert torch.allclose(states[i][mask[i]], expected, atol=2e-3)
        assert (ends is None) if end is None else torch.allclose(ends[i], end, atol=2e-3)
    header = read_header(shard_paths(tmp_path, "text")[0])
    digest = hashlib.sha256("Ünïcode 狐".encode()).hexdigest()
    assert digest in header.captions and caption_hash("Ünïcode 狐") == digest


def test_a_rerun_adds_what_is_new(tmp_path: Path, text) -> None:
    cache_text(CAPTIONS[:2], text(), tmp_path)
    report = cache_text(CAPTIONS, text(), tmp_path)
    assert (report.written, report.skipped) == (2, 4)  # the repeated caption and the empty one too
    assert len(TextCache(tmp_path)) == 5
    with pytest.raises(ValueError, match=r"2 of 2 shards .* made with max_tokens 12, now 8"):
        cache_text(CAPTIONS, text(max_tokens=8), tmp_path)
    report = cache_text(CAPTIONS, text(max_tokens=8), tmp_path, stale="rewrite")
    assert report.written == 5 and TextCache(tmp_path).provenance["max_tokens"] == 8


def test_writers_divide_the_captions(tmp_path: Path, text) -> None:
    many = [f"{colour} {n}" for colour in ("red", "blue") for n in range(10)]
    for i in range(2):
        cache_text(many, text(), tmp_path, writer=f"gpu{i}", part=(i, 2))
    assert len(shard_paths(tmp_path, "text")) == 2
    cache = TextCache(tmp_path)
    assert len(cache) == 21 and cache.missing(["", *many]) == []


def test_an_error_loses_nothing(tmp_path: Path, text) -> None:
    def failing():
        yield from (str(n) for n in range(40))
        raise OSError("the list of captions went away")

    with pytest.raises(OSError, match="went away"):
        cache_text(failing(), text(), tmp_path)
    assert len(TextCache(tmp_path)) >= 32  # all but the batch that was being filled


def test_a_missing_caption_names_the_command(tmp_path: Path, text) -> None:
    with pytest.raises(ValueError, match="holds no text cache; run python -m training cache text"):
        TextCache(tmp_path)
    cache_text([], text(), tmp_path)
    cache = TextCache(tmp_path)
    assert len(cache) == 1 and "" in cache and "red" not in cache
    with pytest.raises(ValueError, match="caption 'red' is not in the text cache: run python -m"):
        cache.get(["", "red"])
    assert cache.missing(["red", "", "red"]) == ["red"]


def test_it_travels_to_other_processes_and_opens_many_shards(
    tmp_path: Path, text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_OPEN_SHARDS", 2)
    cache_text(CAPTIONS, text(), tmp_path, shard=1)
    cache = TextCache(tmp_path)
    copy = pickle.loads(pickle.dumps(cache))
    for _ in range(2):
        for a, b in zip(cache.get(CAPTIONS), copy.get(CAPTIONS), strict=True):
            assert torch.equal(a, b)
    assert len(cache._files) == 2


@pytest.mark.parametrize("harm", ["offsets", "encoder", "truncated"])
def test_damaged_and_foreign_shards_are_named(tmp_path: Path, text, harm: str) -> None:
    cache_text(CAPTIONS, text(), tmp_path)
    path = shard_paths(tmp_path, "text")[0]
    if harm == "offsets":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        tensors["offsets"][1] = 0
        save_file(tensors, path, metadata)
        message = "offsets do not rise from 0"
    elif harm == "encoder":
        cache_text(["red"], Lengths2(), tmp_path / "b")
        shard_paths(tmp_path / "b", "text")[0].rename(tmp_path / "text-z-00000.safetensors")
        path, message = tmp_path / "text-z-00000.safetensors", "made with encoder"
    else:
        path.write_bytes(path.read_bytes()[:-9])
        message = "incomplete or damaged"
    with pytest.raises(ValueError, match=message) as error:
        TextCache(tmp_path)
    assert path.name in str(error.value)


class Lengths2(Lengths):
    def encode(self, captions):
        return [self.one(str(len(caption) + 1)) for caption in captions]
