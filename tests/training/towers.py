"""Small frozen text encoders with random weights, in files as ComfyUI's."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file


def save_tower(kind: str, path: Path, width: int = 64) -> Path:
    """A clip_g (with the words of ComfyUI's tokenizer) or t5xxl of two layers, float16."""
    import transformers

    torch.manual_seed(5)
    if kind == "clip_g":
        config = transformers.CLIPTextConfig(
            vocab_size=49408, hidden_size=width, projection_dim=width, num_hidden_layers=2,
            num_attention_heads=width // 64, intermediate_size=96,
        )  # fmt: skip
        tower = transformers.CLIPTextModelWithProjection(config)
    else:
        config = transformers.T5Config(
            vocab_size=32128, d_model=width, d_kv=64, num_heads=1, d_ff=96, num_layers=2,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
        tower = transformers.T5EncoderModel(config)
    state = {n: t.half() for n, t in tower.state_dict().items() if "embed_tokens" not in n}
    save_file(state, path)
    return path
