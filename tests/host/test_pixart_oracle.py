"""With the switches at the baseline, the network is the host's own PixArt-alpha."""

from __future__ import annotations

import comfy.ops
import pytest
import torch
from comfy.ldm.pixart.pixartms import PixArtMS

from stiv import STIVConfig, STIVTransformer

WIDTH, DEPTH, HEADS, TEXT = 64, 3, 4, 48

NAMES = {
    "x_embedder.proj": "patch_embed",
    "t_embedder.mlp.0": "time_embed.fc1",
    "t_embedder.mlp.2": "time_embed.fc2",
    "y_embedder.y_proj": "text_embed",
    "t_block.1": "modulation",
    "attn.qkv": "spatial_attn.qkv",
    "attn.proj": "spatial_attn.proj",
    "q_linear": "q",
    "kv_linear": "kv",
    "final_layer": "final",
    "scale_shift_table": "modulation_table",
}

BASELINE = STIVConfig(
    width=WIDTH,
    depth=DEPTH,
    heads=HEADS,
    text_width=TEXT,
    pooled_width=0,
    temporal_patch=1,
    qk_norm=False,
    sandwich_norm=False,
    condition_norm=False,
    position="sincos",
    sincos_base=32,
    micro_conditions=False,
    temporal_attention=False,
    mask_decoder_blocks=0,
)


def rename(key: str) -> str:
    # "cross_attn.proj" ends like "attn.proj": it keeps its name
    for theirs, ours in NAMES.items():
        if not (theirs == "attn.proj" and "cross_attn" in key):
            key = key.replace(theirs, ours)
    return key


@pytest.fixture
def pixart() -> PixArtMS:
    torch.manual_seed(0)
    model = PixArtMS(
        hidden_size=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        caption_channels=TEXT,
        pred_sigma=False,
        micro_condition=False,
        operations=comfy.ops.disable_weight_init,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def ours(pixart: PixArtMS, dtype: torch.dtype) -> STIVTransformer:
    state = {rename(k): v for k, v in pixart.state_dict().items() if "y_embedding" not in k}
    state["patch_embed.weight"] = state["patch_embed.weight"].flatten(1)
    model = STIVTransformer(BASELINE, dtype=dtype).requires_grad_(False)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("size", [(64, 64), (64, 96)], ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_pixart(pixart: PixArtMS, dtype: torch.dtype, limit: float, size) -> None:
    pixart.to(dtype)
    x = torch.randn(1, 4, *size, dtype=dtype)
    text = torch.randn(1, 7, TEXT, dtype=dtype)
    for sigma in (0.0, 0.125, 0.5, 1.0):
        timestep = torch.full((1,), 1000 * sigma, dtype=dtype)
        expected = pixart(x, timestep, text)
        t = torch.full((1,), 1 - sigma, dtype=dtype)
        actual = ours(pixart, dtype)(x[:, :, None], t, text)[:, :, 0]
        error = (actual - expected).norm() / expected.norm()
        assert error < limit, f"sigma {sigma}: relative error {error:.2e}"
