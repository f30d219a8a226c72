"""A picture framed on its subject, as multi-view models want their input: the subject cut out,
centred with a margin, on a plain background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MaskMeaning = Literal["auto", "subject", "background"]
"""What a mask's white shows; auto: what touches less of the picture's border is the subject."""

_EVEN = 0.06  # distance in any channel from the border's colour that still counts as it
_BORDER_SHARE = 0.95  # of the border's pixels that must have its colour
_SMALLEST = 1e-4  # share of the picture below which there is no subject
_VISIBLE = 0.1  # opacity from which a pixel counts as the subject's when it is centred
_ROUNDS = 200  # turns of a background that winds through a subject
_FLOOD_SIDE = 512  # pixels; larger pictures are flooded in blocks
_ROWS = 64  # scaled at once


@dataclass(frozen=True, eq=False)
class CutOut:
    """A subject without its background."""

    alpha: Tensor
    """(H, W) in [0, 1], 1 where the subject is."""
    by: str
    """What it was found by, for people."""


def cut_out(
    image_HWC: Tensor, mask_HW: Tensor | None = None, mask_shows: MaskMeaning = "auto"
) -> CutOut | None:
    """The subject by a mask, by the image's fourth channel, or by an even border colour.

    image_HWC: 3 or 4 channels in [0, 1]. A mask or alpha of one value says nothing and is passed
    over. None where nothing tells subject from background.
    """
    if mask_HW is not None and _tells(mask_HW):
        mask = F.interpolate(mask_HW[None, None].float(), image_HWC.shape[:2], mode="bilinear")
        mask = mask[0, 0].clamp(0, 1)
        shows = mask_shows
        if shows == "auto":
            shows = "background" if _border(mask).mean() > mask.mean() else "subject"
        return CutOut(
            1 - mask if shows == "background" else mask, f"the mask (white is the {shows})"
        )
    if image_HWC.shape[-1] == 4 and _tells(image_HWC[..., 3]):
        return CutOut(image_HWC[..., 3].float().clamp(0, 1), "the image's alpha")
    alpha = _by_border_colour(image_HWC[..., :3].float())
    return None if alpha is None else CutOut(alpha, "the even colour of the border")


def frame_subject(
    image_HWC: Tensor,
    alpha_HW: Tensor,
    size: int,
    margin: float = 0.1,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """(size, size, 3) in [0, 1]: the subject centred, `margin` of the side free on every side.

    alpha_HW: opacity of the subject in [0, 1]. Raises ValueError where nothing is opaque and for a
    margin outside [0, 0.45].
    """
    if not 0 <= margin <= 0.45:
        raise ValueError(f"margin is {margin:g}: use 0 to 0.45")
    rows, columns = ((alpha_HW > _VISIBLE).any(dim).nonzero()[:, 0] for dim in (1, 0))
    if not len(rows):
        raise ValueError("the subject is nowhere to be seen: check its mask or alpha")
    (top, bottom), (left, right) = ((int(i[0]), int(i[-1]) + 1) for i in (rows, columns))
    side = max(1, round(max(bottom - top, right - left) / (1 - 2 * margin)))
    top, left = (top + bottom - side) // 2, (left + right - side) // 2

    alpha = alpha_HW.float()[None]
    cut = torch.cat([image_HWC[..., :3].float().movedim(-1, 0).clamp(0, 1) * alpha, alpha])
    H, W = alpha_HW.shape
    wide = _scaled_rows(cut, -left, left + side - W, size)
    scaled = _scaled_rows(wide.mT, -top, top + side - H, size).mT
    plain = torch.tensor(background, dtype=scaled.dtype, device=scaled.device).view(3, 1, 1)
    return (scaled[:3] + (1 - scaled[3:]) * plain).clamp(0, 1).movedim(0, -1)


def _scaled_rows(x_CHW: Tensor, before: int, after: int, size: int) -> Tensor:
    """(C, H, size): rows with so many zeros added at their ends (negative: cropped), scaled.

    Some rows at a time: next to a wide margin the picture itself is small.
    """
    parts = (F.pad(part, (before, after))[None] for part in x_CHW.split(_ROWS, dim=1))
    # Bilinear: sharper filters overshoot, which would draw a rim around the subject.
    scaled = [
        F.interpolate(part, (part.shape[2], size), mode="bilinear", antialias=True)[0]
        for part in parts
    ]
    return torch.cat(scaled, dim=1)


def _tells(mask_HW: Tensor) -> bool:
    """Whether there is both a subject and a background."""
    share = float((mask_HW > 0.5).float().mean())
    return _SMALLEST < share < 1 - _SMALLEST


def _border(x_HWK: Tensor) -> Tensor:
    """(n, …) the outermost pixels: a fiftieth of the smaller side, at least one."""
    width = max(1, min(x_HWK.shape[:2]) // 50)
    rows = (x_HWK[:width], x_HWK[-width:])
    columns = (x_HWK[:, :width], x_HWK[:, -width:])
    return torch.cat([part.flatten(0, 1) for part in (*rows, *columns)])


def _by_border_colour(image_HWC: Tensor) -> Tensor | None:
    """(H, W) 1 where the border's colour ends; None where the border has no one colour."""
    border = _border(image_HWC)
    colour = border.median(0).values
    if float(((border - colour).abs().amax(-1) < _EVEN).float().mean()) < _BORDER_SHARE:
        return None
    is_open = (image_HWC - colour).abs().amax(-1) < _EVEN
    alpha = 1 - _connected_to_border(is_open).float()
    return alpha if _tells(alpha) else None


def _connected_to_border(is_open_HW: Tensor) -> Tensor:
    """(H, W) bool, the open pixels with an open way to the border: holes in a subject stay its.

    In large pictures the way is as wide as a block, and ends a block from where it is closed.
    """
    block = -(-max(is_open_HW.shape) // _FLOOD_SIDE)
    if block > 1:
        closed = F.max_pool2d((~is_open_HW).float()[None], block, ceil_mode=True)
        small = _connected_to_border(closed[0] == 0)
        near = F.max_pool2d(small.float()[None], 3, stride=1, padding=1)[0] > 0
        near = near.repeat_interleave(block, 0).repeat_interleave(block, 1)
        return is_open_HW & near[: is_open_HW.shape[0], : is_open_HW.shape[1]]
    reached = is_open_HW.clone()
    reached[1:-1, 1:-1] = False
    for _ in range(_ROUNDS):
        before = reached
        for dim in (0, 1):
            reached = _sweep(is_open_HW, reached, dim)
            reached = _sweep(is_open_HW.flip(dim), reached.flip(dim), dim).flip(dim)
        if torch.equal(reached, before):
            break
    return reached


def _sweep(is_open_HW: Tensor, reached_HW: Tensor, dim: int) -> Tensor:
    """Open pixels that a reached one sees in the direction of `dim` (or that it is)."""
    shape = (-1, 1) if dim == 0 else (1, -1)
    place = torch.arange(is_open_HW.shape[dim], device=is_open_HW.device).view(shape)
    wall = torch.where(is_open_HW, -1, place).cummax(dim).values
    seen = torch.where(reached_HW, place, -1).cummax(dim).values
    return is_open_HW & (seen > wall)
