"""Pictures of the clips that the report shows: a few frames of each in one small JPEG.

Files are decoded in worker processes with a time limit, as everywhere. A clip that cannot be shown
has the reason in the place of its picture.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from ...data.workers import Workers
from ..reader import Reader
from .picks import Clip

WIDTH, HEIGHT = 384, 216  # pixels that a picture has at most
LARGEST = 16 * 2**20
"""Bytes of all pictures of a page; what is beyond has none."""

_QUALITY = 74
_LONGEST_REASON = 200
# frames across and down, for clips at least so wide for their height
_GRIDS = ((1.2, 2, 2), (0.8, 2, 1), (0.0, 3, 1))


def pictures(
    clips: Iterable[Clip],
    media: Path,
    uses: Mapping[str, int],
    *,
    workers: int = 2,
    limit: float = 60.0,
) -> Iterator[tuple[str, bytes | str]]:
    """The id of each clip with a JPEG of it, or why there is none, in the order of the clips.

    media: the folder that the rows' paths are relative to. uses: how often the page shows each id.
    limit: seconds for a clip. Raises RuntimeError where no worker process can be started.
    """
    size = 0

    def request(clip: Clip) -> dict[str, Any]:
        return {"row": clip.row, "root": os.path.abspath(media)}

    with Workers(workers, limit, answer=f"{__name__}:answer") as pool:
        for clip, (reply, jpeg) in pool.ordered(clips, request, ahead=2 * workers):
            size += len(jpeg) * uses[clip.id]
            if "error" in reply:
                yield clip.id, reply["error"][:_LONGEST_REASON]
            elif size > LARGEST:
                yield clip.id, "left out, so that the page does not get too large"
            else:
                yield clip.id, jpeg


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The picture of one row; called in a worker process."""
    try:
        return {}, picture(Reader(request["row"], Path(request["root"])))
    except Exception as error:
        text = str(error) if isinstance(error, ValueError) and str(error) else repr(error)
        return {"error": text}, b""


def picture(reader: Reader) -> bytes:
    """JPEG with frames from the middles of equal parts of the clip, in reading order.

    Raises MediaError where they cannot be decoded.
    """
    height, width = reader.source["height"], reader.source["width"]
    across, down = next(grid[1:] for grid in _GRIDS if width >= grid[0] * height)
    scale = min(WIDTH / across / width, HEIGHT / down / height, 1.0)
    cell = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (cell[0] * across, cell[1] * down))
    for place, frame in enumerate(_frames(reader, across * down)):
        corner = place % across * cell[0], place // across * cell[1]
        sheet.paste(frame.resize(cell, Image.Resampling.LANCZOS), corner)
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=_QUALITY, optimize=True)
    return data.getvalue()


def _frames(reader: Reader, count: int) -> Iterator[Image.Image]:
    if not reader.media.can_seek:
        yield from map(Image.fromarray, reader.uniform(count))
        return
    segment, source = reader.row.get("segment"), reader.source
    if segment:
        start, end = segment["start"], segment["end"]
    else:
        start = source["first"]
        end = start + int(source["seconds"] / Fraction(*source["base"]))
    wanted = [start + int((end - start) * (part + 0.5) / count) for part in range(count)]
    for moment in wanted:  # each by itself: what lies between is not decoded
        yield from reader.media.frames([moment])
