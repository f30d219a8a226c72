"""What the pack adds to the server's start: the time of its import as the host's log gives it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator

from scripts.host import ComfyServer
from scripts.prepare import need_host


def run() -> Iterator[dict]:
    """Three starts of the real server on the CPU."""
    seconds = []
    for _ in range(3):
        with (
            tempfile.TemporaryDirectory(prefix="stiv-bench-") as base,
            ComfyServer(need_host(), base=base, cpu=True) as server,
        ):
            found = re.search(r"([0-9.]+) seconds: .*ComfyUI-STIV", server.log)
            seconds.append(float(found[1]))
    yield {"what": "import of the pack in the server", "seconds": seconds}
