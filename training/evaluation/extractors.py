"""Networks that the user names, as TorchScript files: Inception, I3D, C3D.

A TorchScript file is code and weights, as a program is: it is loaded only where the user names it.
Nothing is downloaded; `WHERE` tells where people get the usual ones.

Legend: n pictures or clips, T frames, H, W pixels, D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..files import sha256
from ..networks import best_device

Role = Literal["inception", "i3d", "c3d"]
Range = Literal["auto", "0-255", "0-1", "signed"]

WHERE: dict[Role, str] = {
    "inception": (
        "the Inception of 2015 as TorchScript, 2048 features: inception-2015-12-05.pt of NVIDIA's "
        "stylegan2-ada-pytorch (folder pretrained/metrics)"
    ),
    "i3d": (
        "an I3D trained on Kinetics-400 as TorchScript, 400 logits: i3d_torchscript.pt of "
        "StyleGAN-V (github.com/universome/fvd-comparison names the address)"
    ),
    "c3d": (
        "a C3D trained on UCF-101 as TorchScript, 101 logits, taking clips (n, 3, T, H, W): there "
        "is no usual file; export one with torch.jit.script"
    ),
}
WIDTH: dict[Role, int] = {"inception": 2048, "i3d": 400, "c3d": 101}
"""Features of the usual network; numbers of others cannot be compared with published ones."""

_LARGEST = 2**31  # bytes of a file
_CALLS = {"return_features": True, "rescale": True, "resize": True}
"""Arguments of the usual files: features instead of classes, input in 0-255, any size."""
_AT_ONCE = {"inception": 32, "i3d": 4, "c3d": 8}


@dataclass(frozen=True)
class Extractor:
    """A loaded network and how it is called."""

    module: torch.jit.ScriptModule
    role: Role
    path: Path
    sha256: str
    range: Literal["0-255", "0-1", "signed"]
    """Of a level in its input; signed: -1 to 1."""
    options: dict[str, bool]
    device: str
    width: int = 0

    @torch.no_grad()
    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Features float32 (n, D) of pictures uint8 (n, H, W, 3) or clips uint8 (n, T, H, W, 3)."""
        step = _AT_ONCE[self.role]
        parts = [self._features(clips[i : i + step]) for i in range(0, len(clips), step)]
        return np.concatenate(parts)

    def _features(self, clips: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.array(clips)).to(self.device).movedim(-1, 1).float()
        if self.range != "0-255":
            x = x / 255 if self.range == "0-1" else x / 127.5 - 1
        return self.module(x, **self.options).float().flatten(1).cpu().numpy()

    def warnings(self) -> list[str]:
        """What makes its numbers another thing than the usual ones."""
        if self.width == WIDTH[self.role]:
            return []
        return [
            f"{self.path.name} gives {self.width} features, the usual {self.role} "
            f"{WIDTH[self.role]}: its numbers compare with each other, not with published ones"
        ]

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        called = {"range": self.range, "options": self.options, "features": self.width}
        return {"path": str(self.path), "sha256": self.sha256, **called}


def open_extractor(
    path: Path | None,
    role: Role,
    example: Sequence[int],
    *,
    input_range: Range = "auto",
    device: str | None = None,
) -> Extractor:
    """Load a network and try it on two random inputs of the shape `example`: (H, W, 3) for
    pictures, (T, H, W, 3) for clips.

    input_range: what it takes; auto: 0-255, for networks that have one of the usual files'
    arguments (`return_features`, `rescale`). device: default: the GPU where there is one.
    Raises ValueError, with what to do, for a missing or damaged file, one that does not say what it
    takes, and features that are not finite, not one row for each input, or the same whatever is
    shown.
    """
    path, device = _present(path, role), device or str(best_device())
    try:
        with (
            warnings.catch_warnings()
        ):  # torch would have other kinds of files; these are the usual
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(str(path), map_location=device).eval()
        arguments = {argument.name for argument in module.forward.schema.arguments}
    except Exception as error:  # what other bytes may raise has no bounds
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise ValueError(
            f"{path} is no TorchScript file with a forward ({reason}): expected {WHERE[role]}"
        ) from None
    options = {name: value for name, value in _CALLS.items() if name in arguments}
    if input_range == "auto":
        if not {"return_features", "rescale"} & set(options):
            raise ValueError(
                f"{path} does not say which numbers it takes: give --input-range (0-255, 0-1, or "
                "signed for -1 to 1) as its author tells"
            )
        input_range = "0-255"
    if input_range != "0-255":
        options.pop("rescale", None)
    extractor = Extractor(module, role, path, sha256(path), input_range, options, device)
    return replace(extractor, width=_tried(extractor, example))


def _present(path: Path | None, role: Role) -> Path:
    if path is None:
        raise ValueError(f"name the file by --{role}: {WHERE[role]}")
    if not path.is_file():
        raise ValueError(f"{path} is not there: --{role} names {WHERE[role]}")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: expected {WHERE[role]}")
    return path


def _tried(extractor: Extractor, example: Sequence[int]) -> int:
    """Its features' number, from two inputs together and one alone."""
    rng = np.random.default_rng(0)
    two = rng.integers(0, 256, (2, *example), dtype=np.uint8)
    two[1] //= 4  # darker
    try:
        features, alone = extractor(two), extractor(two[:1])
    except Exception as error:  # of the user's network: torch.jit's own are no RuntimeErrors
        reason = (str(error).strip() or repr(error)).splitlines()[-1][:200]
        raise ValueError(
            f"{extractor.path} cannot be given {tuple(example)} ({reason}): try another --size or "
            f"--frames, or it is not {WHERE[extractor.role]}"
        ) from None
    if len(features) != 2 or not np.isfinite(features).all():
        raise ValueError(
            f"{extractor.path} gives features {features.shape} for two inputs, finite: "
            f"{bool(np.isfinite(features).all())}; expected two rows of numbers"
        )
    scale = np.abs(features).max()
    if np.abs(features[0] - features[1]).max() <= 1e-6 * scale:
        raise ValueError(
            f"{extractor.path} gives the same features for different inputs: is --input-range "
            f"{extractor.range} what it takes?"
        )
    if np.abs(features[:1] - alone).max() > 1e-2 * scale:
        raise ValueError(
            f"{extractor.path} gives an input other features beside another one: it is not in "
            "evaluation mode; export it again after .eval()"
        )
    return features.shape[1]
