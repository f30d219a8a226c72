"""Guidance for text and image together (paper section 3.3).

F(c_T, c_I) is the model with text and given frames, and the empty set stands for a condition
left out: the empty prompt, or the given frames noised like all others. Everything is linear in
F, so the formulas hold for velocities and for denoised predictions alike.
"""

from __future__ import annotations

import torch
from torch import Tensor


def joint_guidance(null: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """JIT-CFG, two passes: F(0, 0) + s * (F(c_T, c_I) - F(0, 0)); the paper's s is 7.5.

    Without given frames this is ordinary classifier-free guidance.
    """
    return null + scale * (conditional - null)


def separate_guidance(
    null: Tensor, image: Tensor, conditional: Tensor, image_scale: float, text_scale: float
) -> Tensor:
    """SIT-CFG, three passes; the paper's best scales are image 1.5 and text 7.5.

    F(0, 0) + s1 * (F(c_I, 0) - F(0, 0)) + s2 * (F(c_I, c_T) - F(c_I, 0))
    """
    return null + image_scale * (image - null) + text_scale * (conditional - image)


def renormalize(guided: Tensor, conditional: Tensor, frame_mask: Tensor | None = None) -> Tensor:
    """CFG-Renorm: the guided direction with the conditional prediction's magnitude.

    F * |F(c_T, c_I)| / |F|, one norm per sample over channels, frames and pixels. Both are
    velocities (B, ...) of one shape; of videos (B, C, T, H, W), frames given in frame_mask (B, T)
    do not count in the norm.
    """
    wanted, actual = (_norm(v, frame_mask) for v in (conditional, guided))
    return guided * (wanted / actual.clamp(min=1e-12)).to(guided.dtype)


def _norm(v: Tensor, frame_mask: Tensor | None) -> Tensor:
    if frame_mask is not None:
        v = v.masked_fill(frame_mask.bool()[:, None, :, None, None], 0)
    # squares of half precision overflow, so the norm is float32 at least
    dtype = torch.promote_types(v.dtype, torch.float32)
    return torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True, dtype=dtype)
