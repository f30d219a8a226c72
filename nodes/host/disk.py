"""Whether there is room on a disk, asked before hours of work."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...stiv.store import as_text


def check_disk(wanted: Mapping[Path, int], what: str) -> None:
    """Raise OSError, naming the folder, unless so many bytes can be written into each of them.

    Folders that are missing are made. Those on one disk share what is free there.
    """
    needed: dict[int, int] = {}
    for folder, count in wanted.items():
        disk = _writable(folder, what)
        needed[disk] = needed.get(disk, 0) + count
        free = shutil.disk_usage(folder).free
        if needed[disk] > free:
            raise OSError(
                f"{folder}: no disk space for {what}: {as_text(needed[disk])} are needed, "
                f"{as_text(free)} are free: make room on the disk, or choose another folder"
            )


def _writable(folder: Path, what: str) -> int:
    """The number of the disk that a folder is on. Raises OSError unless it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"?")
        return folder.stat().st_dev
    except OSError as error:
        raise OSError(
            f"{folder}: {what} cannot be written ({error.strerror or error}): make room on the "
            "disk, give ComfyUI the right to write there, or choose another folder"
        ) from error
