"""What a model says of itself."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..stiv.card import Card
from ..stiv.frames import TASKS
from .host.model import STIVModel, require_stiv
from .host.report import tell


class STIVModelInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVModelInfo",
            display_name="STIV Model Info",
            category="STIV/loaders",
            description=(
                "Show the card of a STIV model: its size, what it was trained for (tasks, "
                "resolution, frames), and the text encoder and VAE that it needs."
            ),
            search_aliases=["stiv", "model card", "metadata", "inspect model", "what vae"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[io.Model.Input("model", tooltip="A STIV model.")],
            outputs=[io.String.Output(display_name="card", tooltip="The card as text.")],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        stiv = require_stiv(model, "STIV Model Info")
        text = f"{stiv.card.summary()}\n{_untrained(stiv.card)}loaded as: {_weights(stiv)}"
        tell(cls, text)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _weights(model: STIVModel) -> str:
    dtype = str(model.get_dtype()).removeprefix("torch.")
    if model.model_config.quant_config:
        return f"{dtype}, the blocks' linear layers as float8 with scales"
    return dtype


def _untrained(card: Card) -> str:
    """A line of the tasks that the card leaves out; none where it says nothing of tasks."""
    missing = TASKS.keys() - {row["task"] for row in card.tasks}
    if not card.tasks or not missing:
        return ""
    return f"not trained for: {', '.join(name for name in TASKS if name in missing)}\n"
