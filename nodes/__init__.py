"""The pack's nodes: one file per topic; the only code that imports comfy."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .frames import STIVEmptyLatent, STIVFrameReplacement, STIVPlaceFrames
from .guidance import STIVGuidance, STIVGuider
from .info import STIVModelInfo
from .load import STIVLoadCheckpoint, STIVLoadModel, STIVVideoVAE
from .text import STIVTextEncode
from .views import STIVMultiView


class STIVExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            STIVLoadModel,
            STIVLoadCheckpoint,
            STIVVideoVAE,
            STIVTextEncode,
            STIVEmptyLatent,
            STIVPlaceFrames,
            STIVFrameReplacement,
            STIVMultiView,
            STIVGuidance,
            STIVGuider,
            STIVModelInfo,
        ]


async def comfy_entrypoint() -> STIVExtension:
    return STIVExtension()
