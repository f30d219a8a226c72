"""The parts of a long video for wiring by hand, with other nodes, or another model, in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import InputImpl, io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..stiv.frames import GivenFrames, canvas_size
from ..stiv.plan import Plan, Segment
from ..stiv.seams import frame_statistics, join_statistics, seam_report, to_text
from ..stiv.timeline import given_sources
from .frames import GivenFramesType, STIVEmptyLatent, fit_to_canvas, one_video
from .host.film import Film, finish
from .host.fingerprint import fingerprint
from .host.pieces import CRF, encode_piece
from .host.report import tell
from .host.segments import LongVideo, as_given
from .plan import PlanType

_MOST = 100  # inputs of one node, by the host's limit


class STIVKeyFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVKeyFrames",
            display_name="STIV Key Frames",
            category="STIV/long video",
            description=(
                "What a plan's key frames are made of, to wire them by hand: latent, given frames, "
                "prompt and seed for a sampler of your choice."
            ),
            search_aliases=["stiv", "key frames", "long video by hand"],
            inputs=[
                PlanType.Input("plan", tooltip="From STIV Long Video Plan."),
                io.Int.Input(
                    "number", default=0, min=0, max=100_000,
                    tooltip="Which window of key frames, where there are more than one.",
                ),
                io.Latent.Input(
                    "key_frames", optional=True,
                    tooltip="For windows after the first: all key frames so far, in order.",
                ),
            ],
            outputs=[*_parts(), *_size()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, plan: LongVideo, number: int, key_frames: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        segment = _find(plan.plan, f"key{number}", "STIV Key Frames")
        parts = _handed_out(plan, segment, key_frames, "STIV Key Frames").result
        return io.NodeOutput(*parts, *_size_of(plan.plan, segment))


class STIVSegment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVSegment",
            display_name="STIV Segment",
            category="STIV/long video",
            description=(
                "What one segment of a plan is made of, to wire it by hand: latent, given frames, "
                "prompt and seed for a sampler of your choice, and its first and last picture for "
                "any other image-to-video model."
            ),
            search_aliases=["stiv", "segment", "long video by hand", "first last frame"],
            inputs=[
                PlanType.Input("plan", tooltip="From one of the plan nodes."),
                io.Int.Input(
                    "number", default=0, min=0, max=100_000, tooltip="Which segment, from 0."
                ),
                io.MultiType.Input(
                    "made", [io.Latent, io.Image], optional=True,
                    tooltip=(
                        "What was made before: all key frames of the plan in order, or the segment "
                        "before this one. As latents nothing is lost; pictures may come from "
                        "anywhere, an upscaler for example."
                    ),
                ),
            ],
            outputs=[
                *_parts(),
                io.Image.Output(
                    display_name="first", tooltip="The first picture, if it is given as one."
                ),
                io.Image.Output(
                    display_name="last", tooltip="The last picture, if it is given as one."
                ),
                *_size(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, plan: LongVideo, number: int, made: Any = None) -> io.NodeOutput:
        if plan.plan.mode == "interpolate" and plan.plan.stride > 2:
            raise ValueError(
                f"STIV Segment: by hand a clip is doubled once at a time, the plan's factor is "
                f"{plan.plan.stride}: set it to 2, join the segments, and plan the result again"
            )
        prefix = "x2_" if plan.plan.mode == "interpolate" else "seg"
        segment = _find(plan.plan, f"{prefix}{number}", "STIV Segment")
        parts = _handed_out(plan, segment, made, "STIV Segment").result
        given = parts[1].resolve(segment.count)
        ends = {frame.position: frame.frame for frame in given if frame.kind == "image"}
        pictures = [
            ends[index][None, : plan.plan.height, : plan.plan.width, :3]
            if index in ends
            else ExecutionBlocker(
                f"STIV Segment: {name} of {segment.name} is not given as a picture: connect "
                "pictures to made (VAE Decode makes them of latents)"
            )
            for name, index in (("first", 0), ("last", segment.count - 1))
        ]
        return io.NodeOutput(*parts, *pictures, *_size_of(plan.plan, segment))


class STIVJoinSegments(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.Autogrow.TemplatePrefix(
            io.Image.Input("segment", tooltip="Frames of one segment, in order."),
            prefix="segment", min=1, max=_MOST,
        )  # fmt: skip
        return io.Schema(
            node_id="STIVJoinSegments",
            display_name="STIV Join Segments",
            category="STIV/long video",
            description=(
                "Join segments into one video. The frames that two neighbours share are shown "
                "once, and the report says how well they meet. Any frames will do."
            ),
            search_aliases=["stiv", "join", "concatenate videos", "seams", "long video by hand"],
            inputs=[
                io.Autogrow.Input(
                    "segments", template=template,
                    tooltip="The segments' frames, in order; a new input appears for the next.",
                ),
                io.Float.Input(
                    "fps", default=8.0, min=0.01, max=1000.0, step=0.01,
                    tooltip="Frames per second.",
                ),
                io.Int.Input(
                    "shared", default=1, min=0, max=4095,
                    tooltip=(
                        "Frames at the end of each segment that the next one begins with: 1 for "
                        "key frames, as many as were carried for a roll-out, twice the overlap "
                        "for an interpolation."
                    ),
                ),
                io.Boolean.Input(
                    "images", default=False,
                    tooltip="On: give all frames at the output images, which takes memory.",
                ),
                io.Int.Input(
                    "crf", default=CRF, min=0, max=51, optional=True, advanced=True,
                    tooltip="Quality of the video file: 0 is lossless, 18 fine, 28 small.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="All frames, if switched on."),
                io.Video.Output(display_name="video", tooltip="For Save Video."),
                io.String.Output(display_name="report", tooltip="How the seams came out."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        segments: dict[str, Tensor],
        fps: float,
        shared: int,
        images: bool,
        crf: int = CRF,
    ) -> io.NodeOutput:
        parts = [segments[name][..., :3] for name in sorted(segments, key=_slot)]
        for number, part in enumerate(parts[1:], 1):
            if part.shape[0] <= shared:
                raise ValueError(
                    f"STIV Join Segments: segment {number} has {part.shape[0]} frames, of which "
                    f"{shared} are shared with the one before: nothing is left of it, lower shared"
                )
        sizes = {"{1} x {0}".format(*part.shape[1:3]) for part in parts}
        if len(sizes) > 1:
            raise ValueError(
                f"STIV Join Segments: the segments are {' and '.join(sorted(sizes))} pixels: "
                "resize them to one size"
            )
        parts = [parts[0], *(part[shared:] for part in parts[1:])]
        path, report = _joined(parts, fps, crf)
        tell(cls, report)
        frames = (
            torch.cat(parts)
            if images
            else ExecutionBlocker("switch on images of STIV Join Segments to use its frames")
        )
        return io.NodeOutput(frames, InputImpl.VideoFromFile(str(path)), report)


def _joined(parts: Sequence[Tensor], fps: float, crf: int) -> tuple[Path, str]:
    """The video file in the temporary folder, and the report on its seams."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + part.shape[0])
    ids = [
        fingerprint((part, start, fps, crf)).digest
        for part, start in zip(parts, starts, strict=False)
    ]
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = fingerprint(ids).digest[:24]
    film, target = Film(folder / f"stiv_{name}.growing.mp4"), folder / f"stiv_{name}.mp4"
    film.grow(ids, lambda index: encode_piece([parts[index]], starts[index], index, fps, crf))
    finish(film.path, target)
    film.path.unlink()
    befores = [None, *(part[-1] for part in parts[:-1])]
    numbers = [frame_statistics(*pair) for pair in zip(parts, befores, strict=True)]
    report = to_text(seam_report(join_statistics(numbers), starts[1:-1]))
    return target, f"{starts[-1]} frames of {len(parts)} segments\n{report}"


def _handed_out(video: LongVideo, segment: Segment, made: Any, node: str) -> io.NodeOutput:
    plan = video.plan
    size = canvas_size(plan.width, plan.height)
    given = GivenFrames()
    for index, source in given_sources(plan, segment):
        position = segment.start + index * segment.step
        if source.segment is None:
            frame = video.frames[position]
            frames, kind = as_given(frame, plan.width, plan.height), frame.kind
        else:
            frames, kind = _frame_made(plan, segment, index, made, node)
            if kind == "image" and frames.shape[1:3] != size[::-1]:  # not as VAE Decode gives it
                frames = fit_to_canvas(frames[0, ..., :3], plan.width, plan.height)[None]
        given = given.place(frames, str(index), kind)
    (latent,) = STIVEmptyLatent.execute(*size, segment.count, 1).result
    return io.NodeOutput(latent, given, segment.prompt, segment.seed, segment.step)


def _frame_made(
    plan: Plan, segment: Segment, index: int, made: Any, node: str
) -> tuple[Tensor, str]:
    """A frame that was made before, (1, H, W, 3) or (C, 1, h, w)."""
    if made is None:
        raise ValueError(
            f"{node}: {segment.name} goes on from frames that were made before: connect them"
        )
    frames, kind = made, "image"
    if isinstance(made, dict):
        frames, kind = one_video(made["samples"], node), "latent"
    count = frames.shape[0 if kind == "image" else 1]
    if plan.mode == "hierarchy":
        wanted = (segment.start + index * segment.step) // plan.stride
        what = "key frames, in order"
    else:  # a roll-out: a doubling takes nothing but frames of the clip
        before = plan.segments[plan.segments.index(segment) - 1]
        wanted = segment.start + index - (before.start + before.count - count)
        what = f"frames of {before.name}, or at least its last"
    if not 0 <= wanted < count:
        raise ValueError(
            f"{node}: {segment.name} needs frame {wanted} of what was made before, it has {count}: "
            f"connect all {what}"
        )
    one = frames[wanted : wanted + 1] if kind == "image" else frames[:, wanted : wanted + 1]
    return one, kind


def _find(plan: Plan, name: str, node: str) -> Segment:
    for segment in plan.segments:
        if segment.name == name:
            return segment
    names = [segment.name for segment in plan.segments]
    known = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
    raise ValueError(f"{node}: the plan makes no {name}: it makes {known or 'nothing'}")


def _slot(name: str) -> int:
    return int(name.removeprefix("segment"))


def _parts() -> list[io.Output]:
    return [
        io.Latent.Output(display_name="latent", tooltip="Empty, of the right size and length."),
        GivenFramesType.Output(display_name="stiv_frames", tooltip="For STIV Frame Replacement."),
        io.String.Output(display_name="prompt", tooltip="For STIV Text Encode."),
        io.Int.Output(display_name="seed", tooltip="For the sampler."),
        io.Int.Output(display_name="stride", tooltip="For STIV Text Encode."),
    ]


def _size() -> list[io.Output]:
    return [
        io.Int.Output(display_name="frames", tooltip="How many: the length, for other models."),
        io.Int.Output(display_name="width", tooltip="Width of the frames in pixels."),
        io.Int.Output(display_name="height", tooltip="Height of the frames in pixels."),
    ]


def _size_of(plan: Plan, segment: Segment) -> tuple[int, int, int]:
    """The values of `_size`."""
    return segment.count, plan.width, plan.height
