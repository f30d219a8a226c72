"""How far pictures are from the true ones.

Legend: n pictures or clips, T frames, H, W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .recognise import centres

_WINDOW, _SIGMA = 11, 1.5  # of SSIM
_K1, _K2 = 0.01, 0.03
_AT_ONCE = 256  # pictures
_LOST = 0.5  # frame sides: how far off an object counts that is not to be seen


def psnr(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal to noise in dB, (n,) of arrays (n, …) in levels from 0 to 255; 78 where equal."""
    error = (made.astype(np.float64) - truth) ** 2
    return 10 * np.log10(255.0**2 / np.maximum(error.reshape(len(error), -1).mean(1), 1e-3))


def ssim(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity (n,) of pictures (n, H, W, 3) in levels, both sides at least 11.

    Wang et al. 2004: per channel, over Gaussian windows of 11 pixels that lie within the picture.
    """
    parts = range(0, len(made), _AT_ONCE)
    return np.concatenate([_ssim(made[i : i + _AT_ONCE], truth[i : i + _AT_ONCE]) for i in parts])


def _ssim(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    pictures = (torch.from_numpy(x).double().movedim(-1, 1) / 255 for x in (made, truth))
    a, b = (x.flatten(0, 1)[:, None] for x in pictures)
    line = torch.exp(-0.5 * ((torch.arange(_WINDOW) - _WINDOW // 2) / _SIGMA).double() ** 2)
    line /= line.sum()

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, line[None, None, None]), line[None, None, :, None])

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    together = mean(a * b) - mu_a * mu_b
    light = (2 * mu_a * mu_b + _K1**2) / (mu_a**2 + mu_b**2 + _K1**2)
    structure = (2 * together + _K2**2) / (var_a + var_b + _K2**2)
    return (light * structure).reshape(len(made), -1).mean(1).numpy()


def motion_error(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pixels (n,) from the object's centre in clips (n, T, H, W, 3) of one object to where it
    truly is, mean over frames. Where none can be seen in either, half a side. Of two ghosts, as
    blending makes them, the centre lies between: read it beside the others."""
    size = np.array(truth.shape[-2:-4:-1])
    errors = []
    for clip, true in zip(made, truth, strict=True):
        off = np.linalg.norm((centres(clip) - centres(true)) * size, axis=-1)
        errors.append(np.where(np.isnan(off), _LOST * size.max(), off).mean())
    return np.array(errors)
