"""Text encoders from ComfyUI's files give the states that a ComfyUI graph gives.

Small towers with random weights are stored under ComfyUI's names and opened by both sides: the
host through its text encoder loader and the pack's STIV Text Encode, the training through
transformers' modules.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stiv.header import CheckpointError
from tests.conftest import HOST
from training.encoders.text import FrozenText, find_tokenizer, open_text_encoder

pytestmark = pytest.mark.skipif(HOST is None, reason="the tokenizers are ComfyUI's")

TOLERANCE = 1e-5  # of the largest state; measured: 1e-6, float32 sums in another order

LONG = "a wide river runs through a green valley while clouds drift over snowy mountains " * 8
CAPTIONS = ["", "a red circle moves left", "Ünïcode, 狐 & 3 dots…!", LONG.strip()]

CLIP_SIZE = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256}
T5_SIZE = {"d_model": 64, "num_heads": 2, "d_kv": 64}


def host_clip(
    kind: str, state: dict[str, torch.Tensor] | None = None, clip_type: str = ""
) -> object:
    """The host's CLIP object of a small tower; with `state`, through the host's loader."""
    import comfy.sd

    options = {
        "clip_g_model_config": CLIP_SIZE,  # without a file
        "model_config": dict(CLIP_SIZE),  # with one
        "t5xxl_model_config": T5_SIZE,
    }
    if state is None:
        import comfy.sd1_clip
        from comfy.sdxl_clip import SDXLClipG
        from comfy.text_encoders.sd3_clip import T5XXLModel

        return (SDXLClipG if kind == "clip_g" else T5XXLModel)(model_options=options)
    return comfy.sd.load_text_encoder_state_dicts(
        [dict(state)],
        clip_type=getattr(comfy.sd.CLIPType, clip_type or "STABLE_DIFFUSION"),
        model_options=options,
    )


@pytest.fixture(scope="module", params=["clip_g", "t5xxl"])
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """kind, file, and the encoder opened from it."""
    kind = request.param
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, like in host_clip(kind).transformer.state_dict().items():
        if like.ndim == 1:  # norms and biases
            value = 0.1 * torch.randn(like.shape, generator=generator) + float("norm" in name)
        else:
            is_table = "embedding" in name or name == "shared.weight"
            std = 1.0 if is_table else like.shape[1] ** -0.5
            if kind == "t5xxl" and ".q." in name:  # T5's attention does not divide by sqrt(64)
                std /= 8
            value = torch.randn(like.shape, generator=generator) * std
        state[name] = value.half()
    path = tmp_path_factory.mktemp("text") / f"{kind}.safetensors"
    save_file(state, path)
    opened = open_text_encoder(kind, path, tokenizer=folder(kind), any_size=True)
    return SimpleNamespace(kind=kind, path=path, encoder=opened)


def folder(kind: str) -> Path:
    """The host's tokenizer."""
    name = {"clip_g": "comfy/sd1_tokenizer", "t5xxl": "comfy/text_encoders/t5_tokenizer"}[kind]
    return HOST / name


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


def test_the_hosts_numbers(tower: SimpleNamespace) -> None:
    from ComfyUI_STIV.nodes.text import STIVTextEncode

    clip = host_clip(tower.kind, load_file(tower.path))
    encoder: FrozenText = tower.encoder
    for caption, (states, pooled) in zip(CAPTIONS, encoder.encode(CAPTIONS), strict=True):
        (((theirs, extra),),) = STIVTextEncode.execute(clip, caption).result
        length = len(states)
        if caption == LONG.strip() and tower.kind == "clip_g":
            # The host goes on with more chunks; ours stops after max_tokens, an end token last.
            assert length == encoder.max_tokens == 77 and theirs.shape[1] == 154
        else:
            assert length == sum(len(chunk) for chunk in encoder.tokens(caption)) < 256
        assert states.shape == (length, encoder.width) and states.std() > 0.05
        assert close(states, theirs[0, :length])
        if tower.kind == "clip_g":
            assert close(pooled, extra["pooled_output"][0])
        else:
            assert pooled is None and encoder.pooled_width == 0
        if theirs.shape[1] != 154:  # what the model reads of it, there as here
            padding = theirs.shape[1] - length
            assert extra["attention_mask"].tolist() == [[1] * length + [0] * padding]


def test_more_chunks_where_more_tokens_are_allowed(tower: SimpleNamespace) -> None:
    if tower.kind == "t5xxl":
        short = open_text_encoder(
            "t5xxl", tower.path, tokenizer=folder("t5xxl"), max_tokens=5, any_size=True
        )
        (ids,) = short.tokens(LONG)
        assert len(ids) == 5 and ids[-1] == 1  # cut, and ended
        assert ids[:4] == tower.encoder.tokens(LONG)[0][:4]
        return
    double = open_text_encoder(
        "clip_g", tower.path, tokenizer=folder("clip_g"), max_tokens=154, any_size=True
    )
    clip = host_clip("clip_g", load_file(tower.path))
    tokens = clip.tokenize(LONG.strip())
    theirs, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    ((states, ours),) = double.encode([LONG.strip()])
    assert 77 < len(states) < 154  # without the second chunk's padding
    assert close(states, theirs[0, : len(states)]) and close(ours, pooled[0])


def test_the_pixart_type_of_t5_gives_the_same(tower: SimpleNamespace) -> None:
    if tower.kind != "t5xxl":
        pytest.skip("about T5")
    clip = host_clip("t5xxl", load_file(tower.path), "PIXART")
    theirs = clip.encode_from_tokens(clip.tokenize(CAPTIONS[1]))
    ((states, _),) = tower.encoder.encode([CAPTIONS[1]])
    assert theirs.shape[1] == len(states) and close(states, theirs[0])


def test_t5_is_given_as_pixart_and_open_sora_were_trained(tower: SimpleNamespace) -> None:
    """Their code pads a batch to 120 tokens, hides the padding from T5, and lets the model read
    the real tokens alone: for prompts of up to 120 tokens STIV Text Encode gives the same."""
    if tower.kind != "t5xxl":
        pytest.skip("about T5")
    import transformers
    from ComfyUI_STIV.nodes.text import STIVTextEncode

    sizes = {"vocab_size": 32128, "d_ff": 10240, "num_layers": 24, **T5_SIZE}
    state = {name: tensor.float() for name, tensor in load_file(tower.path).items()}
    sizes["num_layers"] = sum(name.endswith(".DenseReluDense.wo.weight") for name in state)
    sizes["d_ff"] = state["encoder.block.0.layer.1.DenseReluDense.wo.weight"].shape[1]
    config = transformers.T5Config(feed_forward_proj="gated-gelu", **sizes)
    model = transformers.T5EncoderModel(config).eval()
    model.load_state_dict(state, strict=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("t5xxl"))
    prompts = ["a red circle moves left", "a boat at sunset, drone view", CAPTIONS[2]]
    batch = tokenizer(
        prompts, max_length=120, padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    clip = host_clip("t5xxl", load_file(tower.path), "PIXART")
    for prompt, reference, mask in zip(prompts, states, batch.attention_mask, strict=True):
        (((ours, extra),),) = STIVTextEncode.execute(clip, prompt).result
        assert close(ours[0], reference[mask.bool()]), prompt
        assert extra["attention_mask"].tolist() == [[1] * ours.shape[1]]


def test_brackets_and_end_tokens_are_text(tower: SimpleNamespace) -> None:
    """Captions are no prompts: a bracket is a bracket, which the host reads with a backslash."""
    clip = host_clip(tower.kind, load_file(tower.path))
    ((states, _),) = tower.encoder.encode(["a (red:1.5) circle"])
    theirs = clip.encode_from_tokens(clip.tokenize(r"a \(red:1.5\) circle"))
    assert close(states, theirs[0, : len(states)])
    end = "<|endoftext|>" if tower.kind == "clip_g" else "</s>"
    assert tower.encoder.tokens(f"a red {end} circle") == tower.encoder.tokens("a red")


def test_a_caption_gives_the_same_in_any_batch(tower: SimpleNamespace) -> None:
    together = tower.encoder.encode(CAPTIONS)
    for caption, (states, pooled) in list(zip(CAPTIONS, together, strict=True))[:2]:
        ((alone, alone_pooled),) = tower.encoder.encode([caption])
        assert close(states, alone)
        assert pooled is None or close(pooled, alone_pooled)
    assert tower.encoder.encode([]) == []


def test_other_files_are_refused(tower: SimpleNamespace, tmp_path: Path) -> None:
    kind, state, path = tower.kind, load_file(tower.path), tmp_path / "x.safetensors"

    def opened(**settings: object) -> FrozenText:
        return open_text_encoder(kind, path, **{"tokenizer": folder(kind), **settings})

    gone = next(name for name in state if name.endswith("final_layer_norm.weight"))
    save_file({n: t for n, t in state.items() if n != gone} | {"extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=rf"1 missing \({gone}\); 1 unknown \(extra\)"):
        opened(any_size=True)
    save_file(state, path)
    published = 1280 if kind == "clip_g" else 4096
    with pytest.raises(CheckpointError, match=rf"wide, {kind} is {published}"):
        opened()
    save_file({"scaled_fp8": torch.zeros(1), **state}, path)
    with pytest.raises(CheckpointError, match=r"quantised with scales \(scaled_fp8\)"):
        opened(any_size=True)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=f"is no {kind} text encoder as ComfyUI stores it"):
        opened()
    with pytest.raises(ValueError, match="max_tokens is 1 for"):
        opened(max_tokens=1)
    with pytest.raises(ValueError, match=r"no tokenizer with .* set tokenizer to such a folder"):
        opened(tokenizer=tmp_path)


def test_tokenizers_are_found_in_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(HOST))
    assert find_tokenizer("clip_g") == folder("clip_g")
    monkeypatch.delenv("COMFYUI_PATH")
    monkeypatch.setattr("training.encoders.text._PACK", HOST / "custom_nodes" / "ComfyUI-STIV")
    assert find_tokenizer("t5xxl") == folder("t5xxl")
    monkeypatch.setattr("training.encoders.text._PACK", Path("/elsewhere/pack"))
    with pytest.raises(ValueError, match="COMFYUI_PATH is not set"):
        find_tokenizer("t5xxl")
    with pytest.raises(ValueError, match="'clip_l': expected one of clip_g, t5xxl"):
        open_text_encoder("clip_l", "x.safetensors")
