"""The network's shape and the paper's ablation switches, as one checked value.

Sizes are the paper's (section 3 and appendix); every switch defaults to the final model, and
turning the switches off one by one walks the ablation ladder back to PixArt-alpha; the rows of the
paper's tables are in `stiv.ablations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

# Bounds keep a stranger's checkpoint from asking for more than any real model would.
_BOUNDS = {
    "latent_channels": (1, 256),
    "width": (8, 16384),
    "depth": (1, 512),
    "heads": (1, 512),
    "mlp_ratio": (0.25, 16.0),
    "patch": (1, 16),
    "temporal_patch": (1, 16),
    "text_width": (1, 65536),
    "pooled_width": (0, 65536),
    "null_text_tokens": (0, 4096),
    "mask_decoder_blocks": (0, 64),
    "rope_theta": (1.0, 1e9),
    "space_scale": (1e-3, 1e3),
    "time_scale": (1e-3, 1e3),
    "sincos_base": (0, 65536),
}
_CHOICES = {"position": ("rope", "sincos"), "temporal_gate": ("none", "own", "spatial")}


@dataclass(frozen=True, kw_only=True)
class STIVConfig:
    """Everything that determines the network's tensors and its function.

    Raises ValueError, quoting the field and its value, for anything out of range.
    """

    latent_channels: int = 4
    """Channels of the VAE's latents: 4 (SD, SDXL), 8 (the paper's), 16 (SD3, Flux)."""
    width: int = 1152
    """Token width D."""
    depth: int = 28
    """Number of main blocks."""
    heads: int = 18
    """Attention heads; width / heads is the head dimension (64 in the paper)."""
    mlp_ratio: float = 4.0
    """Hidden width of the FFN over D."""
    patch: int = 2
    """Latent pixels per token side."""
    temporal_patch: int = 2
    """Latent frames per token (paper: 2 for video; 1 for the image models)."""
    text_width: int = 1280
    """Width of the text encoder's token states (clip_g 1280, t5xxl 4096)."""
    pooled_width: int = 1280
    """Width of the pooled text embedding; 0: the model takes none."""
    null_text_tokens: int = 0
    """Token states of its own that stand for no prompt (PixArt-alpha's y_embedding); 0: the text
    encoder's states of the empty prompt do, as in the paper."""

    qk_norm: bool = True
    """RMSNorm on queries and keys of every attention."""
    sandwich_norm: bool = True
    """Stateless LayerNorm after, as well as before, self-attention and FFN."""
    condition_norm: bool = True
    """Stateless LayerNorm on every part of the singleton condition before the sum."""
    shared_adaln: bool = True
    """One modulation for all blocks plus a small table per block; False: an MLP per block."""
    position: Literal["rope", "sincos"] = "rope"
    """Rotary positions in attention, or sin-cos embeddings added to the tokens."""
    micro_conditions: bool = True
    """Condition on original size, crop corner, frame stride and number of frames."""
    temporal_attention: bool = True
    """False: an image model (T2I), frames do not see each other."""
    temporal_causal: bool = False
    """Temporal attention looks only backwards (an ablation; the paper's is not causal)."""
    temporal_gate: Literal["none", "own", "spatial"] = "none"
    """Modulation of temporal attention: none (the paper's choice), its own scale-shift-gate
    (ablation), or gated by the spatial gate and not normalised (Open-Sora 1.0's STDiT)."""
    mask_decoder_blocks: int = 2
    """Blocks after unmasking (MaskDiT); 0: none."""
    image_cross_attention: bool = False
    """Cross-attend to the tokens of a clean image next to the text (ablation)."""

    rope_theta: float = 10000.0
    """Base of the rotary (and sin-cos) frequencies."""
    space_scale: float = 1.0
    """Multiplies spatial positions: trained size / new size interpolates RoPE."""
    time_scale: float = 1.0
    """Multiplies temporal positions: trained frames / new frames interpolates RoPE."""
    sincos_base: int = 0
    """With sin-cos positions: grid side onto which any grid is stretched; 0: not stretched."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, field.type, getattr(self, field.name))
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"STIVConfig.{name} is {value!r}: expected {low} to {high}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"STIVConfig.{name} is {value!r}: expected one of {choices}")
        if self.width % self.heads:
            raise ValueError(
                f"STIVConfig.width is {self.width!r}: not a multiple of heads={self.heads!r}"
            )
        # 2-D RoPE splits a head into height and width halves of rotated pairs; sin-cos splits D.
        if self.position == "rope" and self.head_dim % 4:
            raise ValueError(
                f"STIVConfig.width / heads is {self.head_dim}: rope needs a multiple of 4"
            )
        if self.position == "sincos" and self.width % 4:
            raise ValueError(f"STIVConfig.width is {self.width!r}: sincos needs a multiple of 4")
        if self.temporal_gate != "none" and not self.temporal_attention:
            raise ValueError(
                f"STIVConfig.temporal_gate is {self.temporal_gate!r} without temporal_attention"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> STIVConfig:
        """Build from JSON values. Raises ValueError for unknown keys or values out of range."""
        if not isinstance(values, Mapping):
            raise ValueError(f"STIVConfig: expected a mapping of fields, got {values!r:.80}")
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(
                f"STIVConfig has no field {unknown[0]!r} (value {values[unknown[0]]!r})"
            )
        return cls(**values)


def _check_type(name: str, annotation: str, value: Any) -> None:
    """Refuse e.g. depth=2.5 or qk_norm="yes", which JSON from a stranger may hold."""
    if annotation == "bool":
        good = isinstance(value, bool)
    elif annotation == "int":
        good = isinstance(value, int) and not isinstance(value, bool)
    elif annotation == "float":
        good = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        good = isinstance(value, str)
    if not good:
        raise ValueError(f"STIVConfig.{name} is {value!r}: expected {annotation}")


MODELS: dict[str, STIVConfig] = {
    # nano ships with the pack: 16 frames of 64 x 64 px on a laptop CPU, small text encoder.
    "nano": STIVConfig(
        width=192, depth=6, heads=3, text_width=128, pooled_width=128, mask_decoder_blocks=0
    ),
    "xl": STIVConfig(width=1152, depth=28, heads=18),
    "xxl": STIVConfig(width=1536, depth=38, heads=24),
    "m": STIVConfig(width=3072, depth=46, heads=48),
}
