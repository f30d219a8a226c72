"""Make every workflow's thumbnail and its picture in the gallery from what it renders itself.

make thumbnails
python3 scripts/prepare.py run -m scripts.thumbnails image_to_video
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.host import ComfyServer, HostError, Run
from scripts.prepare import ROOT, PrepareError, need_host

if TYPE_CHECKING:
    from PIL.Image import Image

WORKFLOWS = ROOT / "workflows"
GALLERY = ROOT / "docs" / "gallery"
CELL, GAP = 256, 8  # pixels: the side of a picture in the thumbnail, and between two of them
MOMENTS = (0, 1 / 3, 2 / 3, 1)  # of a video that are shown, in reading order
LARGEST = 60_000  # bytes
MOVING_SIDE, MOVING_FPS, MOVING_FRAMES = 256, 12, 72  # of the gallery's pictures, at most
MOVING_LARGEST = 150_000  # bytes


def read_frames(path: Path) -> tuple[list[Image], float]:
    """Every frame of a saved video, and its frames per second; a picture is a video of one."""
    import av

    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return [frame.to_image() for frame in container.decode(video=0)], float(rate or 1)


def thumbnail(frames: Sequence[Image]) -> Image:
    """The picture itself, or four moments of a video two by two: cards in the browser of templates
    are square, and a strip would be cropped."""
    from PIL import Image

    if len(frames) == 1:
        return _fit(frames[0], 2 * CELL + GAP)
    cells = [_fit(frames[round(moment * (len(frames) - 1))], CELL) for moment in MOMENTS]
    width, height = cells[0].size
    sheet = Image.new("RGB", (2 * width + GAP, 2 * height + GAP), "white")
    for index, cell in enumerate(cells):
        sheet.paste(cell, ((width + GAP) * (index % 2), (height + GAP) * (index // 2)))
    return sheet


def jpeg(image: Image, largest: int = LARGEST) -> bytes:
    """The image as JPEG in the best quality that takes at most `largest` bytes."""
    for quality in range(90, 20, -10):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= largest:
            break
    return buffer.getvalue()


def moving(frames: Sequence[Image], fps: float, largest: int = MOVING_LARGEST) -> bytes:
    """The video as an animated WebP that plays as fast as it does, without end, in the best quality
    that takes at most `largest` bytes; a picture stays one, twice as large.

    Of fast videos frames are left out, of long ones the end.
    """
    step = max(1, round(fps / MOVING_FPS))
    side = MOVING_SIDE if len(frames) > 1 else 2 * MOVING_SIDE
    shown = [_fit(frame, side) for frame in frames[::step][:MOVING_FRAMES]]
    for quality in range(80, 10, -10):
        buffer = io.BytesIO()
        shown[0].save(
            buffer, "WEBP", save_all=True, append_images=shown[1:], loop=0, quality=quality,
            duration=round(1000 * step / fps), method=6,
        )  # fmt: skip
        if buffer.tell() <= largest:
            break
    return buffer.getvalue()


def _fit(image: Image, side: int) -> Image:
    """Resized so that the longer side is `side`."""
    scale = side / max(image.size)
    return image.convert("RGB").resize(tuple(round(scale * s) for s in image.size), resample=3)


def render(server: ComfyServer, path: Path) -> Run:
    """Run a workflow; write its thumbnail beside it, and its picture in the gallery."""
    run = server.run_workflow(path, timeout=3600)
    saved = [file for file in run.files if server.output_dir in file.parents]
    if not saved:
        raise HostError(f"{path.name} saved no file")
    frames, fps = read_frames(saved[-1])
    path.with_suffix(".jpg").write_bytes(jpeg(thumbnail(frames)))
    GALLERY.mkdir(exist_ok=True)
    (GALLERY / f"{path.stem}.webp").write_bytes(moving(frames, fps))
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    names = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    parser = argparse.ArgumentParser(prog="scripts.thumbnails", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="workflow", help=f"of {', '.join(names)}")
    parser.add_argument("--cpu", action="store_true", help="leave the accelerator alone")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"there is no workflow {unknown[0]!r}: choose of {', '.join(names)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    try:
        comfyui = need_host()
        with (
            tempfile.TemporaryDirectory(prefix="stiv-thumbnails-") as base,
            ComfyServer(comfyui, base=Path(base), cpu=options.cpu or None) as server,
        ):
            for name in options.names or names:
                path = WORKFLOWS / f"{name}.json"
                run = render(server, path)
                print(f"{path.with_suffix('.jpg')} ({run.seconds:.1f} s)", flush=True)
    except (HostError, PrepareError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
