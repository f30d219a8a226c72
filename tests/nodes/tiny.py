"""A tiny STIV checkpoint with random weights, and the nodes of pack and host as functions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import torch
from comfy.taesd.taesd import TAESD
from ComfyUI_STIV import nodes as pack
from ComfyUI_STIV.stiv.checkpoint import Card, write_checkpoint
from ComfyUI_STIV.stiv.config import STIVConfig
from ComfyUI_STIV.stiv.model import STIVTransformer
from ComfyUI_STIV.stiv.public import LATENT_SPACES
from ComfyUI_STIV.stiv.text_encoder import (
    TextEncoder,
    TextEncoderConfig,
    Tokenizer,
    build_vocabulary,
)
from torch import Tensor

import nodes as host_nodes

FRAMES, SIDE = 4, 8  # latents (C, 4, 8, 8) of videos 64 pixels square
TEXT_WIDTH, MAX_TOKENS = 24, 12

CUSTOM_SPACE = {
    "name": "custom",
    "channels": 4,
    "scale": [1.0, 0.5, 2.0, 1.5],
    "shift": [0.0, 0.1, -0.2, 0.3],
    "downscale": 8,
}


def write(
    path: Path,
    space: str = "custom",
    shift: float = 1.0,
    task: tuple[str, int] = ("ti2v", FRAMES),
    training: dict[str, Any] | None = None,
    stride: int | None = None,
    **config: Any,
) -> Path:
    """An all-in-one checkpoint: network, text encoder and VAE. `config` changes the network.

    task: what its card says that it was trained for, and with how many frames. stride: of these.
    training: what else its card says of that.
    """
    trained = {"task": task[0], "height": [64, 64], "width": [64, 64], "frames": [task[1]] * 2}
    trained |= {"stride": [stride] * 2} if stride else {}
    latents = CUSTOM_SPACE if space == "custom" else LATENT_SPACES[space]
    stiv_config = STIVConfig(
        **{
            "latent_channels": latents["channels"],
            "width": 32,
            "depth": 2,
            "heads": 2,
            "text_width": TEXT_WIDTH,
            "pooled_width": TEXT_WIDTH,
            "mask_decoder_blocks": 1,
            **config,
        }
    )
    vocab = build_vocabulary(["a", "red", "blue", "circle", "square", "moves", "left", "right"])
    text_config = TextEncoderConfig(
        width=TEXT_WIDTH,
        depth=1,
        heads=2,
        max_tokens=MAX_TOKENS,
        vocab_size=len(Tokenizer(vocab, MAX_TOKENS)),
    )
    card = Card(
        config=stiv_config,
        latents=latents,
        text={
            "encoder": "nano",
            "width": TEXT_WIDTH,
            "pooled_width": stiv_config.pooled_width,
            "max_tokens": MAX_TOKENS,
            "config": text_config.to_dict(),
            "vocab": vocab,
        },
        tasks=[trained],
        sampling={"shift": shift},
        training=training or {},
        modelspec={"title": "Tiny"},
    )
    network = randomised(STIVTransformer(stiv_config), 1)
    text = randomised(TextEncoder(text_config), 2)
    vae = randomised(TAESD(latent_channels=latents["channels"]), 3, scale=0.6)
    write_checkpoint(path, card, network, text, vae)
    return path


def randomised(module: torch.nn.Module, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Random weights everywhere, so that every input has an influence on the output."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in module.state_dict().items():
        if tensor.ndim >= 2:
            std = scale / tensor[0].numel() ** 0.5
            tensors[name] = torch.randn(tensor.shape, generator=generator) * std
        elif name == "vae_scale" or name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            tensors[name] = torch.ones_like(tensor)
        else:
            tensors[name] = torch.randn(tensor.shape, generator=generator) * 0.02
    return tensors


async def _pack_nodes() -> dict[str, type]:
    extension = await pack.comfy_entrypoint()
    return {cls.GET_SCHEMA().node_id: cls for cls in await extension.get_node_list()}


PACK = asyncio.run(_pack_nodes())
SHOWN = {name: cls for name, cls in PACK.items() if not cls.GET_SCHEMA().is_dev_only}
"""Nodes that an artist can add; the others are what STIV Long Video becomes."""


@torch.inference_mode()
def run(node: str | type, **inputs: Any) -> Any:
    """The output of a node (a tuple of several): its id in the pack or the host, or its class."""
    cls = node if isinstance(node, type) else PACK.get(node)
    cls = cls or host_nodes.NODE_CLASS_MAPPINGS[node]
    if hasattr(cls, "define_schema"):
        result = cls.EXECUTE_NORMALIZED(**inputs).result
    else:
        result = getattr(cls(), cls.FUNCTION)(**inputs)
    return result[0] if len(result) == 1 else result


def sample(model: Any, positive: Any, negative: Any, latent: Any, **settings: Any) -> Tensor:
    """The samples of the core KSampler, or of KSamplerAdvanced where its settings are given."""
    defaults = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    settings = {**defaults, **settings}
    if "start_at_step" in settings:
        settings = {"add_noise": "enable", "noise_seed": 7, **settings}
        settings.setdefault("return_with_leftover_noise", "disable")
        node = "KSamplerAdvanced"
    else:
        settings = {"seed": 7, "denoise": 1.0, **settings}
        node = "KSampler"
    inputs = {"positive": positive, "negative": negative, "latent_image": latent}
    return run(node, model=model, **inputs, **settings)["samples"]
