"""The two networks that train together, from a recipe or from a finished checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stiv.checkpoint import Card, read_checkpoint
from stiv.config import STIVConfig
from stiv.model import STIVTransformer
from stiv.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer, build_vocabulary

from .attention import short_attention
from .config import TrainConfig
from .shapes.captions import vocabulary

_LENGTH_STEP = 8  # text tokens


class Networks(nn.ModuleDict):
    """The transformer and its text encoder, named as in a checkpoint."""

    def __init__(self, model: STIVConfig, text: TextEncoderConfig, tokenizer: Tokenizer):
        super().__init__(
            {
                "diffusion_model": STIVTransformer(model, attention=short_attention),
                "text_encoder": TextEncoder(text),
            }
        )
        self.tokenizer = tokenizer

    @classmethod
    def from_config(cls, config: TrainConfig) -> Networks:
        """Freshly initialised from the run's seed."""
        tokenizer = Tokenizer(build_vocabulary(vocabulary()), config.text.max_tokens)
        text = TextEncoderConfig(
            width=config.text.width,
            depth=config.text.depth,
            heads=config.text.heads,
            max_tokens=config.text.max_tokens,
            vocab_size=len(tokenizer),
        )
        networks = cls(config.model.build(), text, tokenizer)
        generator = torch.Generator().manual_seed(config.seed)
        for network in networks.values():
            network.init_weights(generator)
        return networks

    @classmethod
    def from_checkpoint(cls, path: Path) -> tuple[Networks, Card, dict[str, Tensor]]:
        """Float32 networks of an all-in-one file, its card and its VAE's tensors.

        Raises CheckpointError for a file that is damaged or lacks a part.
        """
        card, parts = read_checkpoint(path)
        if card.tokenizer is None or not parts["text_encoder"] or not parts["vae"]:
            raise ValueError(f"{path}: expected an all-in-one file (model, text encoder, VAE)")
        networks = cls(card.config, card.text_encoder_config, card.tokenizer)
        for name, network in networks.items():
            network.load_state_dict(parts[name])
        return networks.eval().requires_grad_(False), card, parts["vae"]

    def compile_blocks(self) -> None:
        """Compile the blocks one by one: they share their code, so it is compiled once per shape
        of the input, in a fraction of the time that the whole network takes."""
        model = self["diffusion_model"]
        for block in [*model.blocks, *getattr(model, "decoder_blocks", [])]:
            block.compile(dynamic=False)

    def velocity(self, x: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        """Float32 velocity for latents x (B, C, T, H, W) at t (B,) and their captions.

        The networks compute in the dtype of their weights.
        """
        tokens, mask = self.tokenizer.encode_batch(captions)
        # Few different lengths: compiled blocks are compiled once for each.
        longest = -(-int(mask.sum(1).max()) // _LENGTH_STEP) * _LENGTH_STEP
        tokens, mask = tokens[:, :longest], mask[:, :longest]
        text, pooled = self["text_encoder"](tokens, mask)
        x = x.to(text.dtype)
        return self["diffusion_model"](x, t, text, text_mask=mask, pooled=pooled).float()
