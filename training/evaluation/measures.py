"""The measures of the field, over two folders of clips: PSNR, SSIM, LPIPS, FID, FVD, IS, motion.

PSNR, SSIM, LPIPS and FID are torchmetrics'; networks are files that the user names
(`training.evaluation.extractors`). Clips are read one after another and only numbers are kept.

Legend: T frames, H, W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..engine.motion import DYNAMIC_FPS, at_rate, flow_speeds
from ..files import sha256
from ..networks import best_device
from ..optional import need
from .extractors import Extractor, Range, Role, open_extractor
from .frechet import frechet_distance
from .inputs import Folder, Read, name_of, native_size, read_clips, read_pairs
from .intervals import FEW, MANY, of_distance, over_clips
from .result import Result

#: (made, true), both (T, 3, H, W) float in [0, 1] -> (T,)
PerFrame = Callable[[Tensor, Tensor], Tensor]

_PSNR_CAP = 100.0  # dB: equal frames have none
_WINDOW = 11  # pixels of SSIM's window
_LPIPS_SIDE = {"alex": 31, "vgg": 16}  # pixels, or a layer of the backbone has none
_AT_ONCE = 16  # frames that are compared, or of 1080p their floats would take gigabytes
_USUAL = {"fid": 10_000, "fvd": 2048, "is": 10_000}
"""Samples that published numbers are taken of, at least."""


# --- measures of pairs --------------------------------------------------------------------------


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal to noise in dB of each frame, at most 100, which also stands for equal ones."""
    ratio = need("torchmetrics.functional.image").peak_signal_noise_ratio
    values = [ratio(a[None], b[None], data_range=1.0) for a, b in zip(made, true, strict=True)]
    return torch.stack(values).clamp(max=_PSNR_CAP)


def ssim(made: Tensor, true: Tensor) -> Tensor:
    """Structural similarity of each frame, up to 1. ValueError for a side below 11 pixels.

    Over windows that lie within the picture, as Wang et al. 2004; torchmetrics' own mean is also
    over those that its reflected borders fill.
    """
    if min(made.shape[-2:]) < _WINDOW:
        raise ValueError(
            f"frames are {made.shape[-1]}x{made.shape[-2]}: SSIM needs sides of {_WINDOW} pixels"
        )
    index = need("torchmetrics.functional.image").structural_similarity_index_measure
    _, windows = index(made, true, data_range=1.0, return_full_image=True)
    border = _WINDOW // 2
    return windows[..., border:-border, border:-border].mean((1, 2, 3))


class Lpips:
    """Learned perceptual similarity (torchmetrics'), with a backbone from the user's file.

    The linear layers come with torchmetrics; the backbone is torchvision's, trained on ImageNet:
    alexnet-owt-*.pth or vgg16-*.pth from download.pytorch.org/models, or the same as safetensors.
    Raises ValueError for a missing file, or one of another network.
    """

    def __init__(self, path: Path | None, net: Literal["alex", "vgg"] = "alex"):
        where = "torchvision's alexnet-owt-7be5be79.pth (or vgg16-397923af.pth with --net vgg)"
        if path is None or not path.is_file():
            raise ValueError(f"{path or 'no file'}: name by --backbone {where}")
        self.path, self.net = path, net
        self._network = need("torchmetrics.functional.image.lpips")._LPIPS(
            pretrained=True, net=net, pnet_rand=True
        )
        own = self._network.net.state_dict()
        theirs = _backbone(path)
        names = {name: f"features.{name.partition('.')[2]}" for name in own}
        wrong = [
            name
            for name, source in names.items()
            if source not in theirs or theirs[source].shape != own[name].shape
        ]
        if wrong:
            raise ValueError(f"{path} lacks {names[wrong[0]]} of {net}: expected {where}")
        self._network.net.load_state_dict({name: theirs[source] for name, source in names.items()})
        self._network.to(best_device())

    @torch.no_grad()
    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        """Distance of each frame, 0 or more. ValueError for frames below what the network takes."""
        if min(made.shape[-2:]) < _LPIPS_SIDE[self.net]:
            raise ValueError(
                f"frames are {made.shape[-1]}x{made.shape[-2]}: LPIPS by {self.net} needs sides of "
                f"{_LPIPS_SIDE[self.net]} pixels: give --size"
            )
        return self._network(made, true, normalize=True).flatten()

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"path": str(self.path), "sha256": sha256(self.path), "net": self.net}


def _backbone(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what other bytes may raise has no bounds
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"{path} is not a file of weights alone ({reason})") from None
    return found if isinstance(found, dict) else {}


def compare(
    measure: Literal["psnr", "ssim", "lpips"],
    made: Folder,
    true: Folder,
    *,
    per_frame: PerFrame,
    seed: int = 0,
    resamples: int = 2000,
    files: dict[str, Any] | None = None,
) -> Result:
    """Mean over clips of the mean over frames, of clips with the same names in both folders."""
    reads, values = (Read(), Read()), []
    for _, a, b in read_pairs(made, true, reads):
        firsts = range(0, len(a.frames), _AT_ONCE)
        pairs = ([_frames(clip.frames[i : i + _AT_ONCE]) for clip in (a, b)] for i in firsts)
        values.append(float(torch.cat([per_frame(*pair) for pair in pairs]).double().mean()))
    if not values:
        raise ValueError(f"{made.path} and {true.path} have no clip in common that can be read")
    warnings = _about_folders((made, true), reads) + about_interval(len(values))
    return Result(
        measure,
        float(np.mean(values)),
        "lower" if measure == "lpips" else "higher",
        over_clips(values, seed=seed, resamples=resamples),
        {"pairs": len(values)},
        _settings(made=made, true=true, resamples=resamples),
        _folder_files(reads) | (files or {}),
        seed,
        warnings=warnings,
    )


def _frames(clip: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) as float (T, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(clip)).to(best_device()).movedim(-1, 1).float() / 255


# --- distances between sets ---------------------------------------------------------------------


def fid(
    made: Folder, true: Folder, weights: Path | None, *, input_range: Range = "auto", **how: Any
) -> Result:
    """Fréchet Inception distance (torchmetrics') of pictures, or of frames of clips."""
    return _between(
        "fid",
        "inception",
        made,
        true,
        weights,
        input_range=input_range,
        value=_by_torchmetrics,
        **how,
    )


def fvd(
    made: Folder, true: Folder, weights: Path | None, *, input_range: Range = "auto", **how: Any
) -> Result:
    """Fréchet video distance, of clips of one length."""
    how |= {"input_range": input_range, "value": frechet_distance}
    return _between("fvd", "i3d", made, true, weights, **how)


def _by_torchmetrics(made: np.ndarray, true: np.ndarray) -> float:
    """FID of features (n, D): the metric takes them from a network, here from the rows."""
    rows = torch.nn.Identity()
    rows.num_features = made.shape[1]
    metric = need("torchmetrics.image.fid").FrechetInceptionDistance(feature=rows)
    metric.update(torch.from_numpy(true).double(), real=True)
    metric.update(torch.from_numpy(made).double(), real=False)
    return float(metric.compute())


def _between(
    measure: Literal["fid", "fvd"],
    role: Role,
    made: Folder,
    true: Folder,
    weights: Path | None,
    *,
    value: Callable[[np.ndarray, np.ndarray], float],
    input_range: Range,
    seed: int = 0,
    resamples: int = 50,
) -> Result:
    # Both sets are cut alike, or their sizes would be compared.
    size = true.size or native_size(true)
    made, true = replace(made, size=size), replace(true, size=size)
    example = (*size, 3) if role == "inception" else (true.frames, *size, 3)
    extractor = open_extractor(weights, role, example, input_range=input_range)
    reads = (Read(), Read())
    features = [
        features_of(extractor, folder, read)
        for folder, read in zip((made, true), reads, strict=True)
    ]
    counts = [sum(map(len, groups)) for groups in features]
    if min(counts) < 2:
        raise ValueError(f"{counts[0]} and {counts[1]} samples: expected at least two of each")
    joined = [np.concatenate(groups) for groups in features]
    interval, bias = None, None
    if resamples and min(map(len, features)) > 1:  # of one file alone nothing else can be drawn
        interval, bias = of_distance(
            frechet_distance, *features, seed=seed, resamples=max(2, resamples)
        )
    return Result(
        measure,
        value(*joined),
        "lower",
        interval,
        {"made": counts[0], "true": counts[1]},
        _settings(made=made, true=true, resamples=resamples),
        _folder_files(reads) | {role: extractor.facts()},
        seed,
        {} if bias is None else {"bias by the bootstrap": bias},
        _about_folders((made, true), reads)
        + extractor.warnings()
        + _about_counts(measure, counts, extractor.width),
    )


def features_of(extractor: Extractor, folder: Folder, read: Read) -> list[np.ndarray]:
    """Features of every file's clips, (clips, D) each."""
    found: dict[str, list[np.ndarray]] = {}
    for clip in read_clips(folder, read):
        pixels = clip.frames if extractor.role == "inception" else clip.frames[None]
        found.setdefault(name_of(clip), []).append(extractor(pixels))
    return [np.concatenate(parts) for parts in found.values()]


def inception_score(
    made: Folder,
    weights: Path | None,
    *,
    input_range: Range = "auto",
    seed: int = 0,
    resamples: int = 200,
) -> Result:
    """Inception score of clips by a C3D's classes (Saito et al. 2017): exp of the mean divergence
    of a clip's classes from those of all clips. 1 to the number of classes."""
    made = replace(made, size=made.size or native_size(made))
    extractor = open_extractor(
        weights, "c3d", (made.frames, *made.size, 3), input_range=input_range
    )
    read = Read()
    logits = np.concatenate(features_of(extractor, made, read)).astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = (rng.integers(len(logits), size=len(logits)) for _ in range(resamples))
    value, interval = _inception_score(logits), None
    if resamples > 1 and len(logits) > 1:
        half = 1.96 * float(np.std([_inception_score(logits[chosen]) for chosen in rows], ddof=1))
        interval = value - half, value + half
    return Result(
        "is",
        value,
        "higher",
        interval,
        {"made": len(logits)},
        _settings(made=made, resamples=resamples),
        _folder_files((read,)) | {"c3d": extractor.facts()},
        seed,
        warnings=_about_folders((made,), (read,))
        + extractor.warnings()
        + _about_counts("is", [len(logits)], 0),
    )


def _inception_score(logits: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p = np.exp(log_p)
    log_mean = np.log(np.maximum(p.mean(0), 1e-300))
    return float(np.exp((p * (log_p - log_mean)).sum(1).mean()))


# --- motion -------------------------------------------------------------------------------------


def motion(made: Folder, *, seed: int = 0, resamples: int = 2000) -> Result:
    """Dynamic degree: the share of clips in which something moves, and their mean motion score;
    see `training.engine.motion.Speeds`."""
    read, dynamic, scores = Read(), [], []
    for clip in read_clips(made, read):
        if len(clip.frames) < 2:
            raise ValueError(f"{name_of(clip)} is a picture: motion is of videos")
        taken = at_rate(len(clip.frames), clip.fps)
        if len(taken) < 2:
            raise ValueError(
                f"{name_of(clip)} has {len(clip.frames)} frames at {clip.fps:g} a second: motion "
                f"needs two at {DYNAMIC_FPS:g} a second"
            )
        speeds = flow_speeds(clip.frames[index] for index in taken)
        dynamic.append(float(speeds.is_dynamic()))
        scores.append(speeds.score(clip.fps / (taken[1] - taken[0])))
    return Result(
        "motion",
        float(np.mean(dynamic)),
        "neither",
        over_clips(dynamic, seed=seed, resamples=resamples),
        {"clips": len(dynamic)},
        _settings(made=made, resamples=resamples),
        _folder_files((read,)),
        seed,
        {
            "motion score (% of the shorter side per second)": float(np.mean(scores)),
            "its interval": over_clips(scores, seed=seed, resamples=resamples),
        },
        _about_folders((made,), (read,)) + about_interval(len(dynamic)),
    )


# --- what results say ---------------------------------------------------------------------------


def _settings(*, resamples: int, **folders: Folder) -> dict[str, Any]:
    return {name: folder.settings() for name, folder in folders.items()} | {"resamples": resamples}


def _folder_files(reads: Iterable[Read]) -> dict[str, Any]:
    return {name: read.facts() for name, read in zip(("made", "true"), reads, strict=False)}


def _about_folders(folders: Iterable[Folder], reads: Iterable[Read]) -> list[str]:
    return [
        text for folder, read in zip(folders, reads, strict=True) for text in read.warnings(folder)
    ]


def about_interval(count: int) -> list[str]:
    """A warning, where clips are too few for their interval, or too many to be resampled."""
    if count < FEW:
        return [f"{count} clips: below {FEW} the interval is too narrow"]
    if count > MANY:
        return [f"{count:,} clips: above {MANY:,} the interval is the normal one, no bootstrap"]
    return []


def _about_counts(measure: Literal["fid", "fvd", "is"], counts: list[int], width: int) -> list[str]:
    """A Fréchet distance fits a covariance of D features: with no more samples than features it is
    singular, and below the usual number the bias of few samples is a good part of the distance."""
    found, least = [], min(counts)
    if least <= width:
        found.append(
            f"{least} samples of {width} features: their covariance is singular, and most of the "
            "distance is its bias; take several times more samples than features"
        )
    elif least < _USUAL[measure]:
        found.append(
            f"{least} samples: published numbers are of {_USUAL[measure]:,} and more, and with "
            "fewer the value is biased: compare it with values of the same number only"
        )
    if len(set(counts)) > 1 and measure != "is":
        found.append(f"{counts[0]} made against {counts[1]} true samples: the bias depends on both")
    return found
