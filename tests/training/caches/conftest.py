"""Small real encoders and clips for the caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from stiv.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer, build_vocabulary
from tests.training.vaes import make_vae
from training.encoders.text import FrozenText
from training.encoders.vae import FrameVAE


@dataclass(frozen=True)
class Clip:
    """As `training.data.clips.Clip`."""

    frames: np.ndarray
    captions: tuple[str, ...]
    micro: tuple[float, ...]
    key: str
    content: str
    fps: float


def make_clip(number: int, shape: tuple[int, int, int] = (2, 16, 16), **other: object) -> Clip:
    """A clip of random frames, a function of its number and content."""
    content = other.get("content", f"{number:064x}")
    rng = np.random.default_rng([number, *content.encode()])
    values = {
        "frames": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "captions": (f"clip {number}", f"a clip, the {number}th"),
        "micro": (float(number), 20.0, 1.0, 2.0, 3.0, float(shape[0])),
        "key": f"folder/{number}.mp4#0",
        "content": content,
        "fps": 8.0,
    }
    return Clip(**{**values, **other})


def make_clips(count: int, start: int = 0) -> Iterator[Clip]:
    """Clips of two buckets in turn."""
    for number in range(start, start + count):
        yield make_clip(number, (2, 16, 16) if number % 3 else (1, 16, 24))


def make_text(pooled: bool = True, max_tokens: int = 12) -> FrozenText:
    """The pack's own text encoder, randomly initialised: as many states as a caption has tokens."""
    tokenizer = Tokenizer(build_vocabulary(["red", "circle"]), max_tokens)
    config = TextEncoderConfig(
        width=16, depth=1, heads=2, max_tokens=max_tokens, vocab_size=len(tokenizer)
    )
    network = TextEncoder(config)
    network.init_weights(torch.Generator().manual_seed(0))

    def run(ids: torch.Tensor, mask: torch.Tensor):
        states, end = network(ids, mask)
        return states, end if pooled else None

    return FrozenText(
        "nano", run, lambda caption: [tokenizer.encode(caption)], digest="a" * 64, width=16,
        pooled_width=16 if pooled else 0, max_tokens=max_tokens, batch=4,
    )  # fmt: skip


@pytest.fixture(scope="session")
def vae() -> FrameVAE:
    return make_vae()


@pytest.fixture(scope="session")
def other_vae() -> FrameVAE:
    return make_vae(1)


@pytest.fixture(scope="session")
def clip() -> Callable[..., Clip]:
    return make_clip


@pytest.fixture(scope="session")
def clips() -> Callable[..., Iterator[Clip]]:
    return make_clips


@pytest.fixture(scope="session")
def text() -> Callable[..., FrozenText]:
    return make_text
