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
from .state import states

if TYPE_CHECKING:
    from .config import TrainConfig


def vocabulary_of(config: TrainConfig) -> list[str]:
    """The vocabulary of a run: the one it began with, that of the checkpoint whose text encoder it
    takes, or its data's.

    Raises ValueError where that checkpoint holds none.
    """
    if _is_kept(config):
        return json.loads(_file(config).read_text(encoding="utf-8"))
    if config.text.weights:
        return _vocabulary_in(config.text.weights, "text.weights")
    if config.init and config.init.text_encoder:
        return _vocabulary_in(config.init.weights, "init")
    if config.data.kind == "shapes":
        from .shapes.captions import vocabulary

        return build_vocabulary(vocabulary())
    from .caches.latents import captions

    folders = [config.data.folder(name) for name in {s.set: None for s in config.data.streams}]
    texts = (caption for folder in folders for caption in captions(folder))
    return build_vocabulary(frequent_words(texts, config.text.vocabulary))


def keep_vocabulary(config: TrainConfig, vocabulary: Sequence[str]) -> None:
    """Write it beside the run's states, so that a cache that grows does not change it."""
    if _is_kept(config):
        return
    file = _file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as part:
        part.write_text(json.dumps(list(vocabulary), ensure_ascii=False), encoding="utf-8")


def frequent_words(texts: Iterable[str], count: int) -> list[str]:
    """The `count` most frequent pieces of the texts, equally frequent ones in their order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pieces(text))
    return sorted(counts, key=lambda piece: (-counts[piece], piece))[:count]


def _vocabulary_in(checkpoint: Path, key: str) -> list[str]:
    tokenizer = read_card(checkpoint).tokenizer
    if tokenizer is None:
        raise ValueError(f"{key} {checkpoint}: no text encoder of our own inside")
    return list(tokenizer.vocab)


def _is_kept(config: TrainConfig) -> bool:
    """Only by a run that was saved: one whose start failed may begin with other words."""
    return _file(config).exists() and bool(states(config.run))


def _file(config: TrainConfig) -> Path:
    return config.run / "vocabulary.json"
