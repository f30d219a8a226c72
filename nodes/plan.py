"""Plans of videos longer than the model makes at once: what is given, and what will be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..stiv.frames import GivenFrames
from ..stiv.plan import Plan, hierarchy, interpolation, rollout
from ..stiv.plan_view import plan_of_values
from ..stiv.prompts import quote
from .frames import GivenFramesType, one_video
from .host.panel import tell_plan
from .host.report import tell
from .host.segments import LongVideo

PlanType = io.Custom("STIV_PLAN")
_SMALLEST = 16
_FACTORS = ("2", "4", "8")


class STIVLongVideoPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVLongVideoPlan",
            display_name="STIV Long Video Plan",
            category="STIV/long video",
            description=(
                "Plan a long video: key frames far apart first, then the frames between every two "
                "of them. Nothing is made yet; the report says what will be."
            ),
            search_aliases=["stiv", "long video", "key frames", "storyboard", "prompt schedule"],
            inputs=[
                _prompts("a gap between two key frames, counted from 0; key: is for key frames"),
                io.Int.Input(
                    "key_frames", default=20, min=2, max=100_000,
                    tooltip="How many key frames the video is built on.",
                ),
                io.Int.Input(
                    "stride", default=20, min=1, max=4095,
                    tooltip=(
                        "Frames from one key frame to the next. 20 key frames at a stride of 20 "
                        "make 380 frames."
                    ),
                ),
                io.Boolean.Input(
                    "closing", default=False,
                    tooltip=(
                        "On: the last key frame is the video's last frame, one frame more. Off: it "
                        "only leads the last frames to where they go."
                    ),
                ),
                *_shape(),
                _window(21),
                _carry("Key frames handed on, where there are more than the model makes at once."),
                *_seeds(),
                _placed("Pictures anywhere on the timeline: key frames of your own, too."),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        prompts: str,
        key_frames: int,
        stride: int,
        closing: bool,
        width: int,
        height: int,
        fps: float,
        window: int,
        carry: int,
        seed: int,
        seeds: str = "",
        stiv_frames: GivenFrames | None = None,
    ) -> io.NodeOutput:
        return _planned(
            cls,
            "STIV Long Video Plan",
            lambda: hierarchy(
                key_frames, stride, closing=closing, window=window, carry=carry, fps=fps,
                width=width, height=height, prompts=prompts, seed=seed, seeds=seeds,
            ),
            stiv_frames or GivenFrames(),
        )  # fmt: skip


class STIVPredictionPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVPredictionPlan",
            display_name="STIV Prediction Plan",
            category="STIV/long video",
            description=(
                "Plan how a video goes on: window after window, each from the last frames of the "
                "one before. With a clip, or some frames of one, it continues that; without, it "
                "begins with the prompt."
            ),
            search_aliases=[
                "stiv", "video prediction", "continue video", "extend video", "roll-out", "v2v",
            ],
            inputs=[
                _prompts("a window, counted from 0"),
                io.Int.Input(
                    "frames", default=64, min=1, max=1_000_000,
                    tooltip="Frames of the whole video, those of the clip included.",
                ),
                *_shape(),
                _window(16),
                _carry(
                    "Frames handed from window to window, as latents. More keep the motion, fewer "
                    "are faster."
                ),
                *_seeds(),
                io.MultiType.Input(
                    "clip", [io.Image, io.Video, io.Latent], optional=True,
                    tooltip=(
                        "How the video begins: four frames are what the model was trained to "
                        "continue. All of them are kept as they are."
                    ),
                ),
                _placed("More pictures, anywhere on the timeline."),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        prompts: str,
        frames: int,
        width: int,
        height: int,
        fps: float,
        window: int,
        carry: int,
        seed: int,
        seeds: str = "",
        clip: Any = None,
        stiv_frames: GivenFrames | None = None,
    ) -> io.NodeOutput:
        given, note = stiv_frames or GivenFrames(), ""
        if clip is not None:
            given, own_fps = _begin_with(clip, given, frames)
            if own_fps and float(own_fps) != fps:
                note = f"{float(own_fps):g} fps, as the clip; fps was set to {fps:g}"
                fps = float(own_fps)
        return _planned(
            cls,
            "STIV Prediction Plan",
            lambda: rollout(
                frames, window=window, carry=carry, fps=fps, width=width, height=height,
                prompts=prompts, seed=seed, seeds=seeds,
            ),
            given,
            note,
        )  # fmt: skip


class STIVInterpolationPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVInterpolationPlan",
            display_name="STIV Interpolation Plan",
            category="STIV/long video",
            description=(
                "Plan a clip at 2, 4 or 8 times its frame rate. Every frame of the clip stays, the "
                "new ones come between, and it plays as long as before. Any clip will do, also "
                "frames that another model made."
            ),
            search_aliases=[
                "stiv", "interpolate", "frame rate", "slow motion", "temporal upsampling", "tup",
            ],
            inputs=[
                io.MultiType.Input(
                    "clip", [io.Image, io.Video],
                    tooltip="The frames to go between. A video brings its frame rate along.",
                ),
                _prompts("a window of the last doubling, counted from 0"),
                io.Combo.Input(
                    "factor", options=list(_FACTORS), default="2",
                    tooltip="So many times the frames per second. 4 and 8 double step by step.",
                ),
                io.Float.Input(
                    "fps", default=8.0, min=0.01, max=1000.0, step=0.01,
                    tooltip="Frames per second of the clip; a video brings its own instead.",
                ),
                _window(16),
                io.Int.Input(
                    "overlap", default=2, min=1, max=1000,
                    tooltip=(
                        "Frames of the clip that two windows share at each side, so that they "
                        "meet unseen."
                    ),
                ),
                *_seeds(),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        clip: Any,
        prompts: str,
        factor: str,
        fps: float,
        window: int,
        overlap: int,
        seed: int,
        seeds: str = "",
    ) -> io.NodeOutput:
        frames, own_fps = _frames_of(clip)
        count, height, width, _ = frames.shape
        odd, note = (height % 2, width % 2), ""
        if any(odd):
            frames = frames[:, : height - odd[0], : width - odd[1]]
            note = (
                f"the clip is {width} x {height} pixels, the video {width - odd[1]} x "
                f"{height - odd[0]}: sides are even numbers, the last row or column is left out"
            )
        return _planned(
            cls,
            "STIV Interpolation Plan",
            lambda: interpolation(
                count, int(factor), window=window, overlap=overlap, fps=float(own_fps or fps),
                width=frames.shape[2], height=frames.shape[1], prompts=prompts, seed=seed,
                seeds=seeds,
            ),
            GivenFrames().place(frames, f"every {factor}"),
            note,
        )  # fmt: skip


_MODES = {
    "STIVLongVideoPlan": "hierarchy",
    "STIVPredictionPlan": "rollout",
    "STIVInterpolationPlan": "interpolate",
}


def plan_of_inputs(node: str, inputs: Mapping[str, Any]) -> Plan:
    """What a plan node plans, by its id and its inputs' values; of wired pictures and clips not
    they themselves are given, but what `stiv.plan_view` tells of them. Raises ValueError."""
    if node not in _MODES:
        raise ValueError(f"node is {quote(node)}: expected one of {', '.join(_MODES)}")
    values = dict(inputs)
    if values.get("factor") in _FACTORS:
        values["factor"] = int(values["factor"])
    return plan_of_values(_MODES[node], values)


def _planned(
    node: type, name: str, build: Callable[[], Plan], given: GivenFrames, note: str = ""
) -> io.NodeOutput:
    """The plan with the frames that are given, and the report; errors name the node."""
    try:
        plan = build()
        positions = tuple(frame.position for frame in given.resolve(plan.span))
        if positions != plan.given:
            plan = replace(plan, given=positions)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    report = "\n".join(filter(None, [plan.describe(), note]))
    tell(node, report)
    tell_plan(plan)
    return io.NodeOutput(LongVideo(plan, given), report)


def _begin_with(clip: Any, given: GivenFrames, total: int) -> tuple[GivenFrames, Fraction | None]:
    """The clip's frames at the beginning of the timeline, besides those placed; and its rate."""
    own_fps = None
    if isinstance(clip, dict):
        frames = one_video(clip["samples"], "STIV Prediction Plan")
        kind, count = "latent", frames.shape[1]
    else:
        frames, own_fps = _frames_of(clip)
        kind, count = "image", frames.shape[0]
    if count > total:
        raise ValueError(
            f"STIV Prediction Plan: the clip has {count} frames, the video {total}: ask for more "
            "frames, or take the first ones with Get Image from Batch"
        )
    return given.place(frames, f"0-{count - 1}", kind), own_fps


def _frames_of(clip: Any) -> tuple[Tensor, Fraction | None]:
    """(T, H, W, 3) of an IMAGE or a VIDEO, and the frame rate of the latter."""
    if isinstance(clip, Tensor):
        return clip[..., :3], None
    parts = clip.get_components()
    return parts.images[..., :3], parts.frame_rate


def _prompts(what: str) -> io.String.Input:
    return io.String.Input(
        "prompts", multiline=True, default="",
        tooltip=(
            "What the video shows and how it moves. A line that begins with a number, 3: or 3-5:, "
            f"is for {what}. A line without one is for everything else."
        ),
    )  # fmt: skip


def _shape() -> list[io.Input]:
    sides = [
        io.Int.Input(
            name, default=64, min=_SMALLEST, max=8192, step=2,
            tooltip=(
                f"{name.capitalize()} in pixels, an even number. Other sizes than multiples of "
                "16 are made a little larger and cut."
            ),
        )
        for name in ("width", "height")
    ]  # fmt: skip
    fps = io.Float.Input(
        "fps", default=8.0, min=0.01, max=1000.0, step=0.01, tooltip="Frames per second."
    )
    return [*sides, fps]


def _window(default: int) -> io.Int.Input:
    return io.Int.Input(
        "window", default=default, min=2, max=4096,
        tooltip=(
            "Most frames to make at once. Models do best at the length they were trained for; "
            "STIV Model Info names it."
        ),
    )  # fmt: skip


def _carry(tooltip: str) -> io.Int.Input:
    return io.Int.Input("carry", default=4, min=1, max=4095, tooltip=tooltip)


def _seeds() -> list[io.Input]:
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,  # another makes all anew
            tooltip="Of the whole video; every segment has one of its own that follows from it.",
        ),
        io.String.Input(
            "seeds", multiline=True, default="", optional=True, advanced=True,
            tooltip="Other seeds for single segments, to try one again: a line like 7: 123.",
        ),
    ]  # fmt: skip


def _placed(tooltip: str) -> Any:
    return GivenFramesType.Input("stiv_frames", optional=True, tooltip=tooltip)


def _outputs() -> list[io.Output]:
    return [
        PlanType.Output(display_name="plan", tooltip="For STIV Long Video, which makes it."),
        io.String.Output(display_name="report", tooltip="What will be made."),
    ]
