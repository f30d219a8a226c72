"""Multi-view: new views of one object from a single picture."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui
from PIL import ImageColor
from torch import Tensor

from ..stiv.frames import GivenFrame
from ..stiv.subject import cut_out, frame_subject
from ..stiv.views import MOST_CAMERAS, ZERO123PLUS, Rig, parse_cameras, turntable
from .drawing import draw_rig
from .frames import give_frames
from .host.replacement import with_frames
from .host.report import tell
from .host.vae import check_vae

_NODE = "STIV Multi-View"
_STEP, _DOWNSCALE = 16, 8  # pixels per token and per latent
_PREVIEW = 512  # pixels


class STIVMultiView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVMultiView",
            display_name=_NODE,
            category="STIV/frames",
            description=(
                "Show an object from other sides. Give one picture of it; the model makes the "
                "views of the cameras drawn on this node, as the frames after the picture. Goes "
                "between the prompts (leave both empty) and the sampler, with a cfg of about 3.5. "
                "Needs a model that was trained for multi-view."
            ),
            search_aliases=[
                "stiv", "novel view", "multiview", "zero123", "turntable", "3d", "orbit camera",
                "image to 3d",
            ],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="An empty STIV Text Encode: multi-view goes without words."
                ),
                io.Conditioning.Input("negative", tooltip="The same empty STIV Text Encode."),
                io.Vae.Input(
                    "vae", tooltip="The model's VAE; with or without STIV Video VAE in between."
                ),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "One picture of the object. It is cut out by the mask, by its alpha, or by "
                        "an even background colour, whichever there is; else it is taken as it is."
                    ),
                ),
                _rig_input(),
                io.Int.Input(
                    "size",
                    default=320,
                    min=_STEP,
                    max=4096,
                    step=_STEP,
                    tooltip=(
                        "Side of the square views in pixels, a multiple of 16. The paper's models "
                        "make 320; STIV Model Info names what yours was trained for."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the object is, from Load Image, Remove Background and others.",
                ),
                io.Combo.Input(
                    "mask_shows",
                    options=["auto", "subject", "background"],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What the mask's white shows. auto: the background, if white lies along "
                        "the picture's border (as from Load Image), else the subject."
                    ),
                ),
                io.Float.Input(
                    "margin",
                    default=0.1,
                    min=0.0,
                    max=0.45,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Free space on every side of the object, as a share of the side.",
                ),
                io.Color.Input(
                    "background",
                    default="#ffffff",
                    optional=True,
                    advanced=True,
                    tooltip="Colour behind the object; white is what models are trained with.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="With the input view, for the sampler."
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="With an empty input view, as models are trained, for the sampler.",
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The views to make, after the input view, for the sampler.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        image: Tensor,
        rig: dict[str, Any],
        size: int,
        mask: Tensor | None = None,
        mask_shows: str = "auto",
        margin: float = 0.1,
        background: str = "#ffffff",
    ) -> io.NodeOutput:
        check_vae(vae, _NODE)
        try:
            cameras = _rig(**rig)
            view, report = _framed(image, mask, mask_shows, size, margin, background)
        except ValueError as error:
            raise ValueError(f"{_NODE}: {error}") from None
        frames = 1 + len(cameras.cameras)
        side = size // _DOWNSCALE
        samples = torch.zeros(1, vae.latent_channels, frames, side, side)
        given = [GivenFrame(0, view, "image")]
        clean, samples, placed = give_frames(given, vae, samples, _NODE, task="multi_view")
        positive = with_frames(positive, clean)
        negative = with_frames(negative, clean.blank())
        tell(cls, f"{cameras.name}: {len(cameras.cameras)} views; {report}; {placed}")
        shown = ui.PreviewImage(_preview(cameras, view))
        return io.NodeOutput(positive, negative, {"samples": samples}, ui=shown)


def _rig_input() -> io.DynamicCombo.Input:
    return io.DynamicCombo.Input(
        "rig",
        options=[
            io.DynamicCombo.Option("zero123++", []),
            io.DynamicCombo.Option(
                "turntable",
                [
                    io.Int.Input(
                        "views",
                        default=12,
                        min=1,
                        max=MOST_CAMERAS,
                        tooltip="Views, evenly around; the last is on the input view's side.",
                    ),
                    io.Float.Input(
                        "elevation",
                        default=20.0,
                        min=-90.0,
                        max=90.0,
                        step=1.0,
                        round=0.01,
                        tooltip="Height of the cameras in degrees above the horizon.",
                    ),
                ],
            ),
            io.DynamicCombo.Option(
                "custom",
                [
                    io.String.Input(
                        "cameras",
                        default=str(ZERO123PLUS),
                        multiline=True,
                        tooltip=(
                            "Elevation,azimuth of each view in degrees, separated by semicolons or "
                            "line ends. Azimuths count from the input view, counter-clockwise seen "
                            "from above."
                        ),
                    )
                ],
            ),
        ],
        tooltip=(
            "The cameras, drawn on the node. A model makes the views it was trained with, whatever "
            "is chosen here: zero123++ is the paper's six. The others are for models of your own."
        ),
    )


def _rig(rig: str, views: int = 0, elevation: float = 0.0, cameras: str = "") -> Rig:
    """The rig that a person chose. Raises ValueError."""
    if rig == "turntable":
        return turntable(views, elevation)
    if rig == "custom":
        return Rig("custom", parse_cameras(cameras))
    if rig != ZERO123PLUS.name:
        raise ValueError(f"rig is {rig!r}: choose zero123++, turntable or custom")
    return ZERO123PLUS


def _framed(
    image: Tensor,
    mask: Tensor | None,
    mask_shows: str,
    size: int,
    margin: float,
    background: str,
) -> tuple[Tensor, str]:
    """The input view (H, W, C), and how it was framed. Raises ValueError."""
    if size < _STEP or size % _STEP:
        below = max(_STEP, size // _STEP * _STEP)
        raise ValueError(f"size is {size}, not a multiple of {_STEP}: use {below} or {below + 16}")
    if image.ndim != 4 or image.shape[-1] < 3:
        raise ValueError(
            f"the image has shape {tuple(image.shape)}: expected (1, height, width, 3 or 4); make "
            "a grey one a colour picture first"
        )
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:]).to(image.device)  # some leave out the batch
    for name, batch in (("image", image), ("mask", mask)):
        if batch is not None and len(batch) != 1:
            raise ValueError(
                f"the {name} is a batch of {len(batch)}: give one object at a time (pick it with "
                "Get Image from Batch)"
            )
    found = cut_out(image[0], None if mask is None else mask[0], mask_shows)
    if found is None:
        return image[0], "subject not cut out: no mask, alpha or even background; taken as it is"
    try:
        colour = tuple(part / 255 for part in ImageColor.getrgb(background)[:3])
    except ValueError:
        raise ValueError(
            f"background is {background[:40]!r}: write a colour as #ffffff or white"
        ) from None
    view = frame_subject(image[0], found.alpha, size, margin, colour)
    return view, f"subject cut out by {found.by}, centred on {background}"


def _preview(cameras: Rig, view_HWC: Tensor) -> Tensor:
    """(2, H, W, 3) on the CPU: the rig, and the input view, wherever that is."""
    return torch.stack([draw_rig(cameras, _PREVIEW), _resized(view_HWC[..., :3], _PREVIEW).cpu()])


def _resized(picture_HWC: Tensor, side: int) -> Tensor:
    batch = picture_HWC[None].movedim(-1, 1)
    return comfy.utils.common_upscale(batch, side, side, "bilinear", "center")[0].movedim(0, -1)
