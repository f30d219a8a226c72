"""Make a planned long video: every segment a node of its own, kept on disk, written as it comes."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import InputImpl, io
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder

from ..stiv.timeline import stretches
from .host.long_run import check, dry_run, report
from .host.report import tell
from .host.segments import (
    LongVideo,
    SegmentHandle,
    Settings,
    Task,
    make_segment,
    segment_store,
    takes_artists_frames,
    task_of,
)
from .host.stretches import FilmHandle, Look, Part, all_frames, finished, part_of, write_stretch
from .host.stretches import takes_artists_frames as shows_artists_frames
from .plan import PlanType

SegmentType = io.Custom("STIV_SEGMENT")
FilmType = io.Custom("STIV_FILM")
_MAX_SLOTS = 100  # the host's limit


class STIVLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVLongVideo",
            display_name="STIV Long Video",
            category="STIV/long video",
            description=(
                "Make a planned video, segment by segment. Finished segments are kept on disk: a "
                "change makes only those anew that it concerns, and an interrupted run goes on "
                "where it was. What is done so far plays at any time, in stiv_unfinished of the "
                "output folder."
            ),
            search_aliases=["stiv", "long video", "render plan", "segments", "storyboard"],
            inputs=[
                io.Model.Input("model", tooltip="A STIV model, with any LoRAs and patches."),
                io.Clip.Input("clip", tooltip="The model's text encoder, for the plan's prompts."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                PlanType.Input("plan", tooltip="From one of the plan nodes."),
                io.String.Input(
                    "negative", multiline=True, default="",
                    tooltip="What to avoid; usually empty.",
                ),
                io.Int.Input("steps", default=30, min=1, max=10_000, tooltip="Steps per segment."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1,
                    tooltip="How strongly prompt and given frames are followed.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler",
                    tooltip="Any sampler of the host.",
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="simple",
                    tooltip="Any scheduler of the host.",
                ),
                io.Boolean.Input(
                    "dry_run", default=False,
                    tooltip=(
                        "On: make nothing, and report which segments would be made, with time, "
                        "memory and disk space."
                    ),
                ),
                io.Boolean.Input(
                    "images", default=False,
                    tooltip=(
                        "On: give all frames at the output images as well, which takes memory for "
                        "the whole video at once."
                    ),
                ),
                io.Boolean.Input(
                    "exact_pictures", default=True, optional=True, advanced=True,
                    tooltip=(
                        "On: given pictures appear exactly as they are. Off: as the VAE shows "
                        "them, like their neighbours."
                    ),
                ),
                io.Boolean.Input(
                    "match_colours", default=False, optional=True, advanced=True,
                    tooltip="Match the colours between key frames to the key frames'.",
                ),
                io.Int.Input(
                    "crf", default=18, min=0, max=51, optional=True, advanced=True,
                    tooltip="Quality of the video file: 0 is lossless, 18 fine, 28 small.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="All frames, if switched on."),
                io.Video.Output(display_name="video", tooltip="For Save Video."),
                io.String.Output(
                    display_name="report", tooltip="What was made, and how the seams came out."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        plan: LongVideo,
        negative: str,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        dry_run: bool,
        images: bool,
        exact_pictures: bool = True,
        match_colours: bool = False,
        crf: int = 18,
    ) -> io.NodeOutput:
        settings = Settings(steps, cfg, sampler_name, scheduler)
        check(plan, model, clip, vae, negative, settings)
        if dry_run:
            text = _dry_run(plan, model, clip, vae, negative, settings)
            tell(cls, text)
            return io.NodeOutput(ExecutionBlocker(None), ExecutionBlocker(None), text)
        links = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        look = {
            "fps": plan.plan.fps, "crf": crf, "exact_pictures": exact_pictures,
            "match_colours": match_colours,
        }  # fmt: skip
        graph = GraphBuilder()
        made = _add_segments(graph, plan.plan, links, negative, settings)
        film = _add_stretches(graph, plan.plan, links, made, look)
        end = graph.node(
            "STIVFinishFilm", id="end", film=film, vae=links["vae"], stiv_plan=links["plan"],
            images=images, **look,
        )  # fmt: skip
        return io.NodeOutput(end.out(0), end.out(1), end.out(2), expand=graph.finalize())


_dry_run = dry_run  # the input of the same name hides it


def _add_segments(
    graph: GraphBuilder, plan: Any, links: dict, negative: str, settings: Settings
) -> list[Any]:
    """One node for each segment, and one for each prompt; they say no more than they need, so that
    the host runs again only what a change concerns."""
    texts: dict[tuple[str, int], Any] = {}

    def encoded(text: str, stride: int) -> Any:
        if (text, stride) not in texts:
            texts[text, stride] = graph.node(
                "STIVTextEncode", id=f"text{len(texts)}", clip=links["clip"], text=text,
                original_width=0, original_height=0, crop_left=0, crop_top=0, stride=stride,
            ).out(0)  # fmt: skip
        return texts[text, stride]

    made: list[Any] = []
    for segment in plan.segments:
        task, slots = task_of(plan, segment)
        inputs = {f"segments.segment{i}": made[slot] for i, slot in enumerate(slots)}
        if takes_artists_frames(task):
            inputs["stiv_plan"] = links["plan"]
        node = graph.node(
            "STIVMakeSegment", id=segment.name, model=links["model"], vae=links["vae"],
            positive=encoded(segment.prompt, segment.step),
            negative=encoded(negative, segment.step), task=task.to_json(),
            steps=settings.steps, cfg=settings.cfg, sampler_name=settings.sampler_name,
            scheduler=settings.scheduler, **inputs,
        )  # fmt: skip
        made.append(node.out(0))
    return made


def _add_stretches(graph: GraphBuilder, plan: Any, links: dict, made: list, look: dict) -> Any:
    """A chain of nodes that write the film; each runs as soon as its segments are there."""
    film = None
    for number, stretch in enumerate(stretches(plan)):
        part, slots = part_of(plan, stretch, look["match_colours"])
        if len(slots) > _MAX_SLOTS:
            raise ValueError(
                f"STIV Long Video: frames {stretch.start} to {stretch.stop - 1} come from "
                f"{len(slots)} segments, at most {_MAX_SLOTS} can be joined at once: make the "
                "video in parts"
            )
        inputs = {f"segments.segment{i}": made[slot] for i, slot in enumerate(slots)}
        if shows_artists_frames(part):
            inputs["stiv_plan"] = links["plan"]
        if film is not None:
            inputs["film"] = film
        node = graph.node(
            "STIVWriteStretch", id=f"film{number}", vae=links["vae"], part=part.to_json(),
            **look, **inputs,
        )  # fmt: skip
        film = node.out(0)
    return film


class STIVMakeSegment(io.ComfyNode):
    """A segment inside STIV Long Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVMakeSegment",
            display_name="STIV Make Segment",
            category="STIV/long video/inside",
            description="One segment of a long video; STIV Long Video adds as many as it needs.",
            is_dev_only=True,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Vae.Input("vae"),
                io.String.Input("task"),
                io.Int.Input("steps", min=1, max=10_000),
                io.Float.Input("cfg", min=0.0, max=100.0),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS),
                PlanType.Input("stiv_plan", optional=True),
                _segments(),
            ],
            outputs=[SegmentType.Output(display_name="segment")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        """Something was removed from the store: look again whether the segment is there."""
        return segment_store().generation()

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        task: str,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        stiv_plan: LongVideo | None = None,
        segments: dict[str, SegmentHandle] | None = None,
    ) -> io.NodeOutput:
        handle = make_segment(
            Task.from_json(task), Settings(steps, cfg, sampler_name, scheduler), model, positive,
            negative, vae, stiv_plan, _in_order(segments),
        )  # fmt: skip
        made = f"made in {handle.seconds:.1f} s" if handle.made_in else "from the store"
        tell(cls, f"{handle.name} {made}")
        return io.NodeOutput(handle)


class STIVWriteStretch(io.ComfyNode):
    """A stretch of the film inside STIV Long Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVWriteStretch",
            display_name="STIV Write Stretch",
            category="STIV/long video/inside",
            description="Writes frames as soon as they are made, inside STIV Long Video.",
            is_dev_only=True,
            is_output_node=True,  # the host runs these first, so the film grows with the segments
            inputs=[
                io.Vae.Input("vae"),
                io.String.Input("part"),
                *_look(),
                PlanType.Input("stiv_plan", optional=True),
                FilmType.Input("film", optional=True),
                _segments(),
            ],
            outputs=[FilmType.Output(display_name="film")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        part: str,
        fps: float,
        crf: int,
        exact_pictures: bool,
        match_colours: bool,
        stiv_plan: LongVideo | None = None,
        film: FilmHandle | None = None,
        segments: dict[str, SegmentHandle] | None = None,
    ) -> io.NodeOutput:
        look = Look(fps, crf, exact_pictures, match_colours)
        handles = _in_order(segments)
        return io.NodeOutput(
            write_stretch(Part.from_json(part), look, vae, stiv_plan, handles, film)
        )


class STIVFinishFilm(io.ComfyNode):
    """The end of STIV Long Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVFinishFilm",
            display_name="STIV Finish Film",
            category="STIV/long video/inside",
            description="Closes the film, inside STIV Long Video.",
            is_dev_only=True,
            inputs=[
                FilmType.Input("film"),
                io.Vae.Input("vae"),
                PlanType.Input("stiv_plan"),
                io.Boolean.Input("images", default=False),
                *_look(),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Video.Output(display_name="video"),
                io.String.Output(display_name="report"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        film: FilmHandle,
        vae: Any,
        stiv_plan: LongVideo,
        images: bool,
        fps: float,
        crf: int,
        exact_pictures: bool,
        match_colours: bool,
    ) -> io.NodeOutput:
        look = Look(fps, crf, exact_pictures, match_colours)
        path = finished(film, look, vae, stiv_plan)
        frames: Any = ExecutionBlocker(
            "switch on images of STIV Long Video to use its frames: they take memory for the "
            "whole video"
        )
        if images:
            frames = all_frames(film, look, vae, stiv_plan)
        text = report(stiv_plan.plan, film)
        tell(cls, text)
        return io.NodeOutput(frames, InputImpl.VideoFromFile(str(path)), text)


def _in_order(segments: dict[str, SegmentHandle] | None) -> list[SegmentHandle]:
    return [segments[f"segment{slot}"] for slot in range(len(segments or {}))]


def _segments() -> Any:
    template = io.Autogrow.TemplatePrefix(
        SegmentType.Input("segment"), prefix="segment", min=0, max=_MAX_SLOTS
    )
    return io.Autogrow.Input("segments", template=template)


def _look() -> list[io.Input]:
    return [
        io.Float.Input("fps", min=0.01, max=8000.0),
        io.Int.Input("crf", min=0, max=51),
        io.Boolean.Input("exact_pictures"),
        io.Boolean.Input("match_colours"),
    ]
