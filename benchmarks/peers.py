"""What a user would pick instead of this model: other networks of the same depth, width and heads.

Every peer is a module with random weights and a call that gives it inputs of the same number of
tokens. Weights do not matter for time; where a peer computes our function, see `parts`.
"""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from scripts.prepare import need_host
from tests import hosting

CHANNELS, PATCH = 4, 2


@dataclass(frozen=True)
class Size:
    """Of the networks that are compared, and of what they are given."""

    depth: int
    width: int = 512
    heads: int = 8
    frames: int = 10
    """Of tokens, not latents."""
    side: int = 16
    """Tokens along a side of a frame."""
    text_tokens: int = 77
    text_width: int = 1280

    def noise(self, dtype: torch.dtype) -> Tensor:
        """Latents (1, C, T, H, W) for a network without temporal patches."""
        side = PATCH * self.side
        return torch.randn(1, CHANNELS, self.frames, side, side).to(dtype)

    def text(self, dtype: torch.dtype) -> Tensor:
        """Token states of a prompt."""
        return torch.randn(1, self.text_tokens, self.text_width).to(dtype)


@dataclass(frozen=True)
class Peer:
    """A network and one forward pass of it."""

    model: nn.Module
    call: Callable[[], Tensor]


def latte(size: Size, dtype: torch.dtype) -> Peer:
    """diffusers' Latte: a spatial block with text and a temporal one, each with an FFN."""
    from diffusers import LatteTransformer3DModel

    model = LatteTransformer3DModel(
        num_attention_heads=size.heads, attention_head_dim=size.width // size.heads,
        in_channels=CHANNELS, num_layers=size.depth, cross_attention_dim=size.width,
        attention_bias=True, sample_size=PATCH * size.side, patch_size=PATCH,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        caption_channels=size.text_width, video_length=size.frames,
    )  # fmt: skip
    model = model.to(dtype).eval()
    x, text, t = size.noise(dtype), size.text(dtype), torch.tensor([500])

    def call() -> Tensor:
        return model(x, timestep=t, encoder_hidden_states=text, return_dict=False)[0]

    return Peer(model, call)


def pixart(size: Size, dtype: torch.dtype) -> Peer:
    """diffusers' PixArt: an image, one frame of tokens."""
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        num_attention_heads=size.heads, attention_head_dim=size.width // size.heads,
        in_channels=CHANNELS, out_channels=CHANNELS, num_layers=size.depth,
        cross_attention_dim=size.width, sample_size=PATCH * size.side, patch_size=PATCH,
        use_additional_conditions=False, caption_channels=size.text_width,
    )  # fmt: skip
    model = model.to(dtype).eval()
    x, text, t = size.noise(dtype)[:, :, 0], size.text(dtype), torch.tensor([500])

    def call() -> Tensor:
        return model(x, encoder_hidden_states=text, timestep=t, return_dict=False)[0]

    return Peer(model, call)


@functools.cache
def install_host() -> None:
    """Make ComfyUI and the pack importable here, on the CPU, with the host's own defaults.

    They stay installed for the rest of the process.
    """
    base = tempfile.TemporaryDirectory(prefix="stiv-bench-")
    atexit.register(base.cleanup)
    hosting.install(need_host(), Path(base.name))
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = False


def host_wan(size: Size, dtype: torch.dtype, *, sdpa: bool) -> Peer:
    """ComfyUI's Wan: all tokens attend to each other. sdpa: torch's attention instead of the one
    that the host chooses on a CPU (sub-quadratic)."""
    import comfy.ops
    from comfy.ldm.modules.attention import attention_pytorch, attention_sub_quad
    from comfy.ldm.wan.model import WanModel

    model = WanModel(
        patch_size=(1, PATCH, PATCH), in_dim=CHANNELS, out_dim=CHANNELS, dim=size.width,
        ffn_dim=4 * size.width, text_dim=size.text_width, num_heads=size.heads,
        num_layers=size.depth, dtype=dtype, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    randomise(model)
    chosen = attention_pytorch if sdpa else attention_sub_quad

    def attend(_, *args, **options):
        return chosen(*args, **options)

    x, text, t = size.noise(dtype), size.text(dtype), torch.tensor([500.0])

    def call() -> Tensor:
        options = {"optimized_attention_override": attend}
        return model(x, t, text, transformer_options=options)

    return Peer(model, call)


def host_pixart(size: Size, dtype: torch.dtype, *, sdpa: bool) -> Peer:
    """ComfyUI's PixArt, see `host_wan`. It divides by zero for latents below 64 x 64."""
    import comfy.ops
    from comfy.ldm.modules.attention import attention_pytorch, attention_sub_quad
    from comfy.ldm.pixart import blocks
    from comfy.ldm.pixart.pixartms import PixArtMS

    model = PixArtMS(
        patch_size=PATCH, in_channels=CHANNELS, hidden_size=size.width, depth=size.depth,
        num_heads=size.heads, pred_sigma=False, caption_channels=size.text_width,
        model_max_length=size.text_tokens, micro_condition=False, dtype=dtype,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    model.to(dtype).eval()
    randomise(model)
    x, text, t = size.noise(dtype)[:, :, 0], size.text(dtype), torch.tensor([500.0])
    chosen = attention_pytorch if sdpa else attention_sub_quad

    def call() -> Tensor:
        with mock.patch.object(blocks, "optimized_attention", chosen):
            return model(x, t, text)

    return Peer(model, call)


def randomise(model: nn.Module) -> None:
    """Numbers for layers that the host leaves empty: it loads a checkpoint into them."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
