"""Colours of generated frames, matched to the key frames between which they lie."""

from __future__ import annotations

from collections.abc import Sequence

import kornia.color
import torch
from torch import Tensor

_MOST = 2.0  # how far contrast may be raised or lowered: a flat frame has no contrast to raise
_LEAST_SPREAD = 1e-3  # of Lab's 100: below, a channel counts as flat


def match_colours(
    frames_THWC: Tensor,
    first_key_HWC: Tensor,
    last_key_HWC: Tensor,
    places: Sequence[float] | None = None,
) -> Tensor:
    """Frames (T, H, W, 3) with the mean and spread of colours that the two key frames lead to.

    In CIE Lab, channel by channel, after Reinhard et al., "Color Transfer between Images" (2001).
    The goal moves in a straight line from the first key frame to the last; `places` says where
    each frame lies, from 0 (at the first) to 1 (at the last), by default evenly spaced between
    them. Contrast changes by a factor of 2 at most. The result has the dtype and device of the
    frames and is within [0, 1]. Raises ValueError for other shapes and places.
    """
    T = frames_THWC.shape[0]
    _check(frames_THWC, first_key_HWC, last_key_HWC)
    if places is None:
        places = [(index + 1) / (T + 1) for index in range(T)]
    if len(places) != T or not all(0 <= place <= 1 for place in places):
        raise ValueError(
            f"colour match: {len(places)} places for {T} frames, {list(places)[:8]}: "
            "expected one from 0 to 1 for each"
        )
    mean_a, spread_a = _moments(_to_lab(first_key_HWC.to(frames_THWC.device)))
    mean_b, spread_b = _moments(_to_lab(last_key_HWC.to(frames_THWC.device)))
    matched = torch.empty_like(frames_THWC)
    for index, place in enumerate(places):  # one at a time: Lab of the whole video is not held
        lab_CHW = _to_lab(frames_THWC[index])
        mean, spread = _moments(lab_CHW)
        wanted = torch.lerp(spread_a, spread_b, place)
        gain = torch.where(spread < _LEAST_SPREAD, 1.0, wanted / spread).clamp(1 / _MOST, _MOST)
        lab_CHW = (lab_CHW - mean) * gain + torch.lerp(mean_a, mean_b, place)
        matched[index] = kornia.color.lab_to_rgb(lab_CHW[None])[0].movedim(0, -1)
    return matched


def _check(frames: Tensor, first: Tensor, last: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"colour match: frames have shape {tuple(frames.shape)}: "
            "expected (frames, height, width, 3)"
        )
    for name, key in (("first", first), ("last", last)):
        if key.ndim != 3 or key.shape[-1] != 3:
            raise ValueError(
                f"colour match: the {name} key frame has shape {tuple(key.shape)}: "
                "expected (height, width, 3)"
            )


def _to_lab(picture_HWC: Tensor) -> Tensor:
    """(3, H, W) in CIE Lab, float32, L from 0 to 100."""
    return kornia.color.rgb_to_lab(picture_HWC.float().clamp(0, 1).movedim(-1, 0)[None])[0]


def _moments(lab_CHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (3, 1, 1)."""
    mean = lab_CHW.mean(dim=(1, 2), keepdim=True)
    return mean, lab_CHW.std(dim=(1, 2), correction=0, keepdim=True)
