"""The steps of an initialisation, each a function (before, aim) -> Step or None.

In their order: what changes the source's own function comes before what is added to it.
"""

from .blocks import decoder_blocks, depth, shared_adaln
from .inputs import (
    image_tokens,
    latent_channels,
    latent_space,
    micro_conditions,
    null_text,
    pooled_text,
    text_encoder,
    text_width,
    velocity,
)
from .norms import condition_norm, qk_norm, sandwich_norm
from .positions import rotary, scales
from .step import Aim, Step, Temporal, Tensors
from .time import causal, gate_of_its_own, joint, temporal_attention, temporal_patch, ungated

STEPS = (
    depth,
    latent_channels,
    latent_space,
    null_text,
    text_width,
    text_encoder,
    pooled_text,
    rotary,
    scales,
    ungated,
    qk_norm,
    sandwich_norm,
    condition_norm,
    shared_adaln,
    micro_conditions,
    temporal_patch,
    temporal_attention,
    joint,
    gate_of_its_own,
    causal,
    decoder_blocks,
    image_tokens,
    velocity,
)

__all__ = ["STEPS", "Aim", "Step", "Temporal", "Tensors"]
