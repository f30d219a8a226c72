"""A local folder of transformers: tiny models whose weights make them say one sentence."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from training.engine.language.ask import Asker, Form
from training.engine.language.settings import ModelSettings
from training.engine.language.turns import Turn
from training.engine.step import NotReady, Unavailable, make_step

SAID = ["assistant:", '{"animal":', '"cat",', '"count":', "2}", "</s>"]
WORDS = ["<unk>", "<image>", "<pad>", "user:", "How", "many?", *SAID]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }} "
    "{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
    "{{ c['text'] }} {% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
WIDTH = 16


class Pets(Form):
    animal: str
    count: int


def llama_config():
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=WORDS.index("</s>"),
        pad_token_id=WORDS.index("<pad>"),
        bos_token_id=None,
        tie_word_embeddings=False,
    )


@torch.no_grad()
def teach(language: torch.nn.Module, head: torch.nn.Linear) -> None:
    """A token is a unit vector that passes the blocks unchanged; the head names its successor."""
    for name, weight in language.named_parameters():
        if "embed_tokens" in name:
            weight.copy_(torch.eye(len(WORDS), WIDTH))
        elif "o_proj" in name or "down_proj" in name:
            weight.zero_()
    head.weight.zero_()
    for now, then in pairwise(SAID):
        head.weight[WORDS.index(then), WORDS.index(now)] = 1


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="module")
def sees(tmp_path_factory) -> Path:
    """A LLaVA of pictures of 32 x 32, four patches each."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = tmp_path_factory.mktemp("sees")
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=32,
        patch_size=16,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=llama_config(), image_token_index=WORDS.index("<image>")
    )
    model = LlavaForConditionalGeneration(config)
    teach(model.model.language_model, model.lm_head)
    model.generation_config.eos_token_id = WORDS.index("</s>")
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        pictures,
        tokenizer(),
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reads(tmp_path_factory) -> Path:
    """A Llama."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("reads")
    model = LlamaForCausalLM(llama_config())
    teach(model.model, model.lm_head)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def turn(frames: int) -> Turn:
    pictures = tuple(np.full((40, 60, 3), 90 * i, np.uint8) for i in range(frames))
    return Turn("user", "How many?", pictures)


def test_a_vision_language_model_answers_about_frames(sees, tmp_path) -> None:
    settings = ModelSettings(folder=sees)
    asker = Asker(settings, tmp_path)
    asker.backend.check(frames=True)
    _, model = asker.backend._loaded
    seen: list[torch.Size] = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or (kwargs["pixel_values"],))[0].shape),
        with_kwargs=True,
    )
    answer = asker.ask(Pets, turn(2), 20)
    assert answer.value == Pets(animal="cat", count=2)
    assert seen == [(2, 3, 32, 32)]
    assert answer.model == settings.identity
    # user: 2 x 4 patches, How many? assistant: in; the five words of the answer out
    assert answer.tokens == (1 + 2 * 4 + 2 + 1, len(SAID) - 1)
    assert asker.ask(Pets, turn(2), 20) == answer and len(seen) == 1
    with pytest.raises(ValueError, match="cut off"):
        asker.ask(Pets, turn(1), 3)


def test_a_model_of_text_answers_but_sees_nothing(reads) -> None:
    settings = ModelSettings(folder=reads)
    asker = Asker(settings)
    asker.backend.check(frames=False)
    assert asker.ask(Pets, turn(0), 20).value.count == 2
    assert make_step("categorize", {"model": {"folder": str(reads)}}).memory is None
    with pytest.raises(NotReady, match="need one that sees pictures"):
        make_step("captions_dense", {"model": {"folder": str(reads)}}).check()


def test_a_folder_is_known_by_its_weights(reads, tmp_path) -> None:
    identity = ModelSettings(folder=reads).identity
    assert identity.startswith(f"{reads.name}@") and str(reads.parent) not in identity
    copy = tmp_path / reads.name
    copy.mkdir()
    for path in reads.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert ModelSettings(folder=copy).identity == identity
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert ModelSettings(folder=copy).identity != identity
    weights.write_bytes(data[:200])
    with pytest.raises(Unavailable, match="cannot be loaded"):
        Asker(ModelSettings(folder=copy)).ask(Pets, turn(0), 20)
    weights.unlink()
    with pytest.raises(NotReady, match=r"holds no \.safetensors"):
        Asker(ModelSettings(folder=copy)).backend.check(frames=False)


def test_a_model_without_a_chat_template_ends_the_run_and_blames_no_row(reads, tmp_path) -> None:
    copy = tmp_path / reads.name
    shutil.copytree(reads, copy)
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(Unavailable, match="has no chat template"):
        Asker(ModelSettings(folder=copy)).ask(Pets, turn(0), 20)
