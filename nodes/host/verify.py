"""Whether a file's tensors are those that its card vouches for: asked on demand, for it reads the
whole file."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Any, Literal

from ...stiv.checkpoint import read_card, stored_tensors, tensor_hash
from ...stiv.convert.foreign import open_foreign
from .cards import path_of

_MOST_KEPT = 64

State = Literal["running", "verified", "different", "not_stated", "failed"]


@dataclass
class Check:
    """The state of one file's verification."""

    state: State = "running"
    """not_stated: the card has no hash to compare with."""
    done: int = 0
    """Bytes read so far, of `total`."""
    total: int = 0
    message: str = ""
    """Why it failed."""


_checks: dict[tuple[str, int, int], Check] = {}
_lock = threading.Lock()
_one_at_a_time = threading.Lock()  # a disk serves one long reader best


def verification_of(folder: str, name: str) -> dict[str, Any]:
    """How far the verification of a file is, as JSON; it begins where nobody asked before.

    Returns at once. A file is read once, until it changes. Raises ValueError and
    FileNotFoundError as `card_of` does, OSError where the disk fails.
    """
    path = path_of(folder, name)
    status = os.stat(path)
    check = _check_of((path, status.st_mtime_ns, status.st_size), name)
    progress = check.done / check.total if check.total else 0.0
    return {"state": check.state, "progress": progress, "message": check.message}


def _check_of(key: tuple[str, int, int], name: str) -> Check:
    with _lock:
        if key in _checks:
            return _checks[key]
        if len(_checks) >= _MOST_KEPT:
            for done in [key for key, check in _checks.items() if check.state != "running"]:
                del _checks[done]
        if len(_checks) >= _MOST_KEPT:
            raise ValueError("too many files are being verified: try again later")
        check = _checks[key] = Check()
    threading.Thread(target=_verify, args=(key[0], name, check), daemon=True).start()
    return check


def _verify(path: str, name: str, check: Check) -> None:
    with _one_at_a_time:
        try:
            check.state = _compare(path, check)
        except Exception as error:
            if not isinstance(error, ValueError | OSError):  # a CheckpointError is a ValueError
                logging.exception("STIV: %s could not be verified", path)
            # where the models lie on the server is its own affair
            check.message = str(error).replace(path, name) or type(error).__name__
            check.state = "failed"


def _compare(path: str, check: Check) -> State:
    if open_foreign(path) or read_card(path).tensor_hash is None:
        return "not_stated"
    card, tensors = stored_tensors(path)

    def tell(what: str, done: int, total: int) -> None:
        check.done, check.total = done, total

    return "verified" if tensor_hash(tensors, tell) == card.tensor_hash else "different"
