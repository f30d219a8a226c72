"""Footage whose truth is known: textures that move, shots that are joined, real clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from scripts.real_clips import installed_clips
from training.data.media import Media
from training.data.shown import Ready
from training.engine.reader import Clock, Frame
from training.engine.rows import Row

RATE = 15.0  # frames per second of joined footage
SIDE = 144


def texture(height: int, width: int, seed: int = 0, grain: float = 3) -> np.ndarray:
    """float64 (height, width) of levels 0 to 255, smooth over `grain` pixels, tiling."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = gaussian_filter(noise, grain, mode="wrap")
    return 255 * (smooth - smooth.min()) / np.ptp(smooth)


def coloured(grey: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) of grey levels (h, w)."""
    return np.repeat(grey.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def moving(seed: int, frames: int) -> np.ndarray:
    """uint8 (frames, 96, 128, 3): a texture of a colour of its own that moves to the left."""
    wide = texture(96, 220, seed, grain=8) * 0.8 + 40
    tint = np.roll([1.0, 0.6, 0.3], seed)
    shown = [coloured(np.roll(wide, -i, 1)[:, :128]) * tint for i in range(frames)]
    return np.stack(shown).astype(np.uint8)


def row_of(frames: int, fps: float = RATE) -> Row:
    """A row of one segment of so many frames."""
    source = {"path": "a.mp4", "fps": fps, "base": [1, 1000], "first": 0, "frames": frames}
    seconds = frames / fps
    segment = {"start": 0, "end": round(1000 * seconds), "start_s": 0.0, "end_s": seconds}
    return {"schema": 1, "id": "a", "source": source, "segment": {**segment, "frames": frames}}


def measured(step, frames: Sequence[np.ndarray], fps: float = RATE) -> dict:
    """The section of a `FrameStep` for frames, uint8 (h, w, 3) each."""
    measure = step.start(row_of(len(frames), fps))
    clock = Clock()
    for index, rgb in enumerate(frames):
        frame = Frame(
            Ready(Image.fromarray(rgb)), index, round(1000 * index / fps), index / fps, clock
        )
        if measure.wants(frame):
            measure.add(frame)
    return measure.result()


# --- joined shots --------------------------------------------------------------------------------


@cache
def shot(name: str) -> np.ndarray:
    """uint8 (n, SIDE, SIDE, 3): the frames of a template's clip, squared."""
    frames = []
    for _, image in Media(installed_clips()[name]).stretch(None, None):
        frames.append(np.asarray(image.convert((SIDE, SIDE))))
    return np.stack(frames)


@dataclass
class Joined:
    """Shots joined by transitions; each is (kind, first frame of it, frame after it)."""

    frames: list[np.ndarray]
    truth: list[tuple[str, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, shots: Sequence[np.ndarray], how: Sequence[tuple[str, int]]) -> Joined:
        """how: kind and length in frames of the transition before every shot but the first."""
        joined = cls(list(shots[0].astype(np.float32)))
        for after, (kind, length) in zip(shots[1:], how, strict=True):
            joined._add(list(after.astype(np.float32)), kind, length)
        joined.frames = [frame.round().astype(np.uint8) for frame in joined.frames]
        return joined

    def _add(self, after: list[np.ndarray], kind: str, length: int) -> None:
        frames = self.frames
        start = len(frames)
        if kind == "fade":  # out, three black frames, in
            start -= length
            for i in range(length):
                frames[start + i] = frames[start + i] * (1 - (i + 1) / length)
                after[i] = after[i] * (i / length)
            frames += [np.zeros_like(frames[0])] * 3
            self.truth.append((kind, start, len(frames) + length))
        elif kind == "dissolve":
            start -= length
            for i in range(length):
                share = (i + 1) / (length + 1)
                frames[start + i] = (1 - share) * frames[start + i] + share * after[i]
            after = after[length:]
            self.truth.append((kind, start, len(frames)))
        else:
            self.truth.append((kind, start, start))
        frames += after


def save_real_clips(folder: Path, names: Sequence[str]) -> None:
    """Links template clips into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(installed_clips()[name].read_bytes())
