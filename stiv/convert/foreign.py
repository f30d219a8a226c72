"""PixArt-alpha and Open-Sora 1.0 as STIV checkpoints, and back: equal weights, equal outputs.

With the switches at the baseline the network is PixArt-alpha's; with temporal attention under the
spatial gate it is STDiT's. So nothing is computed but the layout: names, the patch embedding's
convolution as a matrix, and the rows of the final layer that predict a variance, which no sampler
of the host reads, left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..card import Card
from ..config import STIVConfig
from ..header import CheckpointError
from ..public import EPSILON, LATENT_SPACES, TEXT_ENCODERS
from ..shapes import expected_shapes, mismatches
from ..tensor_file import LazyTensors, Progress, tensor_hash
from .names import POSITIONS, foreign_tensors
from .recognise import PATCH, Foreign, Settings, frames_of, grid_of, recognise
from .source import Source, open_source
from .weights import Weights

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LICENSES = {
    ("PixArt-alpha", "original"): "agpl-3.0",
    ("PixArt-alpha", "diffusers"): "openrail++",
    ("Open-Sora 1.0", "original"): "apache-2.0",
}
"""As the repositories of the released files state it; whoever trained on may state another."""

_SIZE_EMBEDDERS = ("csize_embedder.", "ar_embedder.", "adaln_single.emb.resolution_embedder.")
_KNOWN_HEADS = {1152: 16}
_RELEASED_TOKENS = 120


def import_weights(
    source: Source, settings: Settings | None = None, progress: Progress | None = None
) -> Weights:
    """A STIV checkpoint's weights with the function of the source's (design.md, section Model).

    progress: told of the bytes hashed for the card; without it the source is not hashed, so that
    nothing is read before it is used.
    Raises CheckpointError, before any weight is read, for another family, and for missing,
    unknown or misshapen tensors and wrong dtypes, by name.
    """
    settings = settings or Settings()
    found = recognise(source)
    if found is None:
        names = ", ".join(list(source.tensors)[:3])
        raise CheckpointError(
            source.path,
            f"is neither PixArt-alpha nor Open-Sora 1.0 (it holds {names}, …); these are imported "
            "under the names of their releases or of diffusers",
        )
    try:
        config, size, frames = _config(found, settings)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(source.path, f"cannot be this network: {error}") from None
    table = foreign_tensors(
        found.depth,
        found.layout,
        is_video=found.is_video,
        has_null_text=bool(config.null_text_tokens),
    )
    _check_tensors(found, config, table)
    card = _card(found, config, settings, size, frames)
    tensors = _ours(found, config, table, settings.dtype)
    origin = {"family": found.family, "file": source.path.name, "layout": found.layout}
    if source.weights:
        origin["weights"] = source.weights
    parent = tensor_hash(source.tensors, progress) if progress else None
    return Weights(card, tensors).derived("import", origin, [parent])


def open_foreign(path: str | os.PathLike[str]) -> Weights | None:
    """The weights of a foreign .safetensors file; None for any file that is none of them.

    Raises CheckpointError for a foreign file that does not fit or does not tell its size, and for
    one that is no sound safetensors file.
    """
    source = open_source(path)
    return import_weights(source) if recognise(source) else None


# --- what a source says of itself ----------------------------------------------------------------


def _config(found: Foreign, settings: Settings) -> tuple[STIVConfig, int, int]:
    """The network, its trained size in pixels, and its trained frames."""
    path, shapes = found.source.path, found.shapes
    if odd := [name for name in shapes if name.startswith(_SIZE_EMBEDDERS)]:
        raise CheckpointError(
            path,
            f"is PixArt-alpha for 1024 pixels, conditioned on size and aspect ({odd[0]}), which "
            "this network has no place for; import the 256 or 512 pixel weights",
        )
    if found.family == "PixArt-Sigma" and settings.latents is None:
        raise CheckpointError(
            path,
            "looks like PixArt-Sigma, whose latents are those of SDXL's VAE: import it with "
            "--latents sdxl",
        )
    is_original = found.layout == "original"
    embedder = "y_embedder" if is_original else "caption_projection"
    first = "y_proj.fc1" if is_original else "linear_1"
    null_text = f"{embedder}.y_embedding"
    width, channels = found.matrix(found.first)[:2]
    text_width = found.matrix(f"{embedder}.{first}.weight")[1]
    heads = settings.heads or found.source.config.get("num_attention_heads")
    heads = heads or _KNOWN_HEADS.get(width)
    if type(heads) is not int:
        raise CheckpointError(path, f"does not say how many heads a width of {width} has: --heads")
    grid, spacing = grid_of(found, settings)
    frames, time_spacing = frames_of(found, settings)
    config = STIVConfig(
        latent_channels=channels,
        width=width,
        depth=found.depth,
        heads=heads,
        patch=PATCH,
        temporal_patch=1,
        text_width=text_width,
        pooled_width=0,
        null_text_tokens=found.matrix(null_text)[0] if null_text in shapes else 0,
        qk_norm=False,
        sandwich_norm=False,
        condition_norm=False,
        position="sincos",
        space_scale=spacing,
        time_scale=time_spacing,
        # PixArt lays any picture on the grid it was trained with; STDiT goes on counting
        sincos_base=0 if found.is_video else grid,
        micro_conditions=False,
        temporal_attention=found.is_video,
        temporal_gate="spatial" if found.is_video else "none",
        mask_decoder_blocks=0,
    )
    return config, grid * settings.pixels, frames


def _card(found: Foreign, config: STIVConfig, settings: Settings, size: int, frames: int) -> Card:
    text = dict(TEXT_ENCODERS["t5xxl"])
    if config.text_width != text["width"]:
        text |= {"encoder": "custom", "width": config.text_width}
    text["max_tokens"] = config.null_text_tokens or _RELEASED_TOKENS
    task: dict[str, Any] = {"task": "t2v" if found.is_video else "t2i"}
    stride = 3 if found.is_video else 1  # Open-Sora 1.0 plays every third frame, at 8 per second
    task |= {"height": [size] * 2, "width": [size] * 2}
    task |= {"frames": [frames] * 2, "stride": [stride] * 2}
    shape = f"{frames}x{size}x{size}" if found.is_video else f"{size}"
    licence = settings.license or found.source.metadata.get("modelspec.license")
    licence = licence or LICENSES.get((found.family, found.layout))
    spec = {
        "title": settings.title or f"{found.family} {shape}",
        **({"license": licence} if licence else {}),
        "resolution": f"{size}x{size}",
        "description": f"Imported from {found.source.path.name}; the same function.",
    }
    return Card(
        config=config,
        latents=dict(LATENT_SPACES[settings.latents or "sd"]),
        text=text,
        tasks=[task],
        sampling=dict(EPSILON),
        modelspec=spec,
    )


# --- tensors -------------------------------------------------------------------------------------


def _check_tensors(
    found: Foreign, config: STIVConfig, table: Mapping[str, tuple[str, ...]]
) -> None:
    """Every tensor there, none besides, all of their shape, before any is read."""
    path, shapes = found.source.path, dict(found.shapes)
    for name in POSITIONS:
        shapes.pop(name, None)
    expected = _foreign_shapes(found, config, table)
    problems = mismatches(expected, shapes)
    known = found.source.tensors.described
    if odd := [n for n in expected if n in shapes
               and not known[found.prefix + n].dtype.is_floating_point]:  # fmt: skip
        dtype = known[found.prefix + odd[0]].dtype
        problems.append(f"{len(odd)} hold no floating-point numbers ({odd[0]} is {dtype})")
    if problems:
        raise CheckpointError(
            path,
            f"looks like {found.family}, but its tensors do not fit: {'; '.join(problems)}; get "
            "the file as it was released",
        )


def _foreign_shapes(
    found: Foreign, config: STIVConfig, table: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the source's tensors that the config asks for."""
    expected, ours = {}, expected_shapes(config)
    factor = 2 if _predicts_variance(found) else 1
    for name, theirs in table.items():
        shape = ours[name]
        if name == "patch_embed.weight":
            time = (1,) if found.is_video else ()
            shape = (config.width, config.latent_channels, *time, config.patch, config.patch)
        elif name.startswith("final.linear."):
            shape = (factor * shape[0], *shape[1:])
        for part in theirs:
            expected[part] = (shape[0] // len(theirs), *shape[1:])
    return expected


def _predicts_variance(found: Foreign) -> bool:
    """Whether the final layer has twice the rows that the noise needs."""
    final = "final_layer.linear.bias" if found.layout == "original" else "proj_out.bias"
    noise = PATCH**2 * found.shapes[found.first][1]
    return found.shapes.get(final) == (2 * noise,)


def _ours(
    found: Foreign,
    config: STIVConfig,
    table: Mapping[str, tuple[str, ...]],
    dtype: torch.dtype | None,
) -> LazyTensors:
    known = found.source.tensors.described
    described = {}
    for name, shape in expected_shapes(config).items():
        stored = known[found.prefix + table[name][0]].dtype
        kept = stored if stored in WEIGHT_DTYPES else torch.float32
        described[name] = torch.empty(shape, dtype=dtype or kept, device="meta")

    def make(name: str) -> Tensor:
        parts = [found.tensor(part) for part in table[name]]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if name == "patch_embed.weight":
            tensor = tensor.flatten(1)
        elif name.startswith("final.linear.") and _predicts_variance(found):
            # rows are (pixel of the patch, channel): the first half of the channels is the noise
            pixels = tensor.unflatten(0, (PATCH**2, -1))
            tensor = pixels[:, : config.latent_channels].flatten(0, 1)
        made = tensor.to(described[name].dtype)
        if not torch.isfinite(made).all():
            is_damaged = not torch.isfinite(tensor.to(torch.float32)).all()
            raise CheckpointError(
                found.source.path,
                f"{name} holds NaN or infinity; get the file again"
                if is_damaged
                else f"{name} holds numbers too large for {made.dtype}: import without --dtype, or "
                "with --dtype bf16",
            )
        return made

    return LazyTensors(described, make)
