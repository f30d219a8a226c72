"""What STIV Long Video becomes when it runs: nodes that the host shows, caches and interrupts.

STIV Long Video -> blocks -> segments and stretches. Blocks, because the host keeps for every node
the list of all nodes that it depends on: in one chain that would grow with the square of the
video's length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.samplers
from comfy_api.latest import InputImpl, io
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder

from ..stiv.timeline import groups
from .host.blocks import next_block, texts_from_json
from .host.long_run import report
from .host.panel import tell_run
from .host.progress import forget_finished
from .host.report import tell
from .host.segments import (
    LongVideo,
    Recipe,
    SegmentHandle,
    Settings,
    Task,
    known_from_json,
    known_to_json,
    segment_store,
    takes_artists_frames,
    task_of,
)
from .host.stretches import FilmHandle, Look, Part, all_frames, finished, part_of, write_stretch
from .host.stretches import takes_artists_frames as shows_artists_frames
from .host.together import Ahead, make_in_turn, tasks_to_text
from .plan import PlanType

SegmentType = io.Custom("STIV_SEGMENT")
MadeType = io.Custom("STIV_MADE")
FilmType = io.Custom("STIV_FILM")
AheadType = io.Custom("STIV_AHEAD")
MOST_AT_ONCE = 16
_MAX_SLOTS = 100  # the host's limit


class STIVMakeBlock(io.ComfyNode):
    """Some segments inside STIV Long Video, and the stretches that they complete."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVMakeBlock",
            display_name="STIV Make Block",
            category="STIV/long video/inside",
            description="A part of a long video; STIV Long Video adds as many as it needs.",
            is_dev_only=True,
            enable_expand=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("vae"),
                PlanType.Input("stiv_plan"),
                io.String.Input("texts"),
                io.String.Input("negative"),
                io.Int.Input("number", min=0, max=100_000),
                *sampling_inputs(),
                *_look(),
                MadeType.Input("made", optional=True),
                FilmType.Input("film", optional=True),
                io.Int.Input("segments_at_once", default=1, min=1, max=MOST_AT_ONCE, optional=True),
            ],
            outputs=[MadeType.Output(display_name="made"), FilmType.Output(display_name="film")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        stiv_plan: LongVideo,
        texts: str,
        negative: str,
        number: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        fps: float,
        crf: int,
        exact_pictures: bool,
        match_colours: bool,
        made: tuple[SegmentHandle, ...] = (),
        film: FilmHandle | None = None,
        segments_at_once: int = 1,
    ) -> io.NodeOutput:
        links = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        graph, plan = GraphBuilder(), stiv_plan.plan
        block = next_block(stiv_plan, number, made)
        segments = [plan.segments[index] for index in block.segments]
        encoded = texts_from_json(texts, segments, negative)
        settings = {name: links[name] for name in _SAMPLING}
        here: dict[int, Any] = {}
        for group in groups(plan, block.segments, segments_at_once):
            jobs = {index: task_of(plan, plan.segments[index]) for index in group}
            tasks = [task for task, _ in jobs.values()]
            first = plan.segments[group.start]
            recipe = {
                "model": links["model"], "vae": links["vae"],
                "positive": [encoded[first.prompt, first.step], 0],
                "negative": [encoded[negative, first.step], 0], **settings,
            }  # fmt: skip
            slots = [slot for _, its_slots in jobs.values() for slot in its_slots]
            if len(group) > 1 and len(slots) <= _MAX_SLOTS:
                node = graph.node(
                    "STIVMakeTogether", id=f"{first.name}_ahead", tasks=tasks_to_text(tasks),
                    **recipe,
                    **_earlier(slots, here, made, links, any(map(takes_artists_frames, tasks))),
                )  # fmt: skip
                recipe["ahead"] = node.out(0)
            for index, (task, slots) in jobs.items():
                node = graph.node(
                    "STIVMakeSegment", id=task.name, task=task.to_json(), **recipe,
                    **_earlier(slots, here, made, links, takes_artists_frames(task)),
                )  # fmt: skip
                here[index] = node.out(0)
        end = film
        for index in block.stretches:
            part, slots = part_of(plan, stiv_plan.stretches[index], match_colours)
            needs = _earlier(slots, here, made, links, shows_artists_frames(part))
            if end is not None:
                needs["film"] = links["film"] if end is film else end
            node = graph.node(
                "STIVWriteStretch", id=f"film{index}", vae=links["vae"], part=part.to_json(),
                identity=stiv_plan.identity, **{name: links[name] for name in _LOOK}, **needs,
            )  # fmt: skip
            end = node.out(0)
        gathered = graph.node(
            "STIVGatherSegments", id="all", **_slots(list(here.values())),
            **({"made": links["made"]} if "made" in links else {}),
        )  # fmt: skip
        return io.NodeOutput(gathered.out(0), end, expand=graph.finalize())


def _earlier(
    slots: Sequence[int],
    here: Mapping[int, Any],
    made: Sequence[SegmentHandle],
    links: Mapping[str, Any],
    with_plan: bool,
) -> dict[str, Any]:
    """Inputs for the segments that a node takes frames from: links in its own block; of earlier
    blocks the handles themselves, so that the node depends on nothing else of them."""
    if len(slots) > _MAX_SLOTS:
        raise ValueError(
            f"STIV Long Video: {len(slots)} segments meet in one place, at most {_MAX_SLOTS} can: "
            "make the video in parts"
        )
    inputs = {f"segments.segment{slot}": here[i] for slot, i in enumerate(slots) if i in here}
    inputs["known"] = known_to_json({s: made[i] for s, i in enumerate(slots) if i not in here})
    if with_plan:
        inputs["stiv_plan"] = links["stiv_plan"]
    return inputs


def _slots(nodes: Sequence[Any]) -> dict[str, Any]:
    return {f"segments.segment{slot}": node for slot, node in enumerate(nodes)}


class STIVGatherSegments(io.ComfyNode):
    """All segments up to the end of a block."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVGatherSegments",
            display_name="STIV Gather Segments",
            category="STIV/long video/inside",
            description="The end of a part of a long video, inside STIV Long Video.",
            is_dev_only=True,
            inputs=[MadeType.Input("made", optional=True), segment_inputs()],
            outputs=[MadeType.Output(display_name="made")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        made: tuple[SegmentHandle, ...] = (),
        segments: dict[str, SegmentHandle] | None = None,
    ) -> io.NodeOutput:
        forget_finished(cls.hidden.unique_id)
        return io.NodeOutput((*made, *in_order("", segments)))


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
                *sampling_inputs(),
                io.String.Input("known"),
                PlanType.Input("stiv_plan", optional=True),
                segment_inputs(),
                AheadType.Input("ahead", optional=True),
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
        known: str,
        stiv_plan: LongVideo | None = None,
        segments: dict[str, SegmentHandle] | None = None,
        ahead: Ahead | None = None,
    ) -> io.NodeOutput:
        settings = Settings(steps, cfg, sampler_name, scheduler)
        recipe = Recipe(settings, model, positive, negative, vae, stiv_plan)
        earlier = in_order(known, segments)
        handle = make_in_turn(Task.from_json(task), recipe, earlier, ahead or Ahead())
        made = f"made in {handle.seconds:.1f} s" if handle.made_in else "from the store"
        tell(cls, f"{handle.name} {made}")
        told = {"name": handle.name, "made": bool(handle.made_in), "seconds": handle.seconds}
        tell_run("segment", lambda: told)
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
                io.String.Input("known"),
                *_look(),
                PlanType.Input("stiv_plan", optional=True),
                FilmType.Input("film", optional=True),
                segment_inputs(),
                io.String.Input("identity", default="", optional=True),
            ],
            outputs=[FilmType.Output(display_name="film")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        part: str,
        known: str,
        fps: float,
        crf: int,
        exact_pictures: bool,
        match_colours: bool,
        stiv_plan: LongVideo | None = None,
        film: FilmHandle | None = None,
        segments: dict[str, SegmentHandle] | None = None,
        identity: str = "",
    ) -> io.NodeOutput:
        look = Look(fps, crf, exact_pictures, match_colours)
        handles = in_order(known, segments)
        return io.NodeOutput(
            write_stretch(Part.from_json(part), look, vae, stiv_plan, handles, film, identity)
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
                MadeType.Input("made"),
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
        made: tuple[SegmentHandle, ...],
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
        text = report(stiv_plan.plan, made, film)
        tell(cls, text)
        return io.NodeOutput(frames, InputImpl.VideoFromFile(str(path)), text)


def in_order(known: str, segments: dict[str, SegmentHandle] | None) -> list[SegmentHandle]:
    """Handles by slot, those known before and those of the same block."""
    found = known_from_json(known) if known else {}
    for name, handle in (segments or {}).items():
        found[int(name.removeprefix("segment"))] = handle
    if sorted(found) != list(range(len(found))):
        raise ValueError("segments inside STIV Long Video are not connected as they were planned")
    return [found[slot] for slot in range(len(found))]


_SLOTS = io.Autogrow.TemplatePrefix(  # one for all: the host asks a node for its inputs often
    SegmentType.Input("segment"), prefix="segment", min=0, max=_MAX_SLOTS
)


def segment_inputs() -> Any:
    """The earlier segments of a node, by slot."""
    return io.Autogrow.Input("segments", template=_SLOTS)


def _look() -> list[io.Input]:
    return [
        io.Float.Input("fps", min=0.01, max=8000.0),
        io.Int.Input("crf", min=0, max=51),
        io.Boolean.Input("exact_pictures"),
        io.Boolean.Input("match_colours"),
    ]


_LOOK = ("fps", "crf", "exact_pictures", "match_colours")
_SAMPLING = ("steps", "cfg", "sampler_name", "scheduler")


def sampling_inputs() -> list[io.Input]:
    """The inputs of `Settings`."""
    return [
        io.Int.Input("steps", min=1, max=10_000),
        io.Float.Input("cfg", min=0.0, max=100.0),
        io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS),
        io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS),
    ]
