"""The STIV diffusion transformer (arXiv 2412.07730, section 3).

PixArt-alpha's blocks with temporal attention in between; every ablation of the paper is a switch
of `STIVConfig`. Shapes: x_BCTHW latents, x_BTSD tokens (S = tokens of one frame).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import STIVConfig
from .layers import (
    SINUSOID_WIDTH,
    Attention,
    CrossAttention,
    Mlp,
    SelfAttention,
    gelu,
    modulate,
    norm,
    sinusoid,
)
from .rope import sincos_2d
from .tokens import Positions, patchify, unpatchify

MICRO_CONDITIONS = {"size": 2, "crop": 2, "stride": 1, "frames": 1}
"""The columns of `micro`, in order: original height and width, crop top and left, frame stride,
number of frames."""


class STIVBlock(nn.Module):
    """Spatial attention, temporal attention, cross-attention to the text, FFN."""

    def __init__(self, config: STIVConfig, operations: Any, **factory):
        super().__init__()
        self.config = config
        parts = modulation_parts(config)
        if config.shared_adaln:
            self.modulation_table = nn.Parameter(torch.empty(parts, config.width, **factory))
        else:
            self.modulation = operations.Linear(config.width, parts * config.width, **factory)
        self.spatial_attn = SelfAttention(config, operations, **factory)
        if config.temporal_attention:
            self.temporal_attn = SelfAttention(config, operations, **factory)
        self.cross_attn = CrossAttention(config, operations, **factory)
        hidden = int(config.width * config.mlp_ratio)
        self.mlp = Mlp(config.width, hidden, config.width, gelu(), operations, **factory)

    def forward(
        self,
        x_BTSD: Tensor,
        condition: Tensor,
        text_BLD: Tensor,
        text_mask: Tensor | None,
        positions: Positions,
        attention: Attention,
    ) -> Tensor:
        """The block of the paper's figure 3.

        condition: (B, 6 or 9, D) modulation shared by all blocks, or without shared AdaLN the
        (B, 1, D) activated condition. text_mask: (B, 1, 1, L), true = read.
        """
        x, post = x_BTSD, norm if self.config.sandwich_norm else nn.Identity()
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp, *temporal = (
            self.modulations(condition)
        )
        x = x + gate_attn * post(
            self.spatial_attn(
                modulate(norm(x), shift_attn, scale_attn), positions.space_table, attention
            )
        )
        if self.config.temporal_attention:
            x = x + self.over_time(x, gate_attn, temporal, positions, attention)
        x = x + self.cross_attn(x, text_BLD, text_mask, attention)
        return x + gate_mlp * post(self.mlp(modulate(norm(x), shift_mlp, scale_mlp)))

    def modulations(self, condition: Tensor) -> list[Tensor]:
        """The shifts, scales and gates, (B, 1, 1, D) each."""
        if self.config.shared_adaln:
            parts_BPD = condition + self.modulation_table.to(condition)
        else:
            parts_BPD = self.modulation(condition).unflatten(-1, (-1, self.config.width))[:, 0]
        return [part[:, None, None] for part in parts_BPD.unbind(1)]

    def over_time(self, x, gate_attn, temporal, positions, attention) -> Tensor:
        """The temporal branch: ungated in the paper, other gates as ablations."""
        gate = self.config.temporal_gate
        h = x if gate == "spatial" else norm(x)
        if gate == "own":
            shift, scale, gate_time = temporal
            h = modulate(h, shift, scale)
        if positions.time_embedding is not None:
            h = h + positions.time_embedding
        h = self.temporal_attn(
            h,
            positions.time_table,
            attention,
            over_time=True,
            is_causal=self.config.temporal_causal,
        )
        h = norm(h) if self.config.sandwich_norm else h
        return h if gate == "none" else h * (gate_time if gate == "own" else gate_attn)


def modulation_parts(config: STIVConfig) -> int:
    """Shift, scale and gate for spatial attention and FFN; three more for a gated temporal one."""
    return 9 if config.temporal_gate == "own" else 6


class STIVTransformer(nn.Module):
    """F(x_t, text, image, t) -> velocity; the image condition is frames of x given clean."""

    def __init__(
        self,
        config: STIVConfig,
        *,
        operations: Any = nn,
        attention: Attention | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.attention = attention or F.scaled_dot_product_attention
        self.checkpoint: Callable[..., Tensor] | None = None
        factory = {"device": device, "dtype": dtype}
        D = config.width

        def embed(inner: int, activation: nn.Module) -> Mlp:
            return Mlp(inner, D, D, activation, operations, **factory)

        patch_volume = config.latent_channels * config.temporal_patch * config.patch**2
        self.patch_embed = operations.Linear(patch_volume, D, **factory)
        self.time_embed = embed(SINUSOID_WIDTH, nn.SiLU())
        self.text_embed = embed(config.text_width, gelu())
        if config.null_text_tokens:
            # Not used here: whoever knows that there is no prompt gives its first rows as the text.
            self.null_text = nn.Parameter(
                torch.empty(config.null_text_tokens, config.text_width, **factory)
            )
        if config.pooled_width:
            self.pooled_embed = embed(config.pooled_width, nn.SiLU())
        if config.micro_conditions:
            self.micro_embed = nn.ModuleDict(
                {name: embed(n * SINUSOID_WIDTH, nn.SiLU()) for name, n in MICRO_CONDITIONS.items()}
            )
        if config.image_cross_attention:
            self.image_embed = operations.Linear(
                config.latent_channels * config.patch**2, D, **factory
            )
        if config.shared_adaln:
            self.modulation = operations.Linear(D, modulation_parts(config) * D, **factory)
        self.blocks = nn.ModuleList(
            STIVBlock(config, operations, **factory) for _ in range(config.depth)
        )
        if config.mask_decoder_blocks:
            self.mask_token = nn.Parameter(torch.empty(D, **factory))
            self.decoder_blocks = nn.ModuleList(
                STIVBlock(config, operations, **factory) for _ in range(config.mask_decoder_blocks)
            )
        self.final = FinalLayer(D, patch_volume, operations, **factory)

    def forward(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        text_BLD: Tensor,
        *,
        text_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        micro: Tensor | None = None,
        image: Tensor | None = None,
        keep: Tensor | None = None,
        attention: Attention | None = None,
    ) -> Tensor:
        """Velocity v = data - noise of the latents at time t (paper section 3).

        x_BCTHW: latents with the conditioning frames already replaced; any T, H, W >= 1 (padded
        to the patch by repetition inside, cropped after). t_B: in [0, 1], 1 = data; float64 where
        the last digits of the embedded time 1000 * (1 - t) matter.
        text_BLD: (B, L, text_width); text_mask (B, L): nonzero = a real token; a row without any
        attends to all. pooled: (B, pooled_width), None = zeros. micro: (B, 6), see
        `MICRO_CONDITIONS`, None = as x is. image: (B, C, H, W) clean image for the
        cross-attention ablation. keep: (B, K) the spatial tokens that masked training keeps.
        Raises ValueError for shapes that do not fit the config.
        """
        config = self.config
        self._check(x_BCTHW, text_BLD, keep)
        patches, grid = patchify(x_BCTHW, config.patch, config.temporal_patch)
        positions = Positions(config, grid, patches)
        condition = self.condition(x_BCTHW, t_B, pooled, micro)
        text, mask = self.context(text_BLD, text_mask, image)
        shared = self.shared_modulation(condition)

        def run(blocks, x, positions):
            rest = positions.after_first_block()
            for i, block in enumerate(blocks):
                args = (
                    x,
                    shared,
                    text,
                    mask,
                    rest if i else positions,
                    attention or self.attention,
                )
                x = block(*args) if self.checkpoint is None else self.checkpoint(block, *args)
            return x

        if keep is None:  # nobody else holds what the first block takes
            x = run(self.blocks, self.embed(patches, positions), positions)
        else:
            x = self.embed(patches, positions)
            kept = torch.take_along_dim(x, keep[:, None, :, None], dim=2)
            kept = run(self.blocks, kept, positions.kept(keep, x.shape[1]))
            x = self._unmask(kept, keep, x.shape, positions)
        if config.mask_decoder_blocks:
            x = run(self.decoder_blocks, x, positions.after_first_block())
        x = self.final(x, condition)
        return unpatchify(x, grid, config, x_BCTHW.shape)

    def embed(self, patches_BTSP: Tensor, positions: Positions) -> Tensor:
        """Tokens (B, T, S, D) of patches, with sin-cos positions where the config has such."""
        x = self.patch_embed(patches_BTSP)
        return x if positions.space_embedding is None else x + positions.space_embedding

    def condition(self, x_BCTHW, t_B, pooled, micro) -> Tensor:
        """(B, 1, D) singleton condition: time + pooled text + micro conditions."""
        part = norm if self.config.condition_norm else nn.Identity()
        # the timestep as the field embeds it: 0 (data) to 1000 (noise)
        total = part(self.time_embed(sinusoid(1000 * (1 - t_B)).to(x_BCTHW.dtype)))
        if self.config.pooled_width:
            if pooled is None:
                pooled = x_BCTHW.new_zeros(x_BCTHW.shape[0], self.config.pooled_width)
            total = total + part(self.pooled_embed(pooled))
        if self.config.micro_conditions:
            if micro is None:
                T, H, W = x_BCTHW.shape[2:]
                micro = x_BCTHW.new_tensor([[8 * H, 8 * W, 0, 0, 1, T]], dtype=torch.float32)
            columns = micro.split(list(MICRO_CONDITIONS.values()), dim=1)
            for name, values in zip(MICRO_CONDITIONS, columns, strict=True):
                embedded = sinusoid(values).flatten(1).to(x_BCTHW.dtype)
                total = total + part(self.micro_embed[name](embedded))
        return total[:, None]

    def context(self, text_BLD, text_mask, image) -> tuple[Tensor, Tensor | None]:
        """Projected text (and image) tokens (B, L, D) with their mask (B, 1, 1, L) or None."""
        context = self.text_embed(text_BLD)
        mask = None
        if text_mask is not None:
            mask = text_mask.bool()
            mask = mask | ~mask.any(-1, keepdim=True)  # softmax over nothing would be NaN
        if self.config.image_cross_attention and image is not None:
            tokens, (_, H, W) = patchify(image[:, :, None], self.config.patch, 1)
            # Cross-attention has no positions of its own: without these it could not tell where
            # in the picture a token is.
            places = sincos_2d(
                H, W, self.config.width, 1.0, 0, self.config.rope_theta, image.device, image.dtype
            )
            context = torch.cat([context, self.image_embed(tokens[:, 0]) + places], dim=1)
            if mask is not None:
                mask = F.pad(mask, (0, tokens.shape[2]), value=True)
        return context, None if mask is None else mask[:, None, None]

    def shared_modulation(self, condition_B1D: Tensor) -> Tensor:
        """What every block's modulation starts from, see `STIVBlock.forward`."""
        activated = F.silu(condition_B1D)
        if not self.config.shared_adaln:
            return activated
        return self.modulation(activated).unflatten(-1, (-1, self.config.width))[:, 0]

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """PixArt-alpha's initialisation: xavier, small embeddings, zero output."""
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue  # it has no numbers
            if name == "mask_token" or (name.endswith("weight") and "_embed." in name):
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name == "null_text":
                std = self.config.text_width**-0.5
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("_table"):
                std = self.config.width**-0.5
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)
        nn.init.xavier_uniform_(self.patch_embed.weight, generator=generator)
        for block in [*self.blocks, *getattr(self, "decoder_blocks", [])]:
            nn.init.zeros_(block.cross_attn.proj.weight)
        for module in [self, *self.blocks]:
            if hasattr(module, "modulation"):
                nn.init.normal_(module.modulation.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.final.linear.weight)

    def _unmask(self, kept, keep_BK, shape, positions) -> Tensor:
        """Put the kept tokens back in place; the mask token stands for the others."""
        fill = self.mask_token.to(kept)
        if positions.space_embedding is not None:
            fill = fill + positions.space_embedding
        index = keep_BK[:, None, :, None].expand_as(kept)
        return fill.expand(shape).scatter(2, index, kept)

    def _check(self, x_BCTHW: Tensor, text_BLD: Tensor, keep: Tensor | None) -> None:
        config = self.config
        if x_BCTHW.ndim != 5 or x_BCTHW.shape[1] != config.latent_channels:
            raise ValueError(
                f"latents have shape {tuple(x_BCTHW.shape)}: "
                f"expected (batch, {config.latent_channels}, frames, height, width)"
            )
        if text_BLD.ndim != 3 or text_BLD.shape[2] != config.text_width:
            raise ValueError(
                f"text has shape {tuple(text_BLD.shape)}: "
                f"expected (batch, tokens, {config.text_width})"
            )
        if keep is not None and not config.mask_decoder_blocks:
            raise ValueError("keep was given, but mask_decoder_blocks is 0: nothing unmasks")


class FinalLayer(nn.Module):
    """Modulated norm and projection to patches."""

    def __init__(self, width: int, outer: int, operations: Any, **factory):
        super().__init__()
        self.modulation_table = nn.Parameter(torch.empty(2, width, **factory))
        self.linear = operations.Linear(width, outer, **factory)

    def forward(self, x_BTSD: Tensor, condition_B1D: Tensor) -> Tensor:
        shift, scale = (condition_B1D + self.modulation_table.to(condition_B1D)).unbind(1)
        return self.linear(modulate(norm(x_BTSD), shift[:, None, None], scale[:, None, None]))
