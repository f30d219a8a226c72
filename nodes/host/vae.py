"""Any per-frame image VAE as a video VAE: core encode, decode and tiled nodes then take video."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_DOWNSCALE = 8


class FoldedFrames:
    """Stands where the host keeps a VAE's network: frames go through it as a batch of pictures.

    As many frames run at once as memory allows, and results go straight to where the host collects
    them, so the length of a video costs no memory on the device.
    """

    comfy_has_chunked_io = True  # the host then hands over its output buffer

    def __init__(self, vae: Any):
        self.vae, self.network = vae, vae.first_stage_model

    def __getattr__(self, name: str) -> Any:
        if name in ("vae", "network"):  # not set yet: while being copied
            raise AttributeError(name)
        return getattr(self.network, name)

    def decode_output_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of the pixels decoded from latents (B, C, T, h, w) or (B, C, h, w)."""
        *middle, h, w = shape[2:]
        return (shape[0], self.vae.output_channels, *middle, h * _DOWNSCALE, w * _DOWNSCALE)

    def decode(self, z: Tensor, output_buffer: Tensor | None = None, **options: Any) -> Tensor:
        """Pixels (B, 3, T, H, W) of latents (B, C, T, h, w)."""
        if output_buffer is None:
            output_buffer = z.new_empty(self.decode_output_shape(z.shape))
        latents_BTCHW, pixels_BTCHW = _time_first(z), _time_first(output_buffer)
        cost = self.vae.memory_used_decode(latents_BTCHW.shape[1:], self.vae.vae_dtype)
        for video, part in self._parts(latents_BTCHW, cost):
            decoded = self.network.decode(latents_BTCHW[video, part], **options)
            pixels_BTCHW[video, part] = decoded.to(output_buffer)
        return output_buffer

    def encode(self, x: Tensor, device: Any = None, **options: Any) -> Tensor:
        """Latents (B, C, T, h, w) of pixels (B, 3, T, H, W)."""
        pixels_BTCHW = _time_first(x)
        cost = self.vae.memory_used_encode(pixels_BTCHW.shape[1:], self.vae.vae_dtype)
        latents = torch.cat(
            [
                self.network.encode(pixels_BTCHW[video, part].to(device or x.device), **options)
                for video, part in self._parts(pixels_BTCHW, cost)
            ]
        ).unflatten(0, pixels_BTCHW.shape[:2])
        return latents.movedim(1, 2) if x.ndim == 5 else latents[0]

    def _parts(self, x_BTCHW: Tensor, cost: float) -> Iterator[tuple[int, slice]]:
        """Each video in runs of as many frames as fit into memory at once."""
        free = self.vae.patcher.get_free_memory(self.vae.device)
        at_once = max(1, int(free / max(1, cost)))
        for video in range(x_BTCHW.shape[0]):
            for start in range(0, x_BTCHW.shape[1], at_once):
                yield video, slice(start, start + at_once)


def _time_first(x: Tensor) -> Tensor:
    """A view (B, T, C, H, W) of videos (B, C, T, H, W); a batch of pictures counts as one video."""
    return x.movedim(2, 1) if x.ndim == 5 else x.unsqueeze(0)


def fold_frames(vae: Any, node: str = "STIV Video VAE") -> Any:
    """A VAE that shares the weights of `vae` and takes video. Raises ValueError for others."""
    check_vae(vae, node)
    if isinstance(vae.first_stage_model, FoldedFrames):
        return vae
    folded = copy.copy(vae)
    folded.first_stage_model = FoldedFrames(vae)
    folded.latent_dim, folded.not_video = 3, False
    folded.downscale_ratio = folded.upscale_ratio = (_same, _DOWNSCALE, _DOWNSCALE)
    folded.downscale_index_formula = folded.upscale_index_formula = (1, _DOWNSCALE, _DOWNSCALE)
    # One frame's worth: `FoldedFrames` takes as many at once as fit.
    for name in ("memory_used_encode", "memory_used_decode"):
        setattr(folded, name, _per_frame(getattr(vae, name)))
    return folded


def check_vae(vae: Any, node: str) -> None:
    """Raise ValueError, naming the node, for anything but a VAE of single pictures."""
    if vae is None:
        raise ValueError(f"{node}: there is no VAE, the checkpoint holds none: use Load VAE")
    vae.throw_exception_if_invalid()
    if isinstance(vae.first_stage_model, FoldedFrames):
        return
    if vae.latent_dim != 2 or vae.output_channels != 3:
        raise ValueError(
            f"{node}: STIV needs a VAE that encodes pictures one by one (SD, SDXL, SD3, Flux), "
            f"this one is a {type(vae.first_stage_model).__name__}: load an image VAE"
        )
    if vae.spacial_compression_decode() != _DOWNSCALE:
        raise ValueError(
            f"{node}: the VAE makes latents {vae.spacial_compression_decode()} times smaller, "
            f"STIV needs {_DOWNSCALE}: load another VAE"
        )


def encode_pictures(vae: Any, pictures: Tensor) -> Tensor:
    """Latents (k, C, h, w) of pictures (k, H, W, 3), whether or not the VAE folds frames."""
    latents = vae.encode(pictures)
    return latents[0].movedim(1, 0) if latents.ndim == 5 else latents


def decode_frames(vae: Any, latents_CTHW: Tensor, batch: int = 8) -> Iterator[Tensor]:
    """Frames (t, H, W, 3) in [0, 1] of raw VAE latents, t ≤ `batch` at a time.

    As the core's VAE Decode gives them. Pixels of one batch are held at a time, and the VAE takes
    fewer at once where memory is short. Batches do not follow the free memory: with some VAEs the
    last bit depends on how many frames run together, and a rerun is to give the same pixels.
    Raises ValueError for a VAE that does not encode pictures one by one, and for other latents.
    """
    if latents_CTHW.ndim != 4 or batch < 1:
        raise ValueError(
            f"latents have shape {tuple(latents_CTHW.shape)}, decoded {batch} frames at a time: "
            "expected (channels, frames, height, width) and 1 or more"
        )
    folded = fold_frames(vae)
    for part in latents_CTHW.split(batch, dim=1):
        yield folded.decode(part.unsqueeze(0))[0]


def _same(frames: int) -> int:
    return frames


def _per_frame(memory_used: Any) -> Any:
    return lambda shape, dtype: memory_used((1, *shape[1:2], *shape[-2:]), dtype)
