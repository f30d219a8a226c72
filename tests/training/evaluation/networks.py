"""Tiny networks of random weights as the files that a user would name."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Pictures(nn.Module):
    """Called as the Inception of StyleGAN is: levels 0-255, features where asked for."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2)
        self.head = nn.Linear(8, width)
        self.classes = nn.Linear(width, 3)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        x = torch.relu(self.conv(img / 127.5 - 1)).mean((2, 3))
        features = self.head(x)
        return features if return_features else self.classes(features)


class Clips(nn.Module):
    """Called as the I3D of StyleGAN-V is: clips (n, 3, T, H, W) of levels 0-255."""

    def __init__(self, width: int = 5):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, width)

    def forward(
        self,
        x: Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> Tensor:
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = nn.functional.interpolate(x, size=[x.shape[2], 24, 24], mode="trilinear")
        features = self.head(torch.relu(self.conv(x)).mean((2, 3, 4)))
        return features if return_features else torch.softmax(features, 1)


class Plain(nn.Module):
    """Does not say what it takes; noisy or blind where asked to be."""

    def __init__(self, kind: str = "good"):
        super().__init__()
        self.kind = kind
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((-1, -2)) * self.scale
        if self.kind == "nan":
            return means / 0.0 - means / 0.0
        if self.kind == "blind":
            return torch.ones_like(means)
        if self.kind == "batch":
            return means - means.mean(0, keepdim=True) + 1.0
        return means


def write_script(module: nn.Module, path: Path, seed: int = 0) -> Path:
    """The module with weights of the seed, as TorchScript."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(module.eval()).save(str(path))
    return path
