"""One worker process: `python -m training.data.worker`, driven by `training.data.workers`.

It answers requests on standard input until that closes, by the function that its command line names
(module:function). A message is a length (8 bytes, little
end first) and so many bytes of JSON, whose `bytes` says how many bytes of pixels follow.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

LARGEST_HEADER = 2**28  # bytes
LARGEST_BODY = 2**34
MEMORY = 2**33  # bytes of address space: a file that wants more is refused, not the machine


def send(stream: BinaryIO, header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Writes one message."""
    text = json.dumps({**header, "bytes": len(body)}).encode()
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)
    stream.write(body)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Reads one message. Raises EOFError where the other side is gone."""
    length = int.from_bytes(_exactly(stream, 8), "little")
    if length > LARGEST_HEADER:
        raise EOFError(f"a message of {length} bytes")
    header = json.loads(_exactly(stream, length))
    size = int(header["bytes"])
    if not 0 <= size <= LARGEST_BODY:
        raise EOFError(f"{size} bytes of pixels")
    return header, _exactly(stream, size)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError("the other process is gone")
    return data


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Does one job; what goes wrong with the file is part of the answer."""
    from dataclasses import asdict

    from .cutting import Cut, Cutting, Drop, cut, plan, source_from_json

    try:
        source, cutting = source_from_json(request["source"]), Cutting(**request["cutting"])
        if request["job"] == "plan":
            return {"cuts": [asdict(c) for c in plan(source, cutting)]}, b""
        clip = cut(source, cutting, Cut(**request["cut"]))
        return {"shape": clip.shape}, clip.data.cast("B")
    except Drop as drop:
        return {"drop": [drop.reason, drop.detail]}, b""
    except MemoryError:
        return {"error": f"needs more than {MEMORY} bytes of memory"}, b""
    except Exception as error:
        text = str(error) if type(error).__module__.startswith("training.") else repr(error)
        return {"error": text[:500]}, b""


def _limit_memory(size: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if size:
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ImportError, ValueError, OSError):
        pass  # not on this platform


def _function(name: str) -> Callable[[dict[str, Any]], tuple[dict[str, Any], Any]]:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main() -> None:
    """Arguments: module:function that answers, bytes of address space (0 = any)."""
    # What libraries print must not get between the messages.
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    name, memory = sys.argv[1:]
    _limit_memory(int(memory))
    # A signal to the whole group is for the parent: it decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import av

    av.logging.set_level(av.logging.PANIC)
    respond = _function(name)
    send(answers, {"ready": True})
    while True:
        try:
            request, _ = receive(requests)
        except EOFError:
            return
        # Should the parent be gone, this process does not hang on a file for ever.
        faulthandler.dump_traceback_later(2 * request["limit"] + 5, exit=True)
        header, body = respond(request)
        faulthandler.cancel_dump_traceback_later()
        send(answers, header, body)


if __name__ == "__main__":
    main()
