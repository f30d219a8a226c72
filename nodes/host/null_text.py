"""No prompt, for models that have text states of their own for it (PixArt-alpha, Open-Sora 1.0).

In their training a dropped prompt was not the text encoder's empty prompt but a fixed table, of
which as many rows were read as the dropped prompt had tokens. Sampling did the same: the negative
has the length of the positive.
"""

from __future__ import annotations

from typing import Any

EMPTY = "stiv_empty"
"""Key in a conditioning: true where STIV Text Encode was given no text."""
TOKENS = "stiv_tokens"
"""Key in a conditioning without text: tokens of the prompt that it is the negative of."""


def prompt_length(conds: dict[str, list[dict[str, Any]]]) -> int | None:
    """Tokens of the positive prompt of a sampling run; None where there is no text."""
    prompts = [c for c in conds.get("positive") or [] if not c.get(EMPTY)]
    texts = (c["cross_attn"] for c in prompts if c.get("cross_attn") is not None)
    return next((text_BLD.shape[1] for text_BLD in texts), None)


def fit_null_text(conds: dict[str, list[dict[str, Any]]]) -> None:
    """Tell conditionings without text the length of the positive one; in place.

    conds: of a sampling run, before the model prepares them. A positive without text is as long
    as the table.
    """
    length = prompt_length(conds)
    for entry in (entry for kind in conds.values() for entry in kind or []):
        if entry.get(EMPTY) and length:
            entry[TOKENS] = length
