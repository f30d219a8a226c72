"""CLIP score: how well clips show what their captions say, by a CLIP of the user's.

Hessel et al. 2021, without its weight of 2.5: 100 * max(cos, 0), mean over frames spread evenly
from the first to the last, then over clips. A hundredth of it, by ViT-B/32, is tables' CLIPSIM.

Legend: F frames of a clip, H, W pixels, D features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import sha256
from ..networks import best_device
from ..optional import need
from .inputs import Folder, Read, name_of, read_clips
from .intervals import over_clips
from .measures import about_interval
from .result import Result

_FILES = ("config.json", "model.safetensors")
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of OpenAI's CLIP, where the folder tells no other
_STD = (0.26862954, 0.26130258, 0.27577711)
_WHERE = (
    "a CLIP as transformers saves it (config.json, model.safetensors, preprocessor_config.json and "
    "the tokenizer's files), such as openai/clip-vit-base-patch32"
)


class Clip:
    """A CLIP from a folder. Raises ValueError for a folder that holds none; nothing is fetched.

    device: None: the first GPU, or the CPU where there is none.
    """

    def __init__(self, folder: Path | None, device: torch.device | str | None = None):
        if folder is None or any(not (folder / name).is_file() for name in _FILES):
            raise ValueError(f"{folder or 'no folder'}: name by --clip {_WHERE}")
        transformers = need("transformers")
        try:
            model = transformers.CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            self._tokenizer = transformers.CLIPTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except Exception as error:  # what damaged files may raise has no bounds
            reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
            raise ValueError(f"{folder} is not {_WHERE} ({reason})") from None
        self.folder, self.device = folder, torch.device(device or best_device())
        self._model = model.eval().to(self.device)
        self._size = model.config.vision_config.image_size
        settings = _json(folder / "preprocessor_config.json")
        mean, std = settings.get("image_mean", _MEAN), settings.get("image_std", _STD)
        self._mean, self._std = (
            torch.tensor(x, device=self.device).view(3, 1, 1) for x in (mean, std)
        )

    @torch.no_grad()
    def scores(self, frames: np.ndarray, caption: str) -> Tensor:
        """(F,) 100 * max(cos, 0) of pictures uint8 (F, H, W, 3) with a caption."""
        text = self._tokenizer(caption, truncation=True, max_length=77, return_tensors="pt").to(
            self.device
        )
        made = self._model(pixel_values=self._pixels(frames), **text)
        pictures = F.normalize(made.image_embeds, dim=-1)
        return 100 * (pictures @ F.normalize(made.text_embeds, dim=-1)[0]).clamp(min=0)

    @torch.no_grad()
    def embed(self, frames: np.ndarray) -> np.ndarray:
        """(F, D) features of length 1 of pictures uint8 (F, H, W, 3)."""
        made = self._model.get_image_features(pixel_values=self._pixels(frames))
        made = getattr(made, "pooler_output", made)  # a tensor before transformers 5
        return F.normalize(made, dim=-1).cpu().numpy()

    def _pixels(self, frames: np.ndarray) -> Tensor:
        """The centre of pictures, scaled so that their shorter side fits, as CLIP was trained."""
        x = torch.from_numpy(np.array(frames)).to(self.device).movedim(-1, 1).float()
        H, W = x.shape[-2:]
        scale = self._size / min(H, W)
        size = max(self._size, round(H * scale)), max(self._size, round(W * scale))
        x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
        top, left = ((side - self._size) // 2 for side in size)
        x = x[..., top : top + self._size, left : left + self._size].clamp(0, 255) / 255
        return (x - self._mean) / self._std

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"path": str(self.folder), "sha256": sha256(self.folder / "model.safetensors")}


def clip_score(made: Folder, clip: Clip, *, seed: int = 0, resamples: int = 2000) -> Result:
    """Mean CLIP score of the captioned files of a folder; of several captions the first counts.

    made: with extract "uniform" and `per_file` frames. Raises ValueError where nothing has a
    caption.
    """
    read, by_file, uncaptioned = Read(), {}, set()
    for frame in read_clips(made, read):
        if not frame.captions:
            uncaptioned.add(name_of(frame))
            continue
        scores = clip.scores(frame.frames, frame.captions[0])
        by_file.setdefault(name_of(frame), []).extend(scores.tolist())
    if not by_file:
        raise ValueError(
            f"{made.path}: no file has a caption: put a.txt beside a.mp4, or name a list by "
            "--captions"
        )
    values = [float(np.mean(scores)) for scores in by_file.values()]
    warnings = read.warnings(made)
    if uncaptioned:
        warnings.append(f"{len(uncaptioned)} files without a caption are left out")
    warnings += about_interval(len(values))
    return Result(
        "clip",
        float(np.mean(values)),
        "higher",
        over_clips(values, seed=seed, resamples=resamples),
        {"clips": len(values)},
        {"made": made.settings(), "resamples": resamples},
        {"made": read.facts(), "clip": clip.facts()},
        seed,
        warnings=warnings,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
