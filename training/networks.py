"""The networks of a run as one module: the transformer, and a text encoder that learns with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stiv.checkpoint import read_checkpoint
from stiv.config import STIVConfig
from stiv.model import STIVTransformer
from stiv.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer

from .attention import short_attention
from .layers import Operations
from .vocabulary import vocabulary_of

if TYPE_CHECKING:
    from .caches.text import TextCache, TextStates
    from .config import TrainConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""What a recipe calls the dtypes to compute in."""

_LENGTH_STEP = 8  # text tokens


def best_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Networks(nn.ModuleDict):
    """The transformer, and the small text encoder where the run trains one.

    dtype: to compute in, whatever the weights are held in; None: theirs. tokenizer: of the small
    text encoder. text_cache: states of a frozen one, from the disk or of a few prompts.
    compiled: whether blocks are compiled, once for each length of text.
    """

    def __init__(
        self,
        model: STIVConfig,
        text: TextEncoderConfig | None = None,
        *,
        dtype: torch.dtype | None = None,
        tokenizer: Tokenizer | None = None,
        text_cache: TextCache | TextStates | None = None,
        compiled: bool = False,
    ):
        transformer = STIVTransformer(model, operations=Operations, attention=short_attention)
        parts = {"diffusion_model": transformer}
        if text is not None:
            parts["text_encoder"] = TextEncoder(text, operations=Operations)
        super().__init__(parts)
        self.dtype, self.tokenizer, self.text_cache = dtype, tokenizer, text_cache
        self.compiled = compiled

    @classmethod
    def from_config(cls, config: TrainConfig) -> Networks:
        """Freshly initialised from the run's seed. Raises ValueError for a missing text cache."""
        model, dtype = config.model.build(), DTYPES[config.engine.precision]
        if config.text.encoder != "nano":
            from .caches.text import TextCache

            cache = TextCache(config.text.cache)
            networks = cls(model, dtype=dtype, text_cache=cache, compiled=config.engine.compile)
        else:
            tokenizer = Tokenizer(vocabulary_of(config), config.text.max_tokens)
            sizes = {key: getattr(config.text, key) for key in ("width", "depth", "heads")}
            text = TextEncoderConfig(
                **sizes, max_tokens=config.text.max_tokens, vocab_size=len(tokenizer)
            )
            networks = cls(model, text, dtype=dtype, tokenizer=tokenizer)
        generator = torch.Generator().manual_seed(config.seed)
        for network in networks.values():
            network.init_weights(generator)
        return networks

    @classmethod
    def from_checkpoint(cls, path: Path, text_cache: TextStates | None = None) -> Networks:
        """Float32 networks of a checkpoint; text_cache: where its text encoder is not inside.

        Raises CheckpointError for a damaged file.
        """
        card, parts = read_checkpoint(path)
        networks = cls(
            card.config, card.text_encoder_config, tokenizer=card.tokenizer, text_cache=text_cache
        )
        for name, network in networks.items():
            network.load_state_dict(parts[name])
        return networks.eval().requires_grad_(False)

    def prompts(self, captions: list[str]) -> dict[str, Tensor]:
        """What `forward` needs to know of the captions: tokens, or states from the text cache."""
        if self.tokenizer is None:
            states, mask, pooled = self.text_cache.get(captions)
            if self.compiled:
                more = _few_lengths(mask.shape[1]) - mask.shape[1]
                states, mask = F.pad(states, (0, 0, 0, more)), F.pad(mask, (0, more))
            prompt = {"states": states, "mask": mask}
            return prompt if pooled is None else {**prompt, "pooled": pooled}
        tokens, mask = self.tokenizer.encode_batch(captions)
        longest = _few_lengths(int(mask.sum(1).max()))
        return {"tokens": tokens[:, :longest], "mask": mask[:, :longest]}

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prompt: dict[str, Tensor],
        micro: Tensor | None = None,
        keep: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """Float32 velocity for latents x (B, C, T, H, W) at t (B,).

        prompt: of `prompts`, on the device of x. micro, keep: as for `STIVTransformer`. image
        (B, C, H, W): for cross-attention to it; zeros, and None, stand for none.
        """
        model = self["diffusion_model"]
        if model.config.image_cross_attention and image is None:
            image = torch.zeros_like(x[:, :, 0])
        dtype = self.dtype or model.patch_embed.weight.dtype
        if "tokens" in prompt:
            encoder = self["text_encoder"]
            embedded = encoder.get_input_embeddings()(prompt["tokens"]).to(dtype)
            states, pooled = encoder(mask_BL=prompt["mask"], embeds_BLD=embedded)
        else:
            states, pooled = prompt["states"], prompt.get("pooled")
        # All that follows, positions and time embeddings too, is in the dtype of x.
        return model(
            x.to(dtype),
            t,
            states.to(dtype),
            text_mask=prompt["mask"],
            pooled=None if pooled is None else pooled.to(dtype),
            micro=micro,
            image=None if image is None else image.to(dtype),
            keep=keep,
        ).float()

    def velocity(self, x: Tensor, t: Tensor, captions: list[str], **more) -> Tensor:
        """`forward` for captions as text."""
        prompt = {k: v.to(x.device) for k, v in self.prompts(captions).items()}
        return self(x, t, prompt, **more)


def _few_lengths(tokens: int) -> int:
    """At least so many tokens, of few different lengths: compiled blocks are compiled for each."""
    return -(-tokens // _LENGTH_STEP) * _LENGTH_STEP
