"""Make a planned long video: every segment a node of its own, kept on disk, written as it comes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import comfy.samplers
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder

from ..stiv.plan import Plan
from .host.blocks import texts_to_json
from .host.long_run import announce, check, dry_run
from .host.report import tell
from .host.segments import LongVideo, Settings
from .inside import MOST_AT_ONCE
from .plan import PlanType


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
                io.Int.Input(
                    "segments_at_once", default=1, min=1, max=MOST_AT_ONCE, optional=True,
                    advanced=True,
                    tooltip=(
                        "Make up to this many segments between key frames in one pass, where they "
                        "have the same prompt and length. Faster where one does not fill the GPU, "
                        "and takes more memory; where that is short, fewer are made at once. They "
                        "differ from segments made one by one in rounding only."
                    ),
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
        segments_at_once: int = 1,
    ) -> io.NodeOutput:
        settings = Settings(steps, cfg, sampler_name, scheduler)
        check(plan, model, clip, vae, negative, settings)
        if dry_run:
            text = _dry_run(plan, model, clip, vae, negative, settings)
            tell(cls, text)
            return io.NodeOutput(ExecutionBlocker(None), ExecutionBlocker(None), text)
        announce(plan, model, clip, vae, negative, settings)
        links = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        look = {
            "fps": plan.plan.fps, "crf": crf, "exact_pictures": exact_pictures,
            "match_colours": match_colours,
        }  # fmt: skip
        graph = GraphBuilder()
        common = {
            "model": links["model"], "clip": links["clip"], "vae": links["vae"],
            "stiv_plan": links["plan"], "texts": _add_texts(graph, plan.plan, links, negative),
            "negative": negative, "segments_at_once": segments_at_once, **asdict(settings), **look,
        }  # fmt: skip
        last: dict[str, Any] = {}
        for number in range(len(plan.blocks)):
            block = graph.node(
                "STIVMakeBlock", id=f"block{number}", number=number, **common, **last
            )
            last = {"made": block.out(0), "film": block.out(1)}
        end = graph.node(
            "STIVFinishFilm", id="end", vae=links["vae"], stiv_plan=links["plan"], images=images,
            **last, **look,
        )  # fmt: skip
        return io.NodeOutput(end.out(0), end.out(1), end.out(2), expand=graph.finalize())


_dry_run = dry_run  # the input of the same name hides it


def _add_texts(graph: GraphBuilder, plan: Plan, links: dict[str, Any], negative: str) -> str:
    """A node for each prompt, and where to find them."""
    wanted = {(text, s.step) for s in plan.segments for text in (s.prompt, negative)}
    found = {}
    for number, (text, stride) in enumerate(sorted(wanted)):
        node = graph.node(
            "STIVTextEncode", id=f"text{number}", clip=links["clip"], text=text, original_width=0,
            original_height=0, crop_left=0, crop_top=0, stride=stride,
        )  # fmt: skip
        found[text, stride] = node.id
    return texts_to_json(found)
