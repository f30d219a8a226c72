"""Parameters and FLOPs of every size, from closed forms."""

from __future__ import annotations

from collections.abc import Iterator

from stiv import MODELS
from training.estimate import flops, parameters

# latent frames, height and width: 20 x 256^2 and 20 x 512^2 px, nano at what it was trained for
SHAPES = {"nano": [(16, 8, 8)], "xl": [(20, 32, 32), (20, 64, 64)]}
SHAPES["xxl"] = SHAPES["m"] = SHAPES["xl"]


def run() -> Iterator[dict]:
    """One row per size and shape; the FLOPs of one sample's forward pass (a multiply-add is two).

    The tests hold the closed forms against torch's counter.
    """
    for name, config in MODELS.items():
        for shape in SHAPES[name]:
            yield {
                "model": name,
                "parameters": parameters(config),
                "frames": shape[0],
                "pixels": [8 * side for side in shape[1:]],
                "forward_gflop": round(flops(config, shape, train=False) / 1e9, 2),
            }
