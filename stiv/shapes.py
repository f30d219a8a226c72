"""Which tensors a config asks for, and what a file's tensors tell when its metadata is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from torch import nn

from .config import STIVConfig
from .model import STIVTransformer
from .text_encoder import TextEncoder, TextEncoderConfig

Shapes = dict[str, tuple[int, ...]]

DEFAULT_HEAD_DIM = 64
ASSUMED = (
    "sandwich_norm, condition_norm, position, temporal_causal, sincos_base, rope_theta and scales "
    "assumed to be the defaults"
)

# Other models' checkpoints: a tensor name that tells the family, and the node that loads it.
_CHECKPOINT_LOADER, _MODEL_LOADER = "Load Checkpoint", "Load Diffusion Model"
_FAMILIES = (
    (r"\.lora_|lora_(A|B|up|down)\b|^lora_|\.hada_|\.lokr_", "a LoRA", "Load LoRA"),
    (r"^conditioner\.embedders\.", "SDXL", _CHECKPOINT_LOADER),
    (r"^cond_stage_model\..*(transformer|model)\.", "Stable Diffusion 1 or 2", _CHECKPOINT_LOADER),
    (r"^(control_model|controlnet)\.|controlnet_blocks", "a ControlNet", "Load ControlNet Model"),
    (r"(^|\.)joint_blocks\.", "Stable Diffusion 3", _CHECKPOINT_LOADER),
    (r"individual_token_refiner", "HunyuanVideo", _MODEL_LOADER),
    (r"(^|\.)double_blocks\..*img_attn|single_blocks\.", "Flux", _MODEL_LOADER),
    (r"blocks\.0\.self_attn\.norm_q", "Wan", _MODEL_LOADER),
    (r"patchify_proj\.", "LTX-Video", _CHECKPOINT_LOADER),
    (r"blocks\.0\.attn_temp\.", "Open-Sora 1 (STDiT)", "STIV Load Model"),
    (r"blocks\.0\.cross_attn\.kv_linear", "PixArt", "STIV Load Model"),
    (r"adaln_single\.emb\.timestep_embedder.*", "a diffusers PixArt", "STIV Load Model"),
    (r"(^|\.)transformer_blocks\.0\.", "a diffusers transformer", _MODEL_LOADER),
    (r"(^|\.)input_blocks\.0\.0\.|^down_blocks\.", "a Stable Diffusion U-Net", _MODEL_LOADER),
    (r"^text_model\.encoder\.|\.SelfAttention\.q|^model\.layers\.0\.", "a text encoder",
     "Load CLIP"),
    (r"^taesd_|^(encoder|decoder)\.(conv_in|layers|mid)\b", "a VAE", "Load VAE"),
)  # fmt: skip


def expected_shapes(config: STIVConfig) -> Shapes:
    """Name and shape of every tensor of the model, without allocating any."""
    return dict(_model_shapes(config))


def expected_text_shapes(config: TextEncoderConfig) -> Shapes:
    """Name and shape of every tensor of the small text encoder, without allocating any."""
    return _shapes(TextEncoder(config, device="meta"))


def mismatches(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """What is missing, unknown or of another shape: a phrase each, none where all tensors fit."""
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"{len(missing)} missing ({some(missing)})")
    if unknown := [name for name in found if name not in expected]:
        problems.append(f"{len(unknown)} unknown ({some(unknown)})")
    if wrong := [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]:
        problems.append(f"{len(wrong)} of the wrong shape ({some(wrong)})")
    return problems


def some(items: list[str]) -> str:
    """The first three of a list, for a message."""
    return ", ".join(items[:3]) + (", …" if len(items) > 3 else "")


def count_blocks(names: Iterable[str], stack: str = "blocks") -> int:
    """Number of blocks of a stack that the names speak of: the highest index plus one."""
    found = (re.match(rf"{stack}\.(\d{{1,6}})\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def looks_like_stiv(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the bare names are a STIV model's."""
    return {"patch_embed.weight", "blocks.0.spatial_attn.qkv.weight"} <= set(shapes)


def foreign_family(names: Iterable[str]) -> tuple[str, str] | None:
    """The model family that the tensor names look like and the node that loads it, if known."""
    names = list(names)
    for pattern, family, loader in _FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return family, loader
    return None


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> tuple[STIVConfig, list[str]]:
    """The config that the shapes of a STIV model speak of, and notes on what they do not tell.

    Patches are taken to be 2 x 2, and of two frames in a video model.

    Raises:
        ValueError: naming the tensor that is missing, or the value that cannot be.
    """

    def size(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        if len(shape) != 2 or not shape[axis]:
            raise ValueError(f"tensor {name!r} is missing or no matrix, shape {shape}")
        return shape[axis]

    notes = [ASSUMED]
    width, volume = size("patch_embed.weight", 0), size("patch_embed.weight", 1)
    temporal = "blocks.0.temporal_attn.qkv.weight" in shapes
    patch, temporal_patch = 2, 2 if temporal and volume % 8 == 0 else 1
    if "image_embed.weight" in shapes:
        temporal_patch = max(1, volume // size("image_embed.weight", 1))
    else:
        notes.append(f"patches taken to be {temporal_patch} frames of 2 x 2")
    head_dim = next(iter(shapes.get("blocks.0.spatial_attn.q_norm.weight", ())), 0)
    if not head_dim:
        head_dim = DEFAULT_HEAD_DIM if width % DEFAULT_HEAD_DIM == 0 else width
        notes.append(f"heads taken to be {head_dim} wide")
    shared = "modulation.weight" in shapes
    pooled = "pooled_embed.fc1.weight"
    rows = size("modulation.weight" if shared else "blocks.0.modulation.weight", 0)
    config = STIVConfig(
        latent_channels=volume // (temporal_patch * patch**2),
        width=width,
        depth=count_blocks(shapes),
        heads=width // head_dim,
        mlp_ratio=_ratio(size("blocks.0.mlp.fc1.weight", 0), width),
        patch=patch,
        temporal_patch=temporal_patch,
        text_width=size("text_embed.fc1.weight", 1),
        pooled_width=size(pooled, 1) if pooled in shapes else 0,
        null_text_tokens=size("null_text", 0) if "null_text" in shapes else 0,
        qk_norm="blocks.0.spatial_attn.q_norm.weight" in shapes,
        shared_adaln=shared,
        micro_conditions="micro_embed.size.fc1.weight" in shapes,
        temporal_attention=temporal,
        temporal_gate="own" if rows == 9 * width else "none",
        mask_decoder_blocks=count_blocks(shapes, "decoder_blocks"),
        image_cross_attention="image_embed.weight" in shapes,
    )
    return config, notes


def _ratio(hidden: int, width: int) -> float:
    """The ratio for which `int(width * ratio)` is exactly `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


@lru_cache(maxsize=16)
def _model_shapes(config: STIVConfig) -> Shapes:
    return _shapes(STIVTransformer(config, device="meta"))


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
