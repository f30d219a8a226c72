"""Files that are not what their name says, and what reading them may cost."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stiv import STIVConfig
from stiv.card import Card
from stiv.checkpoint import CheckpointError, expected_shapes, read_checkpoint
from stiv.public import LATENT_SPACES

CONFIG = STIVConfig(width=8, depth=1, heads=1, text_width=4, pooled_width=4, mask_decoder_blocks=0)
TEXT = {"encoder": "custom", "width": 4, "pooled_width": 4, "max_tokens": 8}
CARD = Card(config=CONFIG, latents=LATENT_SPACES["sd"], text=TEXT)
MEMORY_LIMIT = 32 * 2**20


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in expected_shapes(CONFIG).items()}


def packed(header: object, data: bytes = b"") -> bytes:
    """A file of this header, as JSON unless it is bytes already, and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def edited(good: bytes, edit: Callable[[dict], object]) -> bytes:
    """The good file with its header's table edited in place."""
    length = struct.unpack("<Q", good[:8])[0]
    table = json.loads(good[8 : 8 + length])
    edit(table)
    return packed(table, good[8 + length :])


def refusal(path: Path) -> str:
    """The one-line error of a file, which must cost next to no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_LIMIT
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable() and len(message) <= 1000
    assert message.startswith(str(path)) and ";" in message
    return message


def only_refuses(path: Path, content: bytes) -> None:
    """Reads, or refuses in one line; never anything else, never much memory."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        card, _ = read_checkpoint(path)
        card.summary()
    except CheckpointError as error:
        assert str(error).isprintable()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT
