"""The small text encoder inside a checkpoint as a native CLIP, and masks of encoded prompts."""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import ClipTarget
from torch import Tensor

from ...stiv.checkpoint import Card, read_checkpoint
from ...stiv.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer

_NAME = "stiv"


class HostTokenizer:
    """`Tokenizer` with the few methods that the host's chunking and weighting call."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def from_pretrained(self, path: str, **kwargs: Any) -> HostTokenizer:
        """The host builds tokenizers by class and path; this one is built already."""
        return self

    def __call__(self, text: str) -> dict[str, list[int]]:
        tokenizer = self.tokenizer
        return {"input_ids": [tokenizer.bos_id, *tokenizer.tokens(text), tokenizer.eos_id]}

    def get_vocab(self) -> dict[str, int]:
        special = ("<pad>", "<begin>", "<end>", "<unknown>")
        return {piece: i for i, piece in enumerate((*special, *self.tokenizer.vocab))}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return self.tokenizer.decode(ids)


class HostTextEncoder(TextEncoder):
    """`TextEncoder` as the host's CLIP wrapper builds and calls it."""

    num_layers = 0  # no layer can be skipped to: the model was trained on the last one

    def __init__(self, config: dict[str, Any], dtype: Any, device: Any, operations: Any):
        super().__init__(
            TextEncoderConfig.from_dict(config), operations=operations, device=device, dtype=dtype
        )

    def forward(
        self, tokens: Any, attention_mask: Tensor, embeds: Tensor, **kwargs: Any
    ) -> tuple[Tensor, None, Tensor]:
        text_BLD, pooled_BD = super().forward(mask_BL=attention_mask, embeds_BLD=embeds)
        return text_BLD, None, pooled_BD


def load_text_encoder(path: str, disable_dynamic: bool = False) -> Any:
    """The CLIP of a checkpoint file; None if the file holds no text encoder."""
    card, parts = read_checkpoint(path, as_stored=True)
    return build_text_encoder(path, card, parts["text_encoder"], disable_dynamic)


def build_text_encoder(
    path: str, card: Card, state_dict: dict[str, Tensor], disable_dynamic: bool = False
) -> Any:
    """The CLIP of tensors that were read from `path`; None without any."""
    if not state_dict:
        return None
    tokenizer, config = card.tokenizer, card.text_encoder_config
    host_tokenizer = partial(
        SDTokenizer,
        max_length=tokenizer.max_tokens,
        pad_with_end=False,
        pad_token=tokenizer.pad_id,
        embedding_size=config.width,
        embedding_key=f"clip_{_NAME}",
        tokenizer_class=HostTokenizer(tokenizer),
    )
    host_model = partial(
        SDClipModel,
        max_length=tokenizer.max_tokens,
        textmodel_json_config=config.to_dict(),
        model_class=HostTextEncoder,
        special_tokens={
            "start": tokenizer.bos_id, "end": tokenizer.eos_id, "pad": tokenizer.pad_id,
        },
        enable_attention_masks=True,
        return_attention_masks=True,
    )  # fmt: skip
    target = ClipTarget(
        partial(SD1Tokenizer, clip_name=_NAME, tokenizer=host_tokenizer),
        partial(SD1ClipModel, clip_name=_NAME, clip_model=host_model),
    )
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(state_dict),
        state_dict=[dict(state_dict)],
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_load_text_patcher, (path,))
    return clip


def _load_text_patcher(path: str, disable_dynamic: bool = False) -> Any:
    return load_text_encoder(path, disable_dynamic).patcher


def token_mask(clip: Any, tokens: dict[str, list[list[tuple]]]) -> Tensor | None:
    """(1, L) mask over the encoded prompt: 1 for its tokens, 0 for padding.

    Most encoders of the host do not return one. A chunk's tokens end with the first end token;
    None for several encoders at once, whose outputs the host joins in ways of its own.
    """
    # Load CLIP may cut the prompt up for more encoders than it loaded (clip_g comes with the
    # tokenizer of SDXL): what counts is the one that encodes.
    model = clip.cond_stage_model
    name = getattr(model, "clip_name", None)
    if name not in tokens:
        return None
    # Its tokenizer is an attribute named after the encoder, with or without "clip_" before it.
    tokenizers = (getattr(clip.tokenizer, key, None) for key in (name, f"clip_{name}"))
    end = next((t.end_token for t in tokenizers if hasattr(t, "end_token")), None)
    mask = []
    for chunk in tokens[name]:
        real = 1
        for token, *_ in chunk:
            vectors = 1 if isinstance(token, Integral) else _vectors(token)
            mask += [real] * vectors
            if isinstance(token, Integral) and token == end:
                real = 0
    return torch.tensor([mask])


def _vectors(embedding: Any) -> int:
    """Tokens that a learned embedding in the prompt takes up."""
    if isinstance(embedding, Tensor):
        return embedding.numel() // embedding.shape[-1]
    return 1
