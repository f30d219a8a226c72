"""The tokenizer's rules and the text encoder's causality."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stiv.text_encoder import (
    BOS,
    CHARACTERS,
    EOS,
    PAD,
    UNK,
    TextEncoder,
    TextEncoderConfig,
    Tokenizer,
    build_vocabulary,
)

WORDS = ["a", "red", "circle", "moves", "left", ",", "."]
VOCABULARY = build_vocabulary(WORDS)
CONFIG = TextEncoderConfig(
    width=32, depth=2, heads=2, max_tokens=12, vocab_size=4 + len(VOCABULARY)
)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY, max_tokens=12)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    model = TextEncoder(CONFIG, dtype=torch.float64)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def test_special_ids_then_vocabulary_in_order(tokenizer: Tokenizer) -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert tokenizer.encode("a red") == [1, 4, 5, 2]
    assert len(tokenizer) == CONFIG.vocab_size


def test_case_spaces_and_punctuation(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("  A RED\tcircle,moves\n.") == tokenizer.encode(
        "a red circle , moves ."
    )


def test_unknown_words_are_spelled_and_the_rest_is_unknown(tokenizer: Tokenizer) -> None:
    ids = {piece: 4 + i for i, piece in enumerate(VOCABULARY)}
    assert tokenizer.encode("reds") == [BOS, *(ids[c] for c in "reds"), EOS]
    assert tokenizer.encode("caf\u00e9") == [BOS, *(ids[c] for c in "caf"), UNK, EOS]
    assert tokenizer.encode("\u2603\u2603\u2603") == [BOS, UNK, EOS]
    assert tokenizer.encode("red_left") == [BOS, ids["red"], UNK, ids["left"], EOS]
    assert tokenizer.decode(tokenizer.encode("Red, left")) == "red , left"


def test_truncation_keeps_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("red " * 10_000)
    assert len(ids) == 12 and ids[0] == BOS and ids[-1] == EOS and EOS not in ids[:-1]
    assert tokenizer.encode("") == [BOS, EOS]


def test_time_is_linear(tokenizer: Tokenizer) -> None:
    start = time.perf_counter()
    assert sum(1 for _ in tokenizer.tokens("q" * 2**20)) == 2**20
    assert sum(1 for _ in tokenizer.tokens("\u2603" * 2**20)) == 1
    assert sum(1 for _ in tokenizer.tokens("red circle " * 10_000)) == 20_000
    assert time.perf_counter() - start < 5


@given(text=st.text(max_size=200))
def test_any_text_encodes_within_bounds(text: str) -> None:
    tokenizer = Tokenizer(VOCABULARY, max_tokens=12)
    ids = tokenizer.encode(text)
    assert 2 <= len(ids) <= 12 and ids[0] == BOS and ids[-1] == EOS
    assert all(UNK <= i < len(tokenizer) for i in ids[1:-1])
    assert ids[1:-1] == list(tokenizer.tokens(text))[:10]


@given(words=st.lists(st.sampled_from(VOCABULARY), max_size=10))
def test_known_pieces_survive_a_round_trip(words: list[str]) -> None:
    tokenizer = Tokenizer(VOCABULARY, max_tokens=12)
    text = " ".join(words)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("vocab", "max_tokens", "message"),
    [
        (["red", "red"], 8, "'red' is there twice"),
        (["Red"], 8, "'Red' is not one lower-case word"),
        (["two words"], 8, "'two words' is not one"),
        ([""], 8, "'' is not one"),
        ([["red"]], 8, "is not one"),
        (["red"], 1, "max_tokens is 1"),
    ],
)
def test_bad_vocabulary_is_refused(vocab: list, max_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer(vocab, max_tokens)


def test_vocabulary_has_each_piece_once() -> None:
    assert build_vocabulary(["Red", "red", "a"]) == [
        "red",
        "a",
        *(c for c in CHARACTERS if c != "a"),
    ]


def test_batch_is_padded_to_the_right(tokenizer: Tokenizer) -> None:
    tokens_BL, mask_BL = tokenizer.encode_batch(["a red circle", ""])
    assert tokens_BL.shape == mask_BL.shape == (2, 12)
    assert mask_BL.sum(1).tolist() == [5, 2]
    assert (tokens_BL[~mask_BL] == PAD).all()
    assert tokenizer.encode_batch([])[0].shape == (0, 12)


def test_later_tokens_do_not_change_earlier_states(encoder: TextEncoder) -> None:
    tokens_BL = torch.randint(
        4, len(VOCABULARY), (1, 12), generator=torch.Generator().manual_seed(1)
    )
    changed_BL = tokens_BL.clone()
    changed_BL[:, 7:] = 5
    text_BLD, changed_BLD = encoder(tokens_BL)[0], encoder(changed_BL)[0]
    torch.testing.assert_close(text_BLD[:, :7], changed_BLD[:, :7], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(text_BLD[:, 7:], changed_BLD[:, 7:])


def test_padding_and_batch_change_nothing(encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    texts = ["a red circle moves left", "red", ""]
    text_BLD, pooled_BD = encoder(*tokenizer.encode_batch(texts))
    for i, text in enumerate(texts):
        alone, pooled = encoder(torch.tensor([tokenizer.encode(text)]))
        length = alone.shape[1]
        torch.testing.assert_close(text_BLD[i, :length], alone[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pooled_BD[i], pooled[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pooled[0], alone[0, -1])


def test_embeddings_in_place_of_ids(encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    tokens_BL, mask_BL = tokenizer.encode_batch(["a red circle", "left"])
    embeds_BLD = encoder.get_input_embeddings()(tokens_BL)
    kept = embeds_BLD.clone()
    expected = encoder(tokens_BL)
    for mask in (mask_BL, mask_BL.long(), mask_BL.double()):
        found = encoder(mask_BL=mask, embeds_BLD=embeds_BLD)
        assert all(map(torch.equal, found, expected))
    assert torch.equal(embeds_BLD, kept)  # the caller's tensor is not written to


def test_computes_in_the_dtype_of_the_embeddings() -> None:
    model = TextEncoder(CONFIG, dtype=torch.bfloat16)
    model.init_weights()
    text_BLD, pooled_BD = model(torch.tensor([[BOS, EOS]]))
    assert text_BLD.dtype == pooled_BD.dtype == torch.bfloat16


def test_bad_input_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="either token ids or token embeddings"):
        encoder()
    with pytest.raises(ValueError, match="13 tokens, expected 1 to 12"):
        encoder(torch.ones(1, 13, dtype=torch.int64))


@settings(deadline=None)
@given(
    field=st.sampled_from(["width", "depth", "heads", "max_tokens", "vocab_size"]),
    value=st.one_of(st.integers(max_value=0), st.integers(10**6, 10**12), st.text(), st.booleans()),
)
def test_bad_sizes_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TextEncoderConfig.from_dict({**CONFIG.to_dict(), field: value})


def test_config_round_trip() -> None:
    assert TextEncoderConfig.from_dict(CONFIG.to_dict()) == CONFIG
    with pytest.raises(ValueError, match="unknown setting 'layers'"):
        TextEncoderConfig.from_dict({"layers": 3})
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        TextEncoderConfig(width=30, heads=4)
