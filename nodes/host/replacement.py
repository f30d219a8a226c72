"""Frame replacement under any sampler of the host, exact to the last bit.

The positive conditioning carries the given frames, raw as the VAE made them. Every forward pass of
the positive sees them clean; the unconditional pass sees them noised like all other frames, since
the guided prediction is held at the clean frames throughout (`hold_given_frames`). Rounding is
undone at the end (`finish`). A multi-view input is different: the unconditional pass sees it blank
(`CleanFrames.blank`), as in training. A model that was trained to see the first frame in its
cross-attention instead gets it there, and its frames are neither replaced nor held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...stiv.frames import replace_frames
from .null_text import fit_null_text, prompt_length
from .previews import with_moving_preview
from .report import warn

FRAMES = "stiv_frames"
"""Key of the given frames (`CleanFrames`) in a conditioning."""


@dataclass(frozen=True, eq=False)
class CleanFrames:
    """Given frames on the wire from STIV Frame Replacement to the model."""

    latents: Tensor
    """(1 or B, C, T, h, w) as the VAE gives them, zeros where no frame is given."""
    mask: Tensor
    """(T,) bool, true where a frame is given."""
    task: str | None = None
    """What they are given for, as in a model card; None: nothing in particular."""
    is_blank: bool = False
    """The model sees zeros (in its own scale) in their place: the null image of multi-view."""
    node: str = "STIV Frame Replacement"
    """What gave them, for messages."""

    def blank(self) -> CleanFrames:
        """The same frames, blank: for the negative."""
        return replace(self, latents=torch.zeros_like(self.latents), is_blank=True)

    @classmethod
    def batch(cls, frames: Sequence[CleanFrames]) -> CleanFrames:
        """Those of several videos, given at the same places, for one pass."""
        device = frames[0].latents.device  # kept ones come from the disk, pictures from the VAE
        return replace(frames[0], latents=torch.cat([v.latents.to(device) for v in frames]))

    def beside(self, earlier: CleanFrames | None) -> CleanFrames:
        """These and the frames that a conditioning has already; blank ones stand alone.

        Raises ValueError where both are given at one place, or for different videos.
        """
        if earlier is None or earlier.is_blank or self.is_blank:
            return self
        here, there = self.latents, earlier.latents
        if here.shape[1:] != there.shape[1:]:
            text = "{1} frames of {2} × {3} latents with {0} channels"
            sizes = [text.format(*latents.shape[1:]) for latents in (there, here)]
            raise ValueError(
                f"{self.node}: the positive prompt has frames from {earlier.node} already, for "
                f"another video ({sizes[0]}, here {sizes[1]}): give both the same latent, or "
                "connect the prompt from STIV Text Encode"
            )
        if (self.mask & earlier.mask).any():
            position = int((self.mask & earlier.mask).nonzero()[0])
            raise ValueError(
                f"{self.node}: the positive prompt has a frame at position {position} already, "
                f"from {earlier.node}: remove one of them, or connect the prompt from STIV Text "
                "Encode"
            )
        both = replace_frames(here, there.to(here), earlier.mask[None].to(here.device))
        teller = earlier if earlier.task else self
        return replace(teller, latents=both, mask=self.mask | earlier.mask)

    def spread(self) -> Tensor:
        """The mask as (1, 1, T, h, w)."""
        T, h, w = self.latents.shape[2:]
        return self.mask[None, None, :, None, None].expand(1, 1, T, h, w)

    def check(self, noise_shape: torch.Size, channels: int) -> None:
        """Raise ValueError unless the frames fit latents of `noise_shape` (B, C, T, h, w)."""
        B, C, T, h, w = self.latents.shape
        if channels != C:
            raise ValueError(
                f"{self.node}: its VAE makes {C} latent channels, the model takes "
                f"{channels}: connect the VAE that belongs to the model"
            )
        if (T, h, w) != tuple(noise_shape[2:]):
            wanted = "{} frames of {} × {}".format(*noise_shape[2:])
            raise ValueError(
                f"{self.node}: made for {T} frames of {h} × {w} latents, the sampler "
                f"has {wanted}: give both the same latent"
            )
        if B not in (1, noise_shape[0]):
            raise ValueError(
                f"{self.node}: given frames for a batch of {B}, the sampler has a "
                f"batch of {noise_shape[0]}: use the same batch size"
            )


def with_frames(conditioning: list, frames: CleanFrames) -> list:
    """A conditioning (CONDITIONING) with frames given besides those that it has.

    Raises ValueError where they do not go together, see `CleanFrames.beside`.
    """
    return [
        [text, {**values, FRAMES: frames.beside(values.get(FRAMES))}]
        for text, values in conditioning
    ]


def entries(conds: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The prepared conditionings with given frames, of a sampling run."""
    for kind in conds.values():
        yield from filter(_gives_frames, kind)


def _gives_frames(entry: dict[str, Any]) -> bool:
    return FRAMES in entry and not entry[FRAMES].is_blank


def given_in(conds: list[dict[str, Any]]) -> tuple[Tensor, Tensor] | None:
    """All frames given in some prepared conditionings, (clean, mask); None without any.

    Both have the shape of the latents, (1 or B, C or 1, T, h, w), in the model's scale.
    """
    found = None
    for entry in filter(_gives_frames, conds):
        clean, mask = (entry["model_conds"][key].cond for key in ("image_latent", "image_mask"))
        if found is None:
            found = clean, mask
        else:
            found = torch.where(mask.bool(), clean, found[0]), torch.maximum(mask, found[1])
    return found


def hold_given_frames(executor, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Around every guided prediction of clean latents: the given frames are what was given."""
    denoised = executor(x, timestep, *args, **kwargs)
    for entry in entries(executor.class_obj.conds):
        clean, mask = (entry["model_conds"][key].cond for key in ("image_latent", "image_mask"))
        denoised = torch.where(mask.bool(), clean.to(denoised.dtype), denoised)
    return denoised


def finish(
    executor,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callable | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Around a whole sampling run: check the latents, and write the given frames into the result.

    The steps are shown by moving previews where the host shows previews.

    Warns where the model was not trained for what the frames are given for, or does not see them.
    Raises ValueError, before the first step, for latents that the model cannot take.
    """
    guider = executor.class_obj
    model = guider.model_patcher.model
    _check_latents(latent_image, model.latent_format)
    for node, task in {(e[FRAMES].node, e[FRAMES].task) for e in entries(guider.conds)}:
        doubt = model.card.doubt(task, latent_image.shape[2])
        if doubt:
            warn(f"{node}: {doubt}")
    if not model.replaces_frames and any(e[FRAMES].mask[1:].any() for e in entries(guider.conds)):
        warn("this model looks at the first frame alone: others that are given are left out")
    fit_null_text(guider.conds)
    doubt = model.card.doubt_prompt(prompt_length(guider.conds))
    if doubt:
        warn(doubt)
    ends_clean = float(sigmas[-1]) == 0.0  # read now: some samplers write into it
    callback = with_moving_preview(callback, model.latent_format)
    samples = executor(
        noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs
    )
    if ends_clean and model.replaces_frames:
        for entry in entries(guider.conds):
            frames = entry[FRAMES]
            mask_BT = frames.mask[None].to(samples.device)
            samples = replace_frames(samples, frames.latents.to(samples), mask_BT)
    return samples


def add_frame_replacement(patcher: Any) -> None:
    """Let the model behind `patcher` keep given frames."""
    patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "stiv", hold_given_frames)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "stiv", finish)


def _check_latents(latents: Tensor, latent_format: Any) -> None:
    channels = latent_format.latent_channels
    if latents.ndim != 5 or latents.shape[1] != channels:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}, this STIV model takes (batch, {channels}, "
            "frames, height, width): use STIV Empty Latent, or encode with the model's VAE"
        )
    if not torch.isfinite(latents).all():
        raise ValueError(
            "the latent image contains NaN or infinity: check what encoded or edited it "
            "(a VAE in fp16 is the usual cause)"
        )
