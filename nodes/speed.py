"""Faster sampling, for who wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from .host.guidance import guided_between, require_flow
from .host.model import require_stiv
from .host.report import tell
from .host.speed import compile_doubt, compiled, packed, packing_doubt


class STIVGuidanceInterval(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVGuidanceInterval",
            display_name="STIV Guidance Interval",
            category="STIV/sampling",
            description=(
                "Guide only a part of the sampling and save half of the work in the rest. Early "
                "steps decide where things are, late ones add detail."
            ),
            search_aliases=["stiv", "guidance interval", "cfg interval", "skip cfg", "faster"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A STIV model, or any other that does flow matching; before or after STIV "
                        "Guidance."
                    ),
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where guidance begins: 0 is the first step, noise.",
                ),
                io.Float.Input(
                    "end",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where guidance ends: 1 is the last step.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The model, guided in this part, for samplers."
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, start: float, end: float) -> io.NodeOutput:
        require_flow(model, "STIV Guidance Interval")
        try:
            return io.NodeOutput(guided_between(model, start, end))
        except ValueError as error:
            raise ValueError(f"STIV Guidance Interval: {error}") from None


class STIVCompile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVCompile",
            display_name="STIV Compile",
            category="STIV/sampling",
            description=(
                "Sample faster and in less memory with torch.compile, block by block. The first "
                "step takes a while longer; the video stays the same but for rounding."
            ),
            search_aliases=["stiv", "torch compile", "torchcompile", "inductor", "speed", "faster"],
            **_sockets(),
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        require_stiv(model, "STIV Compile")
        return _unless(cls, compile_doubt(model), model, compiled)


class STIVFasterCPU(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVFasterCPU",
            display_name="STIV Faster CPU",
            category="STIV/sampling",
            description=(
                "Sample faster without a GPU: keeps the weights a second time, laid out as the CPU "
                "multiplies them. The video stays the same but for rounding."
            ),
            search_aliases=["stiv", "cpu", "speed", "packed weights", "onednn", "no gpu"],
            **_sockets(),
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        require_stiv(model, "STIV Faster CPU")
        return _unless(cls, packing_doubt(model), model, packed)


def _sockets() -> dict[str, list]:
    """Of nodes that make the same model faster."""
    given = io.Model.Input("model", tooltip="A STIV model; LoRAs may come before or after.")
    made = io.Model.Output(display_name="model", tooltip="The same model, for samplers.")
    return {"inputs": [given], "outputs": [made], "hidden": [io.Hidden.unique_id]}


def _unless(cls: Any, doubt: str | None, model: Any, change: Callable[[Any], Any]) -> io.NodeOutput:
    """The changed model; where that is in doubt, the artist is told and gets it as it is."""
    if doubt is None:
        return io.NodeOutput(change(model))
    tell(cls, doubt)
    return io.NodeOutput(model)
