"""What PixArt-alpha and Open-Sora 1.0's STDiT call our layers.

Both are this network with the paper's switches at the baseline. Three ways of naming occur: ours,
that of the original releases ("original"; STDiT adds `attn_temp`), and that of diffusers, which
keeps queries, keys and values apart: several of its layers, one above the other, are one of ours.
"""

from __future__ import annotations

from typing import Literal

Layout = Literal["original", "diffusers"]

# ours: (original, diffusers); layers have weight and bias
_OUTER = {
    "patch_embed": ("x_embedder.proj", ("pos_embed.proj",)),
    "time_embed.fc1": ("t_embedder.mlp.0", ("adaln_single.emb.timestep_embedder.linear_1",)),
    "time_embed.fc2": ("t_embedder.mlp.2", ("adaln_single.emb.timestep_embedder.linear_2",)),
    "text_embed.fc1": ("y_embedder.y_proj.fc1", ("caption_projection.linear_1",)),
    "text_embed.fc2": ("y_embedder.y_proj.fc2", ("caption_projection.linear_2",)),
    "modulation": ("t_block.1", ("adaln_single.linear",)),
    "final.linear": ("final_layer.linear", ("proj_out",)),
}
_BLOCK = {
    "spatial_attn.qkv": ("attn.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
    "spatial_attn.proj": ("attn.proj", ("attn1.to_out.0",)),
    "temporal_attn.qkv": ("attn_temp.qkv", ()),
    "temporal_attn.proj": ("attn_temp.proj", ()),
    "cross_attn.q": ("cross_attn.q_linear", ("attn2.to_q",)),
    "cross_attn.kv": ("cross_attn.kv_linear", ("attn2.to_k", "attn2.to_v")),
    "cross_attn.proj": ("cross_attn.proj", ("attn2.to_out.0",)),
    "mlp.fc1": ("mlp.fc1", ("ff.net.0.proj",)),
    "mlp.fc2": ("mlp.fc2", ("ff.net.2",)),
}
# tensors that are no layer's
_OUTER_TENSORS = {
    "final.modulation_table": ("final_layer.scale_shift_table", ("scale_shift_table",)),
    "null_text": ("y_embedder.y_embedding", ("caption_projection.y_embedding",)),
}
_BLOCK_TENSORS = {"modulation_table": ("scale_shift_table", ("scale_shift_table",))}

BLOCKS: dict[Layout, str] = {"original": "blocks", "diffusers": "transformer_blocks"}
"""What the stack of blocks is called."""
POSITIONS = ("pos_embed", "pos_embed_temporal")
"""Tables in the original layout that hold no weights: they are computed from the config."""


def foreign_layers(depth: int, layout: Layout, *, is_video: bool) -> dict[str, tuple[str, ...]]:
    """Our name of every linear layer to its foreign layers, whose rows joined are ours.

    Raises ValueError for a video model in the diffusers layout, which has none.
    """
    return _named(_OUTER, _BLOCK, depth, layout, is_video)


def foreign_tensors(
    depth: int, layout: Layout, *, is_video: bool, has_null_text: bool
) -> dict[str, tuple[str, ...]]:
    """Our name of every tensor to its foreign tensors, whose rows joined are ours.

    Two are stored in another form, too: the patch embedding as a convolution, and the final layer
    with rows for a variance that is learned. Raises ValueError as `foreign_layers`.
    """
    names = {
        f"{ours}.{end}": tuple(f"{layer}.{end}" for layer in theirs)
        for ours, theirs in foreign_layers(depth, layout, is_video=is_video).items()
        for end in ("weight", "bias")
    }
    names |= _named(_OUTER_TENSORS, _BLOCK_TENSORS, depth, layout, is_video)
    if not has_null_text:
        del names["null_text"]
    return names


def _named(outer, block, depth: int, layout: Layout, is_video: bool) -> dict[str, tuple[str, ...]]:
    if is_video and layout == "diffusers":
        raise ValueError("diffusers has no names for a model with temporal attention: use original")

    def theirs(pair: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
        return (pair[0],) if layout == "original" else pair[1]

    names = {ours: theirs(pair) for ours, pair in outer.items()}
    for i in range(depth):
        for ours, pair in block.items():
            if is_video or not ours.startswith("temporal_attn."):
                foreign = tuple(f"{BLOCKS[layout]}.{i}.{name}" for name in theirs(pair))
                names[f"blocks.{i}.{ours}"] = foreign
    return names
