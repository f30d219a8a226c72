"""How strongly prompt and given frames steer the video."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from .host.guidance import MODES, guide, require_flow
from .host.model import STIVModel, check_text

_MODEL = "A STIV model, or any other that does flow matching (Wan, LTXV, Flux, SD3, …)."
_MODE = (
    "joint: prompt and given frames together, two passes per step. separate: the frames have a "
    "strength of their own, three passes per step."
)


class STIVGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVGuidance",
            display_name="STIV Guidance",
            category="STIV/sampling",
            description=(
                "Set how prompt and given frames steer the video, for any sampler node. The cfg of "
                "the sampler stays the strength of the prompt."
            ),
            search_aliases=["stiv", "cfg", "image cfg", "rescale cfg", "renorm", "guidance"],
            inputs=[
                io.Model.Input("model", tooltip=_MODEL),
                *_settings(),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The model with this guidance, for KSampler and others.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, mode: str, image_scale: float, renorm: bool) -> io.NodeOutput:
        require_flow(model, "STIV Guidance")
        return io.NodeOutput(guide(model, mode, image_scale, renorm))


class STIVGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVGuider",
            display_name="STIV Guider",
            category="STIV/sampling",
            description=(
                "Model, prompts and guidance in one, for SamplerCustomAdvanced. Gives the same "
                "video as STIV Guidance with KSampler."
            ),
            search_aliases=["stiv", "cfg guider", "dual cfg guider", "basic guider", "renorm"],
            inputs=[
                io.Model.Input("model", tooltip=_MODEL),
                io.Conditioning.Input(
                    "positive", tooltip="What the video shows, after STIV Frame Replacement."
                ),
                io.Conditioning.Input(
                    "negative", tooltip="What to avoid, after STIV Frame Replacement."
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Strength of the prompt. 1 follows it freely, 7.5 is the paper's.",
                ),
                *_settings(),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        cfg: float,
        mode: str,
        image_scale: float,
        renorm: bool,
    ) -> io.NodeOutput:
        require_flow(model, "STIV Guider")
        if isinstance(model.model, STIVModel):
            for text, extra in (*positive, *negative):
                check_text(model.model.card, text, extra.get("pooled_output"))
        guider = comfy.samplers.CFGGuider(guide(model, mode, image_scale, renorm))
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


def _settings() -> list[io.Input]:
    return [
        io.Combo.Input("mode", options=list(MODES), default="joint", tooltip=_MODE),
        io.Float.Input(
            "image_scale",
            default=1.5,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip=(
                "Strength of the given frames, in separate mode only: 1.5 is the paper's; higher "
                "values hold closer to them."
            ),
        ),
        io.Boolean.Input(
            "renorm",
            default=False,
            tooltip=(
                "Keep the natural contrast at a high cfg, instead of burnt colours (CFG-Renorm)."
            ),
        ),
    ]
