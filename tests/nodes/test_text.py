"""Prompts: our encoder as the host's CLIP, masks, weights, long and wrong ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from ComfyUI_STIV.nodes.host.text import token_mask
from ComfyUI_STIV.stiv.checkpoint import read_checkpoint
from ComfyUI_STIV.stiv.text_encoder import TextEncoder
from safetensors.torch import save_file
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_sampling import close


@torch.no_grad()
def reference(loaded: Loaded, text: str) -> tuple[Tensor, Tensor, Tensor]:
    """What training sees: our tokenizer and encoder, without the host."""
    card, parts = read_checkpoint(loaded.path)
    encoder = TextEncoder(card.text_encoder_config)
    encoder.load_state_dict(parts["text_encoder"])
    tokens, mask = card.tokenizer.encode_batch([text])
    return *encoder(tokens, mask), mask


@pytest.mark.parametrize("text", ["", "a red circle moves left", "Zebra!?", "a  red\ncircle"])
def test_the_host_encodes_as_training_does(loaded: Loaded, text: str) -> None:
    states, pooled, mask = reference(loaded, text)
    ((encoded, extra),) = loaded.text(text)
    assert torch.equal(extra["attention_mask"].bool(), mask)
    # the text encoder runs in fp16 weights on the CPU
    assert close(encoded[:, mask[0]], states[:, mask[0]]) < 1e-2
    assert close(extra["pooled_output"], pooled) < 1e-2


def test_the_core_text_encode_works_too(loaded: Loaded, scene: Scene) -> None:
    core = tiny.run("CLIPTextEncode", clip=loaded.clip, text="a red circle moves left")
    plain = loaded.scene()
    assert torch.equal(plain.but(positive=core).sample(), plain.sample())


def test_padding_has_no_influence(loaded: Loaded) -> None:
    scene = loaded.scene()
    ((text, extra),) = scene.positive
    noisy = text + 100 * (1 - extra["attention_mask"])[..., None] * torch.randn(text.shape)
    assert close(scene.but(positive=[[noisy, extra]]).sample(), scene.sample()) < 1e-5


def test_every_part_of_the_prompt_has_an_influence(loaded: Loaded) -> None:
    scene = loaded.scene()
    ((text, extra),) = scene.positive
    for change in ({"pooled_output": -extra["pooled_output"]}, {"attention_mask": None}):
        assert close(scene.but(positive=[[text, {**extra, **change}]]).sample(), scene.sample()) > 0


def test_weighted_words(loaded: Loaded) -> None:
    ((plain, _),) = loaded.text("a red circle")
    ((strong, _),) = loaded.text("a (red:1.5) circle")
    changed = (strong - plain).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [i == 2 for i in range(tiny.MAX_TOKENS)]  # begin, a, red


def test_a_learned_embedding_in_the_prompt(loaded: Loaded, folders: dict) -> None:
    vectors = {"emb_params": torch.randn(2, tiny.TEXT_WIDTH)}
    save_file(vectors, folders["embeddings"] / "style.safetensors")
    ((encoded, extra),) = loaded.text("a red embedding:style circle")
    assert encoded.shape == (1, tiny.MAX_TOKENS, tiny.TEXT_WIDTH)
    assert extra["attention_mask"].sum() == 2 + 3 + 2  # begin and end, three words, two vectors


def test_a_prompt_of_10000_words(loaded: Loaded) -> None:
    scene = loaded.scene()
    long = loaded.text("a red circle moves left " * 2000)
    ((encoded, extra),) = long
    assert encoded.shape[1] % tiny.MAX_TOKENS == 0 and encoded.shape[1] >= 10_000
    assert extra["attention_mask"].shape == encoded.shape[:2]
    assert torch.isfinite(scene.but(positive=long).sample(steps=1)).all()


def test_joined_prompts(loaded: Loaded) -> None:
    """Core nodes join the encoded prompts but keep one mask."""
    scene, blue = loaded.scene(), loaded.text("a blue square")
    joined = tiny.run("ConditioningConcat", conditioning_to=scene.positive, conditioning_from=blue)
    mean = tiny.run(
        "ConditioningAverage",
        conditioning_to=scene.positive,
        conditioning_from=blue,
        conditioning_to_strength=0.5,
    )
    for positive in (joined, mean):
        samples = scene.but(positive=positive).sample()
        assert torch.isfinite(samples).all() and close(samples, scene.sample()) > 1e-4


def test_clip_skip_does_not_break_it(loaded: Loaded) -> None:
    skipped = tiny.run("CLIPSetLastLayer", clip=loaded.clip, stop_at_clip_layer=-2)
    assert torch.equal(
        tiny.run("STIVTextEncode", clip=skipped, text="a red circle")[0][0],
        loaded.text("a red circle")[0][0],
    )


class FakeClip:
    """A CLIP of the host as far as `token_mask` looks: the layout of clip_g and of T5."""

    def __init__(self, end: int | None, name: str | None = "g"):
        sub = type("Sub", (), {"end_token": end})()
        self.tokenizer = type("Tokenizer", (), {"clip_g": sub})()
        encoder = {} if name is None else {"clip_name": name, "clip": f"clip_{name}"}
        self.cond_stage_model = type("Model", (), encoder)()


@pytest.mark.parametrize(
    ("end", "chunks", "expected"),
    [
        (9, [[8, 1, 2, 9, 0, 0], [8, 3, 9, 9, 9, 9]], [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0]),
        (1, [[4, 5, 1]], [1, 1, 1]),
        (None, [[4, 5, 1]], [1, 1, 1]),
        (9, [[8, torch.zeros(2, 4), 9, 0]], [1, 1, 1, 1, 0]),
    ],
    ids=["padded", "t5", "unknown end", "embedding"],
)
def test_masks_from_tokens(end: int | None, chunks: list, expected: list) -> None:
    tokens = {"g": [[(token, 1.0) for token in chunk] for chunk in chunks]}
    assert token_mask(FakeClip(end), tokens).tolist() == [expected]
    # clip_g is loaded with a tokenizer for clip_l too; SDXL's two encoders are joined by the host
    assert token_mask(FakeClip(end), tokens | {"l": []}).tolist() == [expected]
    assert token_mask(FakeClip(end, None), tokens | {"l": []}) is None


def wrong(width: int, pooled: int | None = None) -> Any:
    extra = {} if pooled is None else {"pooled_output": torch.zeros(1, pooled)}
    return [[torch.zeros(1, 5, width), extra]]


@pytest.mark.parametrize(
    ("positive", "message"),
    [
        (wrong(768), "encoded 768 wide, this model takes nano of width 24: connect the CLIP of"),
        (wrong(tiny.TEXT_WIDTH, 1280), "pooled prompt is 1280 wide, .* pooled width of 24: "),
        ([[None, {}]], "holds no text, this model takes nano: use STIV Text Encode"),
    ],
    ids=["width", "pooled", "none"],
)
def test_another_text_encoder_is_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, positive: Any, message: str
) -> None:
    """Before sampling: the network is never called. By the guider at once."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("sampling started")

    monkeypatch.setattr(scene.model.model, "_apply_model", never)
    for which in ("positive", "negative"):
        with pytest.raises(ValueError, match=message) as error:
            scene.but(**{which: positive}).sample()
        assert "\n" not in str(error.value)
    settings = {"cfg": 2.0, "mode": "joint", "image_scale": 1.0, "renorm": False}
    with pytest.raises(ValueError, match=re.compile(message)):
        tiny.run(
            "STIVGuider",
            model=scene.model,
            positive=positive,
            negative=scene.negative,
            **settings,
        )
