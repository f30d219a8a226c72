"""The STIV network with blocks assembled from diffusers' Attention and FeedForward.

It is what one would write with that library: the same function with the same weights, whose
outputs the benchmarks and a test compare with ours. What is around the blocks is ours.
"""

from __future__ import annotations

import copy

import torch
from diffusers.models.attention import Attention, FeedForward
from diffusers.models.attention_processor import AttnProcessor2_0, HunyuanAttnProcessor2_0
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from einops import rearrange
from torch import Tensor, nn

from stiv import STIVConfig, STIVTransformer
from stiv.layers import NORM_EPS, CrossAttention, SelfAttention
from stiv.model import STIVBlock

Table = tuple[Tensor, Tensor]
"""Cosines and sines (N, head width) as diffusers wants them: neighbours are a pair."""


def from_parts(model: STIVTransformer, grid: tuple[int, int, int]) -> STIVTransformer:
    """A copy of a model with blocks of diffusers' parts, for tokens of one grid (T, H, W).

    Raises ValueError for a model that is not the paper's final one.
    """
    config = model.config
    final = config.qk_norm and config.sandwich_norm and config.shared_adaln
    if not final or config.position != "rope" or config.temporal_gate != "none":
        raise ValueError("the parts are assembled to the paper's final model only")
    tables = _tables(config, grid)
    assembled = copy.deepcopy(model)
    assembled.blocks = nn.ModuleList(PartsBlock(block, tables) for block in model.blocks)
    return assembled


class PartsBlock(nn.Module):
    """A block as the libraries write it: attention folds frames or tokens into the batch."""

    def __init__(self, block: STIVBlock, tables: tuple[Table, Table]):
        super().__init__()
        self.space, self.time = tables
        self.scale_shift_table = nn.Parameter(block.modulation_table.detach().clone())
        width, dtype = block.config.width, block.modulation_table.dtype
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=NORM_EPS)
        self.spatial = _self_attention(block.spatial_attn).to(dtype)
        self.temporal = None
        if block.config.temporal_attention:
            self.temporal = _self_attention(block.temporal_attn).to(dtype)
        self.cross = _cross_attention(block.cross_attn).to(dtype)
        self.mlp = FeedForward(
            width, mult=block.config.mlp_ratio, activation_fn="gelu-approximate"
        ).to(dtype)
        _fill(self.mlp.net[0].proj, block.mlp.fc1.weight, block.mlp.fc1.bias)
        _fill(self.mlp.net[2], block.mlp.fc2.weight, block.mlp.fc2.bias)

    def forward(self, x_BTSD, condition, text_BLD, text_mask, positions, attention) -> Tensor:
        """As `STIVBlock.forward`, without a mask of the text."""
        T, S = x_BTSD.shape[1:3]
        x = x_BTSD.flatten(1, 2)
        parts = (self.scale_shift_table + condition).chunk(6, dim=1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts

        h = self.norm(x) * (1 + scale_attn) + shift_attn
        h = rearrange(h, "b (t s) d -> (b t) s d", t=T)
        h = self.spatial(h, image_rotary_emb=self.space)
        x = x + gate_attn * self.norm(rearrange(h, "(b t) s d -> b (t s) d", t=T))
        if self.temporal is not None:
            h = rearrange(self.norm(x), "b (t s) d -> (b s) t d", t=T)
            h = self.temporal(h, image_rotary_emb=self.time)
            x = x + self.norm(rearrange(h, "(b s) t d -> b (t s) d", s=S))
        x = x + self.cross(x, encoder_hidden_states=text_BLD)
        h = self.mlp(self.norm(x) * (1 + scale_mlp) + shift_mlp)
        x = x + gate_mlp * self.norm(h)
        return x.unflatten(1, (T, S))


def _attention(layer: SelfAttention | CrossAttention, processor, **options) -> Attention:
    width = layer.heads * layer.head_dim
    return Attention(
        width, heads=layer.heads, dim_head=layer.head_dim, bias=True, qk_norm="rms_norm",
        eps=NORM_EPS, processor=processor, **options,
    )  # fmt: skip


def _self_attention(layer: SelfAttention) -> Attention:
    made = _attention(layer, HunyuanAttnProcessor2_0())
    weights, biases = (w.chunk(3) for w in (layer.qkv.weight, layer.qkv.bias))
    # The pairs that rotate are halves of a head in ours and neighbours in theirs.
    order = torch.arange(layer.head_dim).view(2, -1).T.flatten()
    for target, weight, bias in zip((made.to_q, made.to_k), weights[:2], biases[:2], strict=True):
        heads = (layer.heads, layer.head_dim)
        _fill(
            target,
            weight.unflatten(0, heads)[:, order].flatten(0, 1),
            bias.unflatten(0, heads)[:, order].flatten(),
        )
    _fill(made.to_v, weights[2], biases[2])
    _fill(made.to_out[0], layer.proj.weight, layer.proj.bias)
    _fill(made.norm_q, layer.q_norm.weight[order])
    _fill(made.norm_k, layer.k_norm.weight[order])
    return made


def _cross_attention(layer: CrossAttention) -> Attention:
    width = layer.heads * layer.head_dim
    made = _attention(layer, AttnProcessor2_0(), cross_attention_dim=width)
    weights, biases = layer.kv.weight.chunk(2), layer.kv.bias.chunk(2)
    _fill(made.to_q, layer.q.weight, layer.q.bias)
    for target, weight, bias in zip((made.to_k, made.to_v), weights, biases, strict=True):
        _fill(target, weight, bias)
    _fill(made.to_out[0], layer.proj.weight, layer.proj.bias)
    _fill(made.norm_q, layer.q_norm.weight)
    _fill(made.norm_k, layer.k_norm.weight)
    return made


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())


def _tables(config: STIVConfig, grid: tuple[int, int, int]) -> tuple[Table, Table]:
    """Of space and of time; rows turn the first half of a head's pairs, columns the second."""
    T, H, W = grid
    theta = config.rope_theta

    def table(dim: int, positions: Tensor) -> Table:
        return get_1d_rotary_pos_embed(dim, positions, theta=theta, use_real=True)

    rows, columns = (
        table(config.head_dim // 2, places.float() * config.space_scale)
        for places in (
            torch.arange(H).repeat_interleave(W),
            torch.arange(W).repeat(H),
        )
    )
    space = tuple(torch.cat(pair, dim=-1) for pair in zip(rows, columns, strict=True))
    return space, table(config.head_dim, torch.arange(T).float() * config.time_scale)
