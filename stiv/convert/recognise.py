"""Which foreign model a file holds, for which size and length it was trained, and how its positions
are spaced: what the importer must know before it reads a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..header import CheckpointError
from ..public import LATENT_SPACES
from ..rope import sincos_1d, sincos_2d
from .names import BLOCKS, Layout
from .source import Source

PATCH = 2
_WRAPPERS = ("", "module.", "model.", "base_model.", "model.diffusion_model.", "diffusion_model.")
_FIRST: dict[Layout, str] = {
    "original": "x_embedder.proj.weight",
    "diffusers": "pos_embed.proj.weight",
}
_SIGNS = {"original": "t_block.1.weight", "diffusers": "adaln_single.linear.weight"}
_FIT_TOLERANCE = 4e-3  # of a table of sines stored in bfloat16
_RELEASED_FRAMES = 16
_SIGMA_TOKENS = 300  # of the longest prompt; PixArt-alpha's has 120
_MOST_PIXELS, _MOST_FRAMES = 4096, 4096


@dataclass(frozen=True)
class Settings:
    """What a file may not tell of itself; None: read from the file, else the releases' value."""

    size: int | None = None
    """Trained height and width in pixels."""
    heads: int | None = None
    frames: int | None = None
    latents: str | None = None
    """A name in `LATENT_SPACES`; the releases' is "sd"."""
    dtype: torch.dtype | None = None
    """Of the tensors written; None: as they are."""
    license: str | None = None
    title: str | None = None

    @property
    def pixels(self) -> int:
        """Of a token's side."""
        return PATCH * LATENT_SPACES[self.latents or "sd"]["downscale"]


@dataclass(frozen=True)
class Foreign:
    """A source that was recognised: what its tensors are called and how deep it is."""

    source: Source
    layout: Layout
    prefix: str
    shapes: dict[str, tuple[int, ...]]
    """Of the tensors by their names without the prefix."""
    depth: int

    @property
    def is_video(self) -> bool:
        """Whether frames see each other."""
        return "blocks.0.attn_temp.qkv.weight" in self.shapes

    @property
    def family(self) -> str:
        """Its name, for people."""
        if self.is_video:
            return "Open-Sora 1.0"
        null_text = self.shapes.get("y_embedder.y_embedding", ())
        return "PixArt-Sigma" if null_text[:1] == (_SIGMA_TOKENS,) else "PixArt-alpha"

    @property
    def first(self) -> str:
        """Name of the patch embedding's weight."""
        return _FIRST[self.layout]

    def tensor(self, name: str) -> Tensor:
        """By its name without the prefix."""
        return self.source.tensors[self.prefix + name]

    def matrix(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of two or more axes. Raises CheckpointError where there is none."""
        shape = self.shapes.get(name, ())
        if len(shape) < 2 or 0 in shape:
            raise CheckpointError(
                self.source.path, f"tensor {name} is missing or no matrix, shape {shape}"
            )
        return shape


def recognise(source: Source) -> Foreign | None:
    """The family of a source by its names; None for any other."""
    names = source.tensors.described
    for layout, first in _FIRST.items():
        for prefix in _WRAPPERS:
            if prefix + first in names and prefix + _SIGNS[layout] in names:
                shapes = {
                    name.removeprefix(prefix): tuple(tensor.shape)
                    for name, tensor in names.items()
                    if name.startswith(prefix)
                }
                return Foreign(source, layout, prefix, shapes, _depth(shapes, layout))
    return None


def _depth(names: dict[str, tuple[int, ...]], layout: Layout) -> int:
    numbers = (n.split(".")[1] for n in names if n.startswith(BLOCKS[layout] + "."))
    return 1 + max((int(n) for n in numbers if n.isdecimal() and len(n) < 5), default=-1)


def grid_of(found: Foreign, settings: Settings) -> tuple[int, float]:
    """Tokens along a side of the trained picture, and the spacing of their positions.

    Raises CheckpointError where neither the file nor the settings tell, or they contradict.
    """
    path, pixels = found.source.path, settings.pixels
    if found.layout == "original" and "pos_embed" in found.shapes:
        count, most = _positions(found, "pos_embed"), (_MOST_PIXELS // pixels) ** 2
        side = math.isqrt(count)
        if side * side != count or count > most:
            raise CheckpointError(
                path, f"pos_embed has {count:,} positions: expected a square grid of up to {most:,}"
            )
        if settings.size not in (None, side * pixels):
            raise CheckpointError(
                path,
                f"its positions are those of {side * pixels} pixels, --size is {settings.size}: "
                "leave --size out",
            )
        return side, _spacing(found, "pos_embed", side)
    sample = found.source.config.get("sample_size")
    size = settings.size or (8 * sample if type(sample) is int else None)
    if size is None:
        raise CheckpointError(
            path, "does not say for which size it was trained: name it by --size 256 or --size 512"
        )
    if size % pixels or not pixels <= size <= _MOST_PIXELS:
        raise CheckpointError(
            path, f"the size is {size}: expected a multiple of {pixels}, up to {_MOST_PIXELS}"
        )
    if found.is_video:  # Open-Sora's configs: the positions of 512 pixels, wider apart at 256
        return size // pixels, 512 / size
    scale = found.source.config.get("interpolation_scale") or max(size // 512, 1)
    if not isinstance(scale, int | float) or not 0.01 < scale < 100:
        raise CheckpointError(path, f"interpolation_scale is {scale!r}: expected a number near 1")
    return size // pixels, 1.0 / scale


def frames_of(found: Foreign, settings: Settings) -> tuple[int, float]:
    """Trained frames, and the spacing of their positions. Raises CheckpointError."""
    if not found.is_video:
        return 1, 1.0
    if "pos_embed_temporal" not in found.shapes:
        return settings.frames or _RELEASED_FRAMES, 1.0
    count = _positions(found, "pos_embed_temporal")
    if count > _MOST_FRAMES:
        raise CheckpointError(
            found.source.path,
            f"pos_embed_temporal has {count:,} frames, more than {_MOST_FRAMES:,}",
        )
    return settings.frames or count, _spacing(found, "pos_embed_temporal", count)


def _positions(found: Foreign, name: str) -> int:
    """How many positions a table has. Raises CheckpointError for a shape that no table has."""
    shape, width = found.shapes[name], found.matrix(found.first)[0]
    if len(shape) != 3 or not shape[1] or (shape[0], shape[2]) != (1, width):
        raise CheckpointError(
            found.source.path, f"{name} has shape {shape}: expected (1, positions, {width})"
        )
    return shape[1]


def _spacing(found: Foreign, name: str, count: int) -> float:
    """The spacing of the positions in a table of sines, which is checked to be nothing else."""
    table = found.tensor(name)[0].double()
    width, place = table.shape[1], (torch.device("cpu"), torch.float64)
    if len(table) < 2 or width % 4:  # a single place; or a width that no config takes
        return 1.0
    # the first of the sines turns by one radian for every unit of the column, or of the frame
    if name == "pos_embed":
        spacing = _turn(table[1, 0], table[1, width // 4])
        made = sincos_2d(count, count, width, spacing, 0, 1e4, *place)
    else:
        spacing = _turn(table[1, 0], table[1, width // 2])
        made = sincos_1d(count, width, spacing, 1e4, *place)
    error = float((table - made).abs().max())
    if not error < _FIT_TOLERANCE:
        raise CheckpointError(
            found.source.path,
            f"{name} differs by {error:.2g} from sines and cosines of a grid: its positions were "
            "trained or made otherwise, which this network cannot do",
        )
    return spacing


def _turn(sine: Tensor, cosine: Tensor) -> float:
    """An angle below 2 pi, rounded to a fraction that people write in a config."""
    angle = math.atan2(float(sine), float(cosine)) % (2 * math.pi)
    return round(angle * 24) / 24 or 1.0
