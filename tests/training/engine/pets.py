"""A small question to a model, for tests of what asks models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from tests.training.engine.chat_server import ChatServer
from training.engine.language.ask import Answer, Asker, Form
from training.engine.language.turns import Turn

GOOD = '{"animal": "cat", "count": 2}'


class Pets(Form):
    animal: Literal["cat", "dog"]
    count: int


def frame(value: int = 90, height: int = 24, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def turn(text: str = "How many?", *frames: np.ndarray) -> Turn:
    return Turn("user", text, frames)


def ask(server: ChatServer, folder: Path | None = None, **changes) -> Answer:
    """Asks the server for pets. changes: of the model's settings."""
    asker = Asker(server.model(**changes), folder)
    try:
        return asker.ask(Pets, turn(), 50)
    finally:
        asker.backend.close()
