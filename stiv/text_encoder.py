"""The small text encoder of the nano model: a word tokenizer and a causal transformer.

It has the shape of CLIP's text tower: token plus learned position embedding, pre-norm causal
blocks, a final LayerNorm. The text condition is the final-normed state of every token, the
pooled condition the state at the end-of-text token, which has seen the whole prompt.

Padding stands to the right, so causal attention alone keeps real tokens from seeing it: the
encoder needs no mask, and a prompt gives the same states whatever it is batched with.

Shapes: B batch, L text tokens, D width, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL_TOKENS = 4
CHARACTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789")

# A run of letters and digits is a word, a run of anything else but white space is punctuation.
_PIECE = re.compile(r"[^\W_]+|(?:[^\w\s]|_)+")


def build_vocabulary(words: Iterable[str]) -> list[str]:
    """The vocabulary of a data set: its words in order, then the characters to spell others."""
    return list(dict.fromkeys([*(word.lower() for word in words), *CHARACTERS]))


def pieces(text: str) -> list[str]:
    """The words and runs of punctuation that a text is cut into, in lower case."""
    return _PIECE.findall(text.lower())


class Tokenizer:
    """Text to token ids over a fixed vocabulary; whole words first, characters for the rest.

    Text is lower-cased and cut into words and runs of punctuation. A piece of the vocabulary is
    one token; any other is spelled in the single characters that the vocabulary has, and each
    run of characters that it lacks becomes one unknown token. Time is linear in the text.

    Ids: pad 0, begin 1, end 2, unknown 3, then the vocabulary in its order.

    Args:
        vocab: distinct lower-case pieces, each without white space.
        max_tokens: longest encoding, begin and end included, at least 2.

    Raises:
        ValueError: for a piece that no text can produce, a repeated piece or a bad length.
    """

    pad_id, bos_id, eos_id, unk_id = PAD, BOS, EOS, UNK

    def __init__(self, vocab: Sequence[str], max_tokens: int) -> None:
        if not isinstance(max_tokens, int) or max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens!r}; it must be at least 2 (begin and end)")
        self.vocab = tuple(vocab)
        self.max_tokens = max_tokens
        self._ids: dict[str, int] = {}
        for index, piece in enumerate(self.vocab, start=SPECIAL_TOKENS):
            if not isinstance(piece, str) or not _PIECE.fullmatch(piece) or piece != piece.lower():
                raise ValueError(
                    f"vocabulary piece {piece!r} is not one lower-case word or punctuation mark"
                )
            if self._ids.setdefault(piece, index) != index:
                raise ValueError(f"vocabulary piece {piece!r} is there twice")

    def __len__(self) -> int:
        """Number of ids, the special ones included: the encoder's `vocab_size`."""
        return SPECIAL_TOKENS + len(self.vocab)

    def tokens(self, text: str) -> Iterator[int]:
        """The ids of a text of any length, one by one, without begin and end."""
        for match in _PIECE.finditer(text.lower()):  # one by one: a prompt may be very long
            piece = match.group()
            if piece in self._ids:
                yield self._ids[piece]
                continue
            previous = None
            for character in piece:
                token = self._ids.get(character, UNK)
                if token != UNK or previous != UNK:
                    yield token
                previous = token

    def encode(self, text: str) -> list[int]:
        """Begin, the tokens of the text as far as they fit, end; no padding."""
        ids = [BOS]
        for token in self.tokens(text):
            if len(ids) == self.max_tokens - 1:
                break
            ids.append(token)
        return [*ids, EOS]

    def encode_batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, max_tokens) int64, padded to the right, and their mask, True for real tokens."""
        rows = [self.encode(text) for text in texts]
        padded = [row + [PAD] * (self.max_tokens - len(row)) for row in rows]
        tokens_BL = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), self.max_tokens)
        return tokens_BL, tokens_BL != PAD

    def decode(self, ids: Iterable[int]) -> str:
        """The pieces of the ids, joined by spaces; special tokens are left out."""
        pieces = (self.vocab[i - SPECIAL_TOKENS] for i in ids if i >= SPECIAL_TOKENS)
        return " ".join(pieces)


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Sizes of the text encoder.

    Raises:
        ValueError: naming the field and its value, when one is out of range.
    """

    width: int = 256
    """Channels of a token, a multiple of `heads`."""
    depth: int = 4
    """Number of transformer blocks."""
    heads: int = 4
    """Attention heads."""
    max_tokens: int = 32
    """Longest prompt in tokens, begin and end included."""
    vocab_size: int = 512
    """Number of token ids, `len(tokenizer)`."""

    def __post_init__(self) -> None:
        # The upper bounds are far above any use; they stop a bad file before memory is taken.
        bounds = {
            "width": (8, 4096),
            "depth": (1, 64),
            "heads": (1, 64),
            "max_tokens": (2, 1024),
            "vocab_size": (SPECIAL_TOKENS + 1, 262144),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(
                    f"text encoder: {name} is {value!r}, expected an integer from {low} to {high}"
                )
        if self.width % self.heads:
            raise ValueError(
                f"text encoder: width {self.width} is not a multiple of heads {self.heads}"
            )

    def to_dict(self) -> dict[str, int]:
        """The fields as a dictionary, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextEncoderConfig:
        """The config of a dictionary; an unknown key raises ValueError."""
        known = {field.name for field in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise ValueError(f"text encoder: unknown setting {key!r} (value {value!r})")
        return cls(**values)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(width, 3 * width, **factory)
        self.proj = operations.Linear(width, width, **factory)

    def forward(self, x_BLD: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x_BLD), "b l (n h d) -> n b h l d", n=3, h=self.heads)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(rearrange(out, "b h l d -> b l (h d)"))


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, width: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm1 = operations.LayerNorm(width, **factory)
        self.attn = Attention(width, heads, operations, **factory)
        self.norm2 = operations.LayerNorm(width, **factory)
        self.fc1 = operations.Linear(width, 4 * width, **factory)
        self.fc2 = operations.Linear(4 * width, width, **factory)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attn(self.norm1(x_BLD))
        return x_BLD + self.fc2(F.gelu(self.fc1(self.norm2(x_BLD))))


class TextEncoder(nn.Module):
    """Causal text transformer: tokens to the text condition and the pooled condition.

    Args:
        config: the sizes.
        operations: namespace of the layers, `torch.nn` or the host's, which casts and offloads.
        device, dtype: where and how the parameters are created.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        width = config.width
        self.config = config
        self.dtype = dtype
        self.token_embedding = operations.Embedding(config.vocab_size, width, **factory)
        self.position_embedding = operations.Embedding(config.max_tokens, width, **factory)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, operations, **factory) for _ in range(config.depth)
        )
        self.final_norm = operations.LayerNorm(width, **factory)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialises every parameter as CLIP does: residual outputs shrink with depth."""
        width, depth = self.config.width, self.config.depth
        residual_std = (2 * width * depth) ** -0.5
        nn.init.normal_(self.token_embedding.weight, std=0.02, generator=generator)
        nn.init.normal_(self.position_embedding.weight, std=0.01, generator=generator)
        for block in self.blocks:
            for linear, std in (
                (block.attn.qkv, width**-0.5),
                (block.attn.proj, residual_std),
                (block.fc1, (2 * width) ** -0.5),
                (block.fc2, residual_std),
            ):
                nn.init.normal_(linear.weight, std=std, generator=generator)
                nn.init.zeros_(linear.bias)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding, for callers that weight or replace token embeddings."""
        return self.token_embedding

    def forward(
        self,
        tokens_BL: Tensor | None = None,
        mask_BL: Tensor | None = None,
        *,
        embeds_BLD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Text states (B, L, D) and pooled state (B, D).

        Args:
            tokens_BL: ids, padded to the right; L at most `max_tokens`.
            mask_BL: True or 1 for real tokens; by default all but padding (of tokens) or all (of
                embeddings). It only says where the prompt ends.
            embeds_BLD: token embeddings instead of ids, in the dtype to compute in.

        Raises:
            ValueError: for both or neither input, or a prompt longer than `max_tokens`.
        """
        if (tokens_BL is None) == (embeds_BLD is None):
            raise ValueError("text encoder: give either token ids or token embeddings")
        if embeds_BLD is None:
            embeds_BLD = self.token_embedding(tokens_BL)
            mask_BL = tokens_BL != PAD if mask_BL is None else mask_BL
        length, limit = embeds_BLD.shape[1], self.config.max_tokens
        if not 1 <= length <= limit:
            raise ValueError(f"text encoder: prompt of {length} tokens, expected 1 to {limit}")

        positions_L = torch.arange(length, device=embeds_BLD.device)
        x_BLD = embeds_BLD + self.position_embedding(positions_L).to(embeds_BLD.dtype)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        text_BLD = self.final_norm(x_BLD)
        if mask_BL is None:
            return text_BLD, text_BLD[:, -1]
        # The end-of-text token is the last real one.
        end_B = (positions_L * mask_BL.to(positions_L.dtype)).amax(dim=1)
        return text_BLD, text_BLD[torch.arange(len(end_B), device=end_B.device), end_B]
