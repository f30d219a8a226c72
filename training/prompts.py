"""Prompts for a checkpoint whose text encoder lies in a file of its own.

The encoder may be ten times the size of the model, so it is here only while it encodes: what it
gives is kept, and is what a text cache would hold.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path

import torch

from stiv.card import Card

from .caches.text import TextStates
from .encoders.text import describe_text, open_text_encoder, text_encoder_of


def check_text_encoder(checkpoint: Path, card: Card, file: Path | None) -> None:
    """Whether a text encoder's file is what a checkpoint needs; its header is all that is read.

    file: None for a checkpoint with its own encoder inside. Raises ValueError naming the file, what
    it is and what was expected; CheckpointError for a file that is damaged.
    """
    if card.tokenizer is not None:
        if file is not None:
            raise ValueError(f"{checkpoint} has its text encoder inside: leave out --text-encoder")
        return
    wanted = describe_text(card.text)
    if file is None:
        raise ValueError(
            f"{checkpoint}: its text encoder ({wanted}) is not inside: name its file, as in "
            "ComfyUI's models/text_encoders, by --text-encoder"
        )
    found = text_encoder_of(file)
    names = ("encoder", "width", "pooled_width")
    # "custom" is any encoder of the right widths.
    if found is None or any(card.text[n] not in (found[n], "custom") for n in names):
        is_what = describe_text(found) if found else "no text encoder of a kind that is known"
        raise ValueError(
            f"{file} is {is_what}; {checkpoint} was trained with {wanted}: give that encoder's file"
        )


def encode_prompts(
    prompts: Iterable[str],
    card: Card,
    file: Path,
    *,
    tokenizer: Path | None = None,
    device: torch.device | str = "cpu",
) -> TextStates:
    """The states of prompts, and of the empty one, by an encoder that is gone on return.

    tokenizer: a folder, see `open_text_encoder`. Raises ValueError where that is not found;
    CheckpointError for a file that is not whole.
    """
    encoder = open_text_encoder(
        text_encoder_of(file)["encoder"],
        file,
        tokenizer=tokenizer,
        max_tokens=card.text["max_tokens"],
        device=device,
        any_size=True,  # the card's, see `check_text_encoder`
    )
    states = TextStates(prompts, encoder)
    del encoder
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return states
