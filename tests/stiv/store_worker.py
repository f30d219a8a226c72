"""What processes do with a store, for tests that end them, or let several work at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from stiv.store import SegmentStore

KEYS = [f"{n:02x}" * 32 for n in range(12)]


def content(key: str, version: int) -> dict[str, torch.Tensor]:
    """What may be stored for a key; every tensor tells which key and version it belongs to."""
    mark = int(key[:2], 16) * 1000 + version
    return {"a": torch.full((64, 32), mark), "b": torch.full((17,), float(mark))}


def is_right(key: str, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether all of it is of this key and of one version."""
    version = int(tensors["b"][0]) - int(key[:2], 16) * 1000
    wanted = content(key, version)
    return 0 <= version < 1000 and all(torch.equal(tensors[n], wanted[n]) for n in wanted)


def start(act: Callable[..., None], folder: Path, limit: int, *more: object) -> BaseProcess:
    """A process of its own that uses a store in `folder` from now on. Fork: it starts at once."""
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(act, folder, limit, *more), daemon=True
    )
    process.start()
    return process


def _run(act: Callable[..., None], folder: Path, limit: int, *more: object) -> None:
    act(SegmentStore(folder, limit, grace=0.0), *more)


def put_for_ever(store: SegmentStore) -> None:
    version = 0
    while True:
        for key in KEYS:
            store.put(key, content(key, version % 1000), {"version": version})
            store.put_file(key, ".mp4", key.encode() * 500)
        version += 1


def churn(store: SegmentStore, seed: int) -> None:
    """Puts, reads, keeps and lists at random; ends with an error when anything is wrong."""
    draw = random.Random(seed)
    said: list[str] = []
    logging.getLogger().addHandler(_Collect(said))
    for _ in range(250):
        key, act = draw.choice(KEYS), draw.randrange(6)
        if act <= 1:
            store.put(key, content(key, draw.randrange(1000)), {"seed": seed})
        elif act == 2:
            store.put_file(key, ".mp4", key.encode() * 500)
        elif act == 3:
            path = store.path(key, ".mp4")
            assert path is None or path.suffix == ".mp4"
        elif act == 4:
            store.keep(draw.sample(KEYS, 4))
        else:
            info = store.info(key)
            assert info is None or set(info) == {"created", "seed"}
        found = store.get(key)
        assert found is None or is_right(key, found), key
    assert not said, said
    os._exit(0)  # nothing of the parent's to tidy up


class _Collect(logging.Handler):
    def __init__(self, messages: list[str]):
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
