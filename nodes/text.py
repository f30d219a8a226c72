"""Encode a prompt for STIV."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.model import MICRO
from .host.null_text import EMPTY
from .host.text import token_mask

_LARGEST = 16384


class STIVTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVTextEncode",
            display_name="STIV Text Encode",
            category="STIV/conditioning",
            description=(
                "Turn a prompt into conditioning for a STIV model. Leave the text empty for an "
                "empty negative prompt. The core CLIP Text Encode works too, but without the "
                "advanced settings and without telling the model where the prompt ends."
            ),
            search_aliases=["stiv", "prompt", "clip text encode", "positive", "negative"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip=(
                        "The text encoder of the model: from STIV Load Checkpoint, or clip_g with "
                        "Load CLIP for the large models."
                    ),
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        "What the video shows and how it moves. (word:1.2) gives a word more "
                        "weight."
                    ),
                ),
                _size("original_width", "Width"),
                _size("original_height", "Height"),
                _number(
                    "crop_left", 0, 0, "Pixels cut off at the left of the clip the model imagines."
                ),
                _number(
                    "crop_top", 0, 0, "Pixels cut off at the top of the clip the model imagines."
                ),
                _number(
                    "stride",
                    0,
                    0,
                    "Frames of the original clip per frame of the video: 1 is smooth, larger "
                    "values move faster, 20 gives key frames far apart. 0: as the model's card "
                    "says.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="The encoded prompt, for a sampler or STIV Frame Replacement.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        text: str,
        original_width: int = 0,
        original_height: int = 0,
        crop_left: int = 0,
        crop_top: int = 0,
        stride: int = 0,
    ) -> io.NodeOutput:
        if clip is None:
            raise ValueError(
                "STIV Text Encode: there is no CLIP, the checkpoint holds no text encoder: "
                "use Load CLIP with the encoder that STIV Model Info names"
            )
        tokens = clip.tokenize(text)
        extra = {MICRO: (original_height, original_width, crop_top, crop_left, stride)}
        if not text.strip():
            extra[EMPTY] = True
        mask = token_mask(clip, tokens)
        if mask is not None:
            extra["attention_mask"] = mask
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens, add_dict=extra))


def _size(name: str, word: str) -> io.Int.Input:
    return _number(
        name,
        0,
        0,
        f"{word} in pixels of the clip the model imagines; small values look like small, blurry "
        "clips. 0: the size of the video.",
    )


def _number(name: str, default: int, lowest: int, tooltip: str) -> io.Int.Input:
    return io.Int.Input(
        name, default=default, min=lowest, max=_LARGEST, optional=True, advanced=True,
        tooltip=tooltip,
    )  # fmt: skip
