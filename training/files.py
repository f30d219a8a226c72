"""Files that are either whole or not there, and what they are told apart by."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name `path` when the block ends well.

    On an error the file that was there stays and the part is removed. The part keeps the suffix
    (writers choose the format by it) and its name begins with a dot, so that a listing of the
    folder's results does not show it. Raises OSError when the file cannot be written.
    """
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield part
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path, expected: str, *, largest: int = 2**28) -> Any:
    """What a stranger's JSON file holds, of at most `largest` bytes.

    Raises ValueError, naming the file and what was expected, for one that is missing, larger, or no
    JSON.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: expected {expected}")
    if path.stat().st_size > largest:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: expected {expected}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): expected {expected}") from None
