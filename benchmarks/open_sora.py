"""Open-Sora 1.2's STDiT3, read from a checkout that the user names; nothing of it is here.

    git clone --branch v1.2.0 https://github.com/hpcaitech/Open-Sora
    STIV_OPEN_SORA=Open-Sora python -m benchmarks forward_video

Its package imports GPU libraries that have no part in a forward pass. In their place stand packages
without contents, and torch's attention for that of xformers, which has no CPU kernels.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .peers import CHANNELS, PATCH, Peer, Size

VARIABLE = "STIV_OPEN_SORA"


def find() -> Path | None:
    """The checkout; None where the user names none. Raises ValueError for another folder."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not (folder / "opensora/models/stdit/stdit3.py").is_file():
        raise ValueError(f"{VARIABLE}={named} holds no opensora/models/stdit/stdit3.py: name v1.2")
    return folder


def stdit3(folder: Path, size: Size, dtype: torch.dtype) -> Peer:
    """STDiT3: a spatial and a temporal block, each with text and an FFN."""
    _stand_in(folder)
    from opensora.models.stdit.stdit3 import STDiT3, STDiT3Config

    config = STDiT3Config(
        depth=size.depth, hidden_size=size.width, num_heads=size.heads, in_channels=CHANNELS,
        patch_size=(1, PATCH, PATCH), caption_channels=size.text_width,
        model_max_length=size.text_tokens, pred_sigma=False, class_dropout_prob=0.0,
    )  # fmt: skip
    model = STDiT3(config).to(dtype).eval()
    x, text, t = size.noise(dtype), size.text(dtype)[:, None], torch.tensor([500.0])
    pixels = torch.tensor([8.0 * PATCH * size.side])
    given = {"fps": torch.tensor([24.0]), "height": pixels, "width": pixels}

    def call() -> Tensor:
        return model(x, t, text, **given)

    return Peer(model, call)


def _stand_in(folder: Path) -> None:
    for name in ("opensora", "opensora.models", "opensora.models.stdit", "opensora.utils"):
        package = ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules.setdefault(name, package)
    _module("opensora.utils.ckpt_utils", load_checkpoint=None)  # it would load from the network
    _module("opensora.registry", MODELS=_Registry())
    fmha = _module("xformers.ops.fmha", BlockDiagonalMask=_OneSample)
    ops = _module("xformers.ops", memory_efficient_attention=_attend, fmha=fmha)
    _module("xformers", ops=ops)


def _module(name: str, **contents: Any) -> ModuleType:
    module = sys.modules.setdefault(name, ModuleType(name))
    vars(module).update(contents)
    return module


class _Registry:
    def register_module(self, *_: Any) -> Any:
        return lambda function: function


class _OneSample:
    """The mask that keeps samples of a batch apart: with one sample there is nothing to mask."""

    @staticmethod
    def from_seqlens(queries: list[int], keys: list[int]) -> None:
        if len(queries) != 1:
            raise ValueError(f"a batch of {len(queries)}: only one sample is supported here")


def _attend(q: Tensor, k: Tensor, v: Tensor, p: float = 0.0, attn_bias: None = None) -> Tensor:
    """xformers' attention (B, N, H, d) by torch's."""
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2)
