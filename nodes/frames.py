"""Empty latents, and the frames that are given: where they go, and giving them to the model."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..stiv.frames import GivenFrame, GivenFrames, frame_mask, replace_frames, to_canvas
from .host.replacement import CleanFrames, with_frames
from .host.report import tell
from .host.vae import check_vae, encode_pictures

GivenFramesType = io.Custom("STIV_FRAMES")

_DOWNSCALE, _STEP = 8, 16  # pixels per latent; and per token, two latents wide
_EMPTY_CHANNELS = 4  # the host gives empty latents the channels of the model that samples them


class STIVEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVEmptyLatent",
            display_name="STIV Empty Latent",
            category="STIV/latent",
            description=(
                "The size and length of the video to make. 1 frame makes a picture. Any number of "
                "frames is fine: the video has exactly as many."
            ),
            search_aliases=["stiv", "empty video latent", "video size", "length", "frames"],
            inputs=[
                _side("width", "Width"),
                _side("height", "Height"),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip=(
                        "Number of frames. Models do best at the length they were trained for; "
                        "STIV Model Info names it."
                    ),
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many videos to make at once, each from noise of its own.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="An empty video, for a sampler or STIV Frame Replacement.",
                )
            ],
        )

    @classmethod
    def execute(cls, width: int, height: int, frames: int, batch_size: int) -> io.NodeOutput:
        for name, value in (("width", width), ("height", height)):
            if value < _STEP or value % _STEP:
                below = max(_STEP, value // _STEP * _STEP)
                raise ValueError(
                    f"STIV Empty Latent: {name} is {value}, not a multiple of {_STEP}: "
                    f"use {below} or {below + _STEP}"
                )
        if frames < 1 or batch_size < 1:
            raise ValueError(
                f"STIV Empty Latent: frames is {frames} and batch_size {batch_size}: "
                "use 1 or more of each"
            )
        samples = torch.zeros(
            batch_size, _EMPTY_CHANNELS, frames, height // _DOWNSCALE, width // _DOWNSCALE,
            device=comfy.model_management.intermediate_device(),
        )  # fmt: skip
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": _DOWNSCALE})


class STIVPlaceFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVPlaceFrames",
            display_name="STIV Place Frames",
            category="STIV/frames",
            description=(
                "Say where pictures go in the video; the model makes the frames between. One "
                "picture at 0 animates it, two at first,last join them, pictures at every 2 are "
                "interpolated. Chain several of these nodes to place more."
            ),
            search_aliases=[
                "stiv", "image to video", "first last frame", "keyframe", "interpolation",
                "start image", "i2v",
            ],
            inputs=[
                io.MultiType.Input(
                    "frames",
                    [io.Image, io.Latent],
                    tooltip=(
                        "One or more pictures, or latents to hand over without decoding them."
                    ),
                ),
                io.String.Input(
                    "positions",
                    default="first",
                    tooltip=(
                        "Where the pictures go, counted from 0: 0 or first, last, -1 (the last), "
                        "0-3 (four in a row), first,last, 0,8,15, every 2, every 2 from 1."
                    ),
                ),
                GivenFramesType.Input(
                    "stiv_frames",
                    optional=True,
                    tooltip="Frames placed before, by another STIV Place Frames.",
                ),
            ],
            outputs=[
                GivenFramesType.Output(
                    display_name="stiv_frames",
                    tooltip="All frames placed so far, for STIV Frame Replacement.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        frames: Tensor | dict[str, Any],
        positions: str,
        stiv_frames: GivenFrames | None = None,
    ) -> io.NodeOutput:
        given = stiv_frames or GivenFrames()
        if isinstance(frames, dict):
            return io.NodeOutput(
                given.place(one_video(frames["samples"], "STIV Place Frames"), positions, "latent")
            )
        return io.NodeOutput(given.place(frames, positions))


class STIVFrameReplacement(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVFrameReplacement",
            display_name="STIV Frame Replacement",
            category="STIV/frames",
            description=(
                "Give the placed frames to the model: they stay exactly as they are and the model "
                "makes the rest. Goes between the prompts and the sampler. Without placed frames "
                "the video comes from the prompt alone."
            ),
            search_aliases=["stiv", "image to video", "i2v", "frame conditioning", "keyframes"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="What the video shows, from STIV Text Encode."
                ),
                io.Conditioning.Input(
                    "negative", tooltip="What to avoid; often an empty STIV Text Encode."
                ),
                io.Vae.Input(
                    "vae", tooltip="The model's VAE; with or without STIV Video VAE in between."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip=(
                        "The video to make, from STIV Empty Latent. Its size decides: pictures of "
                        "another shape are cropped at the centre and resized."
                    ),
                ),
                GivenFramesType.Input(
                    "stiv_frames", optional=True, tooltip="Frames from STIV Place Frames."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The positive prompt with the given frames, for the sampler.",
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The negative prompt, unchanged, for the sampler.",
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The video to make with the given frames in place, for the sampler.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        latent: dict[str, Any],
        stiv_frames: GivenFrames | None = None,
    ) -> io.NodeOutput:
        node = "STIV Frame Replacement"
        check_vae(vae, node)
        samples = _as_video(latent["samples"])
        try:
            given = (stiv_frames or GivenFrames()).resolve(samples.shape[2])
        except ValueError as error:
            raise ValueError(f"{node}: {error}") from None
        if not given:
            return io.NodeOutput(positive, negative, latent)

        frames, samples, report = give_frames(given, vae, samples, node)
        out = {key: value for key, value in latent.items() if key != "downscale_ratio_spacial"}
        out["samples"] = samples
        positive = with_frames(positive, frames)
        tell(cls, report)
        return io.NodeOutput(positive, negative, out)


def give_frames(
    given: list[GivenFrame], vae: Any, samples: Tensor, node: str, task: str | None = None
) -> tuple[CleanFrames, Tensor, str]:
    """The frames as the model gets them, `samples` (B, C, T, h, w) with them in place, a report.

    given: at least one. node: named in errors. task: see `CleanFrames`. Raises ValueError for
    frames or a VAE that do not fit the samples.
    """
    clean, report = _encode(given, vae, samples.shape[2:], node)
    mask = frame_mask([frame.position for frame in given], samples.shape[2])
    samples = _with_channels(samples, clean.shape[1], node).to(clean)
    samples = replace_frames(samples, clean, mask[None].to(clean.device))
    return CleanFrames(clean, mask, task, node=node), samples, report


def _encode(given: list[GivenFrame], vae: Any, shape: torch.Size, node: str) -> tuple[Tensor, str]:
    """Latents (1, C, T, h, w) with the given frames in place and zeros elsewhere, and a report."""
    total, h, w = shape
    width, height = w * _DOWNSCALE, h * _DOWNSCALE
    latents: dict[int, Tensor] = {}
    pictures, sizes = {}, set()
    for frame in given:
        if frame.kind == "latent":
            latents[frame.position] = _fitting_latent(frame, (h, w), node)
        else:
            picture = frame.frame[..., :3]
            if picture.shape[:2] != (height, width):
                sizes.add("{1} × {0}".format(*picture.shape[:2]))
            pictures[frame.position] = fit_picture(picture, width, height)
    if pictures:
        # Wherever each of them is: the VAE takes them from there.
        encoded = encode_pictures(vae, torch.stack([each.cpu() for each in pictures.values()]))
        latents |= dict(zip(pictures, encoded, strict=True))
    channels = {position: z.shape[0] for position, z in latents.items()}
    wanted = vae.latent_channels
    for position, found in channels.items():
        if found != wanted:
            raise ValueError(
                f"{node}: the latent frame at {position} has {found} channels, "
                f"the VAE makes {wanted}: encode it with this VAE"
            )
    like = next(iter(latents.values()))
    clean = like.new_zeros(1, wanted, total, h, w)
    for position, z in latents.items():
        clean[0, :, position] = z.to(like)
    if not torch.isfinite(clean).all():
        raise ValueError(
            f"{node}: the VAE made NaN or infinity of the given frames: use a VAE that works "
            "in your precision (start ComfyUI with --fp32-vae to be sure)"
        )
    return clean, _report(sorted(latents), total, sizes, f"{width} × {height}")


def _report(positions: list[int], total: int, sizes: set[str], target: str) -> str:
    places = ", ".join(map(str, positions[:8])) + (" …" if len(positions) > 8 else "")
    text = f"{len(positions)} of {total} frames given, at {places}"
    if sizes:
        text += f"; pictures of {', '.join(sorted(sizes))} cropped and resized to {target}"
    return text


def fit_picture(picture_HWC: Tensor, width: int, height: int) -> Tensor:
    """A picture (H, W, 3) cropped at the centre and resized to (height, width, 3)."""
    if picture_HWC.shape[:2] == (height, width):
        return picture_HWC
    batch = picture_HWC[None].movedim(-1, 1)
    return comfy.utils.common_upscale(batch, width, height, "lanczos", "center")[0].movedim(0, -1)


def fit_to_canvas(picture_HWC: Tensor, width: int, height: int) -> Tensor:
    """A picture (H, W, 3) as part of a video of this size, continued to what the model makes."""
    return to_canvas(fit_picture(picture_HWC, width, height)[None])[0]


def _fitting_latent(frame: GivenFrame, size: tuple[int, int], node: str) -> Tensor:
    found = tuple(frame.frame.shape[1:])
    if found != size:
        raise ValueError(
            f"{node}: the latent frame at {frame.position} is "
            f"{found[1] * _DOWNSCALE} × {found[0] * _DOWNSCALE} pixels, the video "
            f"{size[1] * _DOWNSCALE} × {size[0] * _DOWNSCALE}: make both the same size"
        )
    return frame.frame


def one_video(samples: Tensor, node: str) -> Tensor:
    """(C, k, h, w) frames of a LATENT: a batch of pictures, or one video. Raises ValueError naming
    the node for several videos."""
    if samples.ndim == 4:
        return samples.movedim(0, 1)
    if samples.ndim != 5 or samples.shape[0] != 1:
        raise ValueError(
            f"{node}: the latent has shape {tuple(samples.shape)}: give it one video "
            "(pick it with Latent From Batch) or a batch of pictures"
        )
    return samples[0]


def _as_video(samples: Tensor) -> Tensor:
    """(B, C, T, h, w); a LATENT of pictures counts as videos of one frame."""
    if samples.ndim == 4:
        samples = samples.unsqueeze(2)
    if samples.ndim != 5:
        raise ValueError(
            f"STIV Frame Replacement: the latent has shape {tuple(samples.shape)}: "
            "use STIV Empty Latent"
        )
    return samples


def _with_channels(samples: Tensor, channels: int, node: str) -> Tensor:
    """Empty latents get the channels of the VAE; others must have them."""
    if samples.shape[1] == channels:
        return samples
    if samples.any():
        raise ValueError(
            f"{node}: the latent has {samples.shape[1]} channels, the VAE makes "
            f"{channels}: use the VAE that the latent was encoded with"
        )
    return samples.new_zeros(samples.shape[0], channels, *samples.shape[2:])


def _side(name: str, word: str) -> io.Int.Input:
    return io.Int.Input(
        name, default=64, min=_STEP, max=8192, step=_STEP,
        tooltip=f"{word} in pixels, a multiple of {_STEP}.",
    )  # fmt: skip
