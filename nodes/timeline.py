"""The frame timeline: pictures and clips on a strip of the video's frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from comfy_api.latest import io

from ..stiv.frame_timeline import MAX_FRAMES, Item, check_places, read_timeline
from ..stiv.frames import GivenFrames
from ..stiv.prompts import quote
from .frames import GivenFramesType
from .host.pictures import find, read_frames, sha256

_NAME = "STIV Timeline"


class STIVTimeline(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVTimeline",
            display_name=_NAME,
            category="STIV/frames",
            description=(
                "Drop pictures and clips on a strip of the video's frames and move them to where "
                "they belong; the model makes the frames between. The same as Load Image and STIV "
                "Place Frames for every one of them."
            ),
            search_aliases=[
                "stiv", "timeline", "keyframe", "storyboard", "image to video",
                "first last frame", "i2v", "frame strip",
            ],
            inputs=[
                io.Int.Input(
                    "frames", default=16, min=1, max=MAX_FRAMES,
                    tooltip=(
                        "Length of the video in frames, as in STIV Empty Latent or the plan. "
                        "Pictures beyond it are kept and shown, but have to be moved or removed "
                        "before the video is made."
                    ),
                ),
                io.String.Input(
                    "timeline", default="", multiline=True,
                    tooltip=(
                        "What lies on the strip, as JSON. The strip writes it; it can also be "
                        "written by hand, the help page of this node says how."
                    ),
                ),
                GivenFramesType.Input(
                    "stiv_frames", optional=True,
                    tooltip="Frames placed before, by STIV Place Frames or another STIV Timeline.",
                ),
            ],
            outputs=[
                GivenFramesType.Output(
                    display_name="stiv_frames",
                    tooltip="All frames placed so far, for STIV Frame Replacement or a plan.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, timeline: str | None) -> bool | str:
        if timeline is None:  # comes by wire: seen when the node runs
            return True
        try:
            with _named():
                _look_up(read_timeline(timeline))
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, timeline: str | None = None, **others: object) -> list[str]:
        """The content of every file, so that a changed one is taken up on the next run."""
        try:
            return [sha256(find(item.file)) for item in read_timeline(timeline or "")]
        except (ValueError, OSError):
            return []  # refused before it runs

    @classmethod
    def execute(
        cls, frames: int, timeline: str, stiv_frames: GivenFrames | None = None
    ) -> io.NodeOutput:
        given = stiv_frames or GivenFrames()
        with _named():
            items = read_timeline(timeline)
            check_places(items, frames)
            paths = _look_up(items)
        for item, path in zip(items, paths, strict=True):
            with _named(f"{quote(item.file)} "):
                pictures = read_frames(path, item.taken)
            given = given.place(pictures, item.text)
        return io.NodeOutput(given)


@contextmanager
def _named(file: str = "") -> Iterator[None]:
    """Errors name the node, and the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{_NAME}: {file}{error}") from None


def _look_up(items: tuple[Item, ...]) -> list[str]:
    """Paths of the items' files, of which each is checked to be there and the one that was meant.

    Raises ValueError naming all that are missing or others, up to a few.
    """
    paths, troubles = [], []
    for item in items:
        try:
            paths.append(_checked(item))
        except (ValueError, OSError) as error:
            troubles.append(str(error))
    if troubles:
        more = f"; and {len(troubles) - 3} more" if len(troubles) > 3 else ""
        raise ValueError("; ".join(troubles[:3]) + more)
    return paths


def _checked(item: Item) -> str:
    path = find(item.file)
    if item.sha256 and sha256(path) != item.sha256:
        raise ValueError(
            f"{quote(item.file)} in ComfyUI's input folder is not the file that was placed (its "
            "SHA-256 differs): put the right one there, or place this one anew"
        )
    return path
