"""The prompts of VBench and VBench-I2V, from the user's copy of its `*_full_info.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.formats import inside
from ...data.pictures import open_picture, to_rgb
from ...files import read_json

_CROP_KEY = "diff_ratio_crop"
WHERE = (
    "VBench_full_info.json (in the vbench package's folder, vbench/VBench_full_info.json) or "
    "vbench2_i2v_full_info.json (vbench2_beta_i2v in its repository)"
)


@dataclass(frozen=True)
class Prompt:
    """A prompt and the dimensions that it is for; image: of VBench-I2V, the picture's name."""

    text: str
    dimensions: tuple[str, ...]
    image: str | None = None


def read_prompts(path: Path, dimensions: Iterable[str] = ()) -> list[Prompt]:
    """The prompts of a file, each once, those of the given dimensions alone where any are given.

    Raises ValueError for a file that is not such a list, and for a dimension that it does not have.
    """
    found: dict[str, Prompt] = {}
    for number, row in enumerate(_read_list(path)):
        prompt = _prompt(path, number, row)
        before = found.get(prompt.text)
        if before is not None:
            if before.image != prompt.image:
                raise ValueError(f"{path}: two pictures for the prompt {prompt.text[:80]!r}")
            joined = dict.fromkeys((*before.dimensions, *prompt.dimensions))
            prompt = Prompt(prompt.text, tuple(joined), prompt.image)
        found[prompt.text] = prompt
    known = {name for prompt in found.values() for name in prompt.dimensions}
    wanted = set(dimensions)
    if unknown := sorted(wanted - known):
        raise ValueError(
            f"{path} has no dimension {unknown[0]!r}: expected some of {', '.join(sorted(known))}"
        )
    return [p for p in found.values() if not wanted or wanted & set(p.dimensions)]


def _read_list(path: Path) -> list[Any]:
    rows = read_json(path, WHERE)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} is no list of prompts: expected {WHERE}")
    return rows


def _prompt(path: Path, number: int, row: Any) -> Prompt:
    text = row.get("prompt_en") if isinstance(row, dict) else None
    dimensions = row.get("dimension") if isinstance(row, dict) else None
    image = row.get("image_name") if isinstance(row, dict) else None
    texts = dimensions if isinstance(dimensions, list) else [None]
    if not all(isinstance(value, str) and value for value in (text, *texts)):
        raise ValueError(f"{path}: entry {number} lacks prompt_en or dimension: expected {WHERE}")
    if image is not None and not isinstance(image, str):
        raise ValueError(f"{path}: image_name of entry {number} is {image!r:.80}: expected a name")
    return Prompt(text, tuple(texts), image)


@dataclass(frozen=True)
class Pictures:
    """The pictures of VBench-I2V: already cropped (folder crop/1-1), or the originals with the
    boxes of i2v-bench-info.json, of which `ratio` is taken."""

    folder: Path
    boxes: dict[str, Sequence[float]] | None = None

    @classmethod
    def open(cls, folder: Path | None, info: Path | None = None, ratio: str = "1-1") -> Pictures:
        """Raises ValueError for a missing folder or file, or one without the ratio."""
        if folder is None or not folder.is_dir():
            raise ValueError(
                f"{folder or 'no folder'}: name VBench-I2V's pictures by --images: its crop/1-1 "
                "(1-1, 8-5, 7-4, 16-9, whichever is nearest), or origin with --crop-info"
            )
        if info is None:
            return cls(folder)
        boxes = {}
        for row in _read_list(info):
            crops = row.get(_CROP_KEY, {}) if isinstance(row, dict) else {}
            if not isinstance(crops, dict) or ratio not in crops:
                known = ", ".join(crops) if isinstance(crops, dict) else ""
                raise ValueError(f"{info} has no {_CROP_KEY} of {ratio}: expected one of {known}")
            boxes[row.get("file_name")] = crops[ratio]
        return cls(folder, boxes)

    def check(self, names: Iterable[str | None]) -> None:
        """Raises ValueError, before anything is made, where a picture or its box is missing."""
        missing = [name for name in names if not name or not inside(name, self.folder).is_file()]
        if missing:
            raise ValueError(
                f"{self.folder} lacks {missing[0]!r} ({len(missing)} pictures are missing)"
            )
        if self.boxes is not None:
            unboxed = [name for name in names if name not in self.boxes]
            if unboxed:
                raise ValueError(f"--crop-info has no box for {unboxed[0]!r}")

    def read(self, name: str):
        """The picture, RGB, cropped. Raises MediaError for one that cannot be read."""
        with open(inside(name, self.folder), "rb") as stream:
            picture = to_rgb(open_picture(stream))
        if self.boxes is None:
            return picture
        left, top, width, height = map(int, self.boxes[name])
        return picture.crop((left, top, left + width, top + height))
