"""Videos that a model made while it trained: an mp4 per prompt and one contact sheet."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic
from ..video import write_video

_COLUMNS, _WIDTH = 10, 192  # frames per row of a sheet, and their largest width in pixels
_GAP, _TEXT = 4, 12  # pixels
_SLUG = 40  # characters of a prompt in a file name


def write_samples(
    clips: np.ndarray, prompts: Sequence[str], folder: Path, step: int, fps: float
) -> list[Path]:
    """Write `<step>-<n>-<prompt>.mp4` per clip and `<step>-sheet.png`, each file atomically.

    clips: uint8 (B, T, H, W, 3), an array or a CPU tensor; clips of one frame become PNGs. The
    sheet has a row per prompt and up to 10 columns of frames, first and last among them. Odd
    sides get one more row or column for the video (4:2:0 needs even ones).

    Returns the paths, the sheet last. Raises ValueError for another dtype or shape, prompts that
    are not as many as clips and a step or rate out of range; OSError when a file cannot be written.
    """
    clips = np.asarray(clips)
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or not clips.size:
        raise ValueError(
            f"sample clips are {clips.dtype} {clips.shape}: expected uint8 (B, T, H, W, 3)"
        )
    if len(prompts) != len(clips):
        raise ValueError(f"{len(clips)} sample clips have {len(prompts)} prompts: one each")
    if step < 0 or not 0 < fps <= 1000:
        raise ValueError(f"samples of step {step} at {fps} fps: expected 0 or more, and 0 to 1000")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (frames, prompt) in enumerate(zip(clips, prompts, strict=True)):
        suffix = ".mp4" if len(frames) > 1 else ".png"
        path = folder / f"{step:08d}-{index:02d}-{slug(prompt)}{suffix}"
        with atomic(path) as part:
            if len(frames) > 1:
                write_video(part, frames, fps)
            else:
                Image.fromarray(frames[0]).save(part)
        paths.append(path)
    sheet = sheet_path(folder, step)
    with atomic(sheet) as part:
        contact_sheet(clips, prompts).save(part)
    return [*paths, sheet]


def sheet_path(folder: Path, step: int) -> Path:
    """Where the contact sheet of a step is."""
    return Path(folder) / f"{step:08d}-sheet.png"


def slug(prompt: str) -> str:
    """A prompt as a piece of a file name: a-z, 0-9 and hyphens; `empty` if none are left."""
    plain = unicodedata.normalize("NFKD", prompt[:1000]).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return words[:_SLUG].strip("-") or "empty"


def contact_sheet(clips: np.ndarray, prompts: Sequence[str]) -> Image.Image:
    """Rows of frames under their prompts; (B, T, H, W, 3) uint8."""
    B, T, H, W, _ = clips.shape
    chosen = np.unique(np.linspace(0, T - 1, min(T, _COLUMNS)).round().astype(int))
    scale = min(1.0, _WIDTH / W)
    size = (max(1, round(W * scale)), max(1, round(H * scale)))
    line = _TEXT + 2 * _GAP
    width = len(chosen) * (size[0] + _GAP) + _GAP
    sheet = Image.new("RGB", (max(width, _WIDTH), B * (line + size[1]) + _GAP), (24, 24, 24))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    for row, prompt in enumerate(prompts):
        top = row * (line + size[1])
        text = _fitting(prompt, font, sheet.width - 2 * _GAP)
        draw.text((_GAP, top + _GAP), text, font=font, fill=(230, 230, 230))
        for column, frame in enumerate(chosen):
            picture = Image.fromarray(clips[row, frame])
            if scale < 1:
                picture = picture.resize(size, Image.Resampling.LANCZOS)
            sheet.paste(picture, (_GAP + column * (size[0] + _GAP), top + line))
    return sheet


def _fitting(prompt: str, font, width: int) -> str:
    """The beginning of a prompt that fits, on one line.

    The font that comes with Pillow has ASCII only: accents go, other characters become "?".
    """
    plain = unicodedata.normalize("NFKD", prompt[:500])
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    text = " ".join(plain.encode("ascii", "replace").decode().split())
    text = "".join(c for c in text if c.isprintable()) or "(empty prompt)"
    if len(prompt) <= 500 and font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
