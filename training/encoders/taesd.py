"""TAESD, a small deterministic image VAE, and a narrow network that is the same function.

TAESD (the layout of the file, and what the host runs) is 64 channels wide everywhere. A narrower
network is stored with zeros around its weights: a zero channel stays zero through convolution and
ReLU, so the wide network is exactly the same function. A block that was left out is a block of
zeros.

Legend: B frames, C latent channels, H, W pixels; images in [-1, 1] as the host passes them.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAESD_WIDTH = 64
_TAESD_BLOCKS = 3  # per level, below full resolution


class SoftClamp(nn.Module):
    """Limits latents smoothly to (-3, 3)."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z / 3) * 3


class ResidualBlock(nn.Module):
    """Three convolutions beside a skip, ReLU after the sum."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            _conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


def _conv(n_in: int, n_out: int, **kw) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, **kw)


def _level(width: int, blocks: int) -> list[nn.Module]:
    """A level of three blocks of which the last `3 - blocks` are left out (after the first block
    the features are non-negative, so an identity is what a block of zeros computes)."""
    kept = [ResidualBlock(width) for _ in range(blocks)]
    return kept + [nn.Identity() for _ in range(_TAESD_BLOCKS - blocks)]


class TinyVAE(nn.Module):
    """A deterministic 8x image autoencoder with TAESD's module names.

    `width` is one width for all levels, or four from full resolution to the latent's; `blocks` the
    residual blocks per level below full resolution (1 to 3). At full resolution, the most
    expensive, a network of fewer than three blocks has one in the decoder only.
    """

    def __init__(
        self,
        width: int | tuple[int, int, int, int] = 32,
        latent_channels: int = 4,
        blocks: int = _TAESD_BLOCKS,
    ):
        super().__init__()
        widths = (width,) * 4 if isinstance(width, int) else tuple(width)
        if len(widths) != 4 or not all(1 <= w <= TAESD_WIDTH for w in widths):
            raise ValueError(f"width is {width!r}: give one or four of 1 to {TAESD_WIDTH}")
        if not 1 <= blocks <= _TAESD_BLOCKS:
            raise ValueError(f"blocks is {blocks}: give 1 to {_TAESD_BLOCKS}")
        a, b, c, d = widths
        down = {"stride": 2, "bias": False}
        self.taesd_encoder = nn.Sequential(
            *(_conv(3, a), ResidualBlock(a) if blocks == _TAESD_BLOCKS else nn.ReLU()),
            *(_conv(a, b, **down), *_level(b, blocks)),
            *(_conv(b, c, **down), *_level(c, blocks)),
            *(_conv(c, d, **down), *_level(d, blocks)),
            _conv(d, latent_channels),
        )
        self.taesd_decoder = nn.Sequential(
            *(SoftClamp(), _conv(latent_channels, d), nn.ReLU(), *_level(d, blocks)),
            *(nn.Upsample(scale_factor=2), _conv(d, c, bias=False), *_level(c, blocks)),
            *(nn.Upsample(scale_factor=2), _conv(c, b, bias=False), *_level(b, blocks)),
            *(nn.Upsample(scale_factor=2), _conv(b, a, bias=False), ResidualBlock(a)),
            _conv(a, 3),
        )
        self.recipe: dict | None = None  # how it was trained, where that is known
        self.vae_scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.vae_shift = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H/8, W/8)."""
        return self.taesd_encoder(image_BCHW * 0.5 + 0.5) / self.vae_scale + self.vae_shift

    def decode(self, z_BCHW: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, 8h, 8w), about [-1, 1] (not clamped)."""
        image = self.taesd_decoder((z_BCHW - self.vae_shift) * self.vae_scale)
        return image * 2 - 1

    def export(self) -> dict[str, Tensor]:
        """The same function as a state dict of the full TAESD width and depth."""
        channels = self.taesd_decoder[1].in_channels
        with torch.device("meta"):
            full = TinyVAE(TAESD_WIDTH, channels).state_dict()
        state, own = {}, self.state_dict()
        for name, target in full.items():
            state[name] = torch.zeros(target.shape)
            if name in own:
                corner = tuple(slice(0, n) for n in own[name].shape)
                state[name][corner] = own[name].detach().float()
        return state


def vae_from_state(state: dict[str, Tensor], recipe: dict | None = None) -> TinyVAE:
    """A VAE with the weights of TAESD tensors.

    A recipe of our own says how narrow the network is, so that it runs at the narrow speed.
    """
    channels = state["taesd_decoder.1.weight"].shape[1]
    if recipe is None:
        vae = TinyVAE(TAESD_WIDTH, channels)
    else:
        vae = TinyVAE(tuple(recipe["widths"]), channels, recipe["blocks"])
    vae.recipe = recipe
    own = vae.state_dict()
    for name, tensor in own.items():
        tensor.copy_(state[name][tuple(slice(0, n) for n in tensor.shape)])
    return vae.eval().to(memory_format=torch.channels_last)


def encoder_hash(vae: TinyVAE) -> str:
    """SHA-256 over the names and values of what latents depend on: all exported tensors but the
    decoder's, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.export().items()):
        if not name.startswith("taesd_decoder."):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
