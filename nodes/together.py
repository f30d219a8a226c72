"""Segments of STIV Long Video that are made in one pass, ahead of their own nodes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.report import tell
from .host.segments import LongVideo, Recipe, SegmentHandle, Settings, segment_store
from .host.together import make_together, tasks_from_text
from .inside import AheadType, in_order, sampling_inputs, segment_inputs
from .plan import PlanType


class STIVMakeTogether(io.ComfyNode):
    """Several segments inside STIV Long Video, into the store."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVMakeTogether",
            display_name="STIV Make Together",
            category="STIV/long video/inside",
            description="Some segments of a long video in one pass, inside STIV Long Video.",
            is_dev_only=True,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Vae.Input("vae"),
                io.String.Input("tasks", multiline=True),
                *sampling_inputs(),
                io.String.Input("known"),
                PlanType.Input("stiv_plan", optional=True),
                segment_inputs(),
            ],
            outputs=[AheadType.Output(display_name="ahead")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        """Something was removed from the store: look again whether the segments are there."""
        return segment_store().generation()

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        tasks: str,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        known: str,
        stiv_plan: LongVideo | None = None,
        segments: dict[str, SegmentHandle] | None = None,
    ) -> io.NodeOutput:
        settings = Settings(steps, cfg, sampler_name, scheduler)
        recipe = Recipe(settings, model, positive, negative, vae, stiv_plan)
        ahead = make_together(tasks_from_text(tasks), recipe, in_order(known, segments))
        made = f"{len(ahead.made)} segments made ahead of their turn"
        tell(cls, f"{made}; {ahead.note}" if ahead.note else made)
        return io.NodeOutput(ahead)
