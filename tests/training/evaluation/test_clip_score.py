"""CLIP score by a small CLIP of random weights, against the library's own preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.training.conftest import refused, run
from tests.training.evaluation.conftest import write_folder
from training.evaluation.clip_score import Clip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A folder as transformers saves it, with a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz-,:."
    ends = [f"{letter}</w>" for letter in letters]
    tokens = [*letters, *ends, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokens), "eos_token_id": len(tokens) - 1, "intermediate_size": 32}
    config = transformers.CLIPConfig(
        text_config={**size, **text},
        vision_config={**size, "image_size": 32, "patch_size": 8, "intermediate_size": 32},
        projection_dim=16,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_scores_are_cosines_of_the_models_embeddings(clip_folder) -> None:
    """The picture is prepared by hand: CLIP's own processor needs torchvision."""
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip_folder)
    picture = np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8)
    smaller = Image.fromarray(picture).resize((51, 32), Image.Resampling.BICUBIC)
    pixels = np.asarray(smaller.crop((9, 0, 41, 32))) / 255
    pixels = (pixels - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    values = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
    caption = "a red square"
    with torch.no_grad():
        made = model(pixel_values=values, **tokenizer(caption, return_tensors="pt"))
    expected = 100 * torch.cosine_similarity(made.image_embeds, made.text_embeds).clamp(min=0)
    score = Clip(clip_folder).scores(picture[None], caption)
    assert score.numpy() == pytest.approx(expected.numpy(), abs=0.3)


def test_command_takes_captions_beside_the_files_or_from_a_list(
    clip_folder, folders, shapes, capsys, tmp_path
) -> None:
    _, true = folders
    clip, (clips, captions) = Clip(clip_folder), shapes
    words = ("eval", "clip", "--clip", clip_folder, "--per-file", 2, "--workers", 1)
    run(*words, "--made", true)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    chosen = [clip.scores(c[[0, 3]], text).mean() for c, text in zip(clips, captions, strict=True)]
    assert found["value"] == pytest.approx(float(torch.stack(chosen).mean()), rel=1e-4)
    assert found["files"]["clip"]["sha256"] and found["samples"] == {"clips": 6}
    listed = tmp_path / "captions.jsonl"
    rows = [{"video": f"{i:02d}.mkv", "caption": captions[i] if i else ""} for i in range(6)]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(*words, "--made", true, "--captions", listed)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["samples"] == {"clips": 5}
    assert found["value"] == pytest.approx(float(torch.stack(chosen[1:]).mean()), rel=1e-4)
    assert any("1 files without a caption" in warning for warning in found["warnings"])


def test_what_is_missing_is_told(clip_folder, folders, shapes, tmp_path) -> None:
    made, _ = folders
    assert "openai/clip-vit-base-patch32" in refused("eval", "clip", "--made", made)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "model.safetensors"):
        (broken / name).write_text("{}")
    assert "is not a CLIP" in refused("eval", "clip", "--made", made, "--clip", broken)
    silent = write_folder(tmp_path / "silent", shapes[0][:1])
    line = refused("eval", "clip", "--made", silent, "--clip", clip_folder)
    assert "no file has a caption" in line
