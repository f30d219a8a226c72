"""The pack's nodes: one file per topic; the only code that imports comfy."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .frames import STIVEmptyLatent, STIVFrameReplacement, STIVPlaceFrames
from .guidance import STIVGuidance, STIVGuider
from .hand_wired import STIVJoinSegments, STIVKeyFrames, STIVSegment
from .host.routes import add_routes
from .host.scripts import keep_fresh
from .info import STIVModelInfo
from .inside import (
    STIVFinishFilm,
    STIVGatherSegments,
    STIVMakeBlock,
    STIVMakeSegment,
    STIVWriteStretch,
)
from .load import STIVLoadCheckpoint, STIVLoadModel, STIVVideoVAE
from .long_video import STIVLongVideo
from .plan import STIVInterpolationPlan, STIVLongVideoPlan, STIVPredictionPlan
from .save import STIVSaveCheckpoint
from .speed import STIVCompile, STIVFasterCPU, STIVGuidanceInterval
from .text import STIVTextEncode
from .timeline import STIVTimeline
from .together import STIVMakeTogether
from .views import STIVMultiView

# What STIV Long Video becomes.
_INSIDE = (
    STIVMakeBlock,
    STIVMakeSegment,
    STIVWriteStretch,
    STIVGatherSegments,
    STIVFinishFilm,
    STIVMakeTogether,
)


class STIVExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def on_load(self) -> None:
        add_routes()
        keep_fresh()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            STIVLoadModel,
            STIVLoadCheckpoint,
            STIVVideoVAE,
            STIVTextEncode,
            STIVEmptyLatent,
            STIVPlaceFrames,
            STIVTimeline,
            STIVFrameReplacement,
            STIVMultiView,
            STIVGuidance,
            STIVGuider,
            STIVGuidanceInterval,
            STIVCompile,
            STIVFasterCPU,
            STIVLongVideoPlan,
            STIVPredictionPlan,
            STIVInterpolationPlan,
            STIVLongVideo,
            STIVKeyFrames,
            STIVSegment,
            STIVJoinSegments,
            STIVModelInfo,
            STIVSaveCheckpoint,
            *_INSIDE,
        ]


async def comfy_entrypoint() -> STIVExtension:
    return STIVExtension()
