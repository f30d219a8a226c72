"""The words that a run's own small text encoder knows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stiv.checkpoint import read_card
from stiv.text_encoder import build_vocabulary, pieces

from .files import atomic

if TYPE_CHECKING:
    from .config import TrainConfig


def vocabulary_of(config: TrainConfig) -> list[str]:
    """The vocabulary of a run: the one it began with, its first checkpoint's, or its data's.

    Raises ValueError where the checkpoint whose text encoder it takes holds none.
    """
    kept = _file(config)
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    if config.init and config.init.text_encoder:
        tokenizer = read_card(config.init.weights).tokenizer
        if tokenizer is None:
            raise ValueError(f"init {config.init.weights}: no text encoder of our own inside")
        return list(tokenizer.vocab)
    if config.data.kind == "shapes":
        from .shapes.captions import vocabulary

        return build_vocabulary(vocabulary())
    from .caches.latents import captions

    folders = [config.data.folder(name) for name in {s.set: None for s in config.data.streams}]
    texts = (caption for folder in folders for caption in captions(folder))
    return build_vocabulary(frequent_words(texts, config.text.vocabulary))


def keep_vocabulary(config: TrainConfig, vocabulary: Sequence[str]) -> None:
    """Write it beside the run's states, so that a cache that grows does not change it."""
    file = _file(config)
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as part:
        part.write_text(json.dumps(list(vocabulary), ensure_ascii=False), encoding="utf-8")


def frequent_words(texts: Iterable[str], count: int) -> list[str]:
    """The `count` most frequent pieces of the texts, equally frequent ones in their order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pieces(text))
    return sorted(counts, key=lambda piece: (-counts[piece], piece))[:count]


def _file(config: TrainConfig) -> Path:
    return config.run / "vocabulary.json"
