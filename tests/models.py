"""Small models with random weights everywhere, so that every layer has an influence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stiv import STIVConfig, STIVTransformer


def random_model(
    config: STIVConfig, *, seed: int = 0, std: float = 0.2, **settings: Any
) -> STIVTransformer:
    """The same model for the same seed, in every process; the initialisation zeroes the output.

    settings: of the constructor (attention, dtype).
    """
    torch.manual_seed(seed)
    model = STIVTransformer(config, **settings)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=std)
    return model
