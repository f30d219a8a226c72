"""Pictures and clips of the host's input folder: found, recognised by content, decoded.

Pixels are those of the host's own Load Image and Load Video: the same code decodes them.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import comfy.model_management
import folder_paths
import node_helpers
import numpy as np
import torch
from comfy_api.latest import InputImpl
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from ...stiv.prompts import quote

_AT_ONCE = 64  # frames of a clip that are in memory beside the wanted ones
_BLOCK = 2**20
_MAX_BYTES = 16 * 2**30  # of a file that the front end may ask about: its bytes are hashed


def find(file: str) -> str:
    """Path of a file in the host's input folder. Raises ValueError for one elsewhere, and
    FileNotFoundError."""
    try:
        path = folder_paths.get_annotated_filepath(file)
    except ValueError:
        raise ValueError(
            f"{quote(file)} leads out of ComfyUI's input folder: put the file into that folder"
        ) from None
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{quote(file)} is missing from ComfyUI's input folder: put it there, or place another "
            "in its stead"
        )
    return path


def describe(file: str) -> dict[str, Any]:
    """SHA-256 and number of frames, 1 for a picture, of a file in the host's input folder.

    The number is what the container says. Raises ValueError or OSError for one that is missing,
    too large, or neither picture nor clip.
    """
    path = find(file)
    size = os.path.getsize(path)
    if size > _MAX_BYTES:
        raise ValueError(f"{quote(file)} has {size:,} bytes: at most {_MAX_BYTES:,} can be placed")
    try:
        return {"sha256": sha256(path), "frames": _count(path)}
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise ValueError(f"{quote(file)} cannot be read as a picture or clip: {error}") from None


def look_up(file: str) -> dict[str, Any]:
    """`describe`, or why that cannot be: {"error": one line, "missing": whether there is none}.

    A file that is not there is an answer like any other: shared workflows name many.
    """
    try:
        return describe(file)
    except (ValueError, OSError) as error:
        return {"error": str(error), "missing": isinstance(error, FileNotFoundError)}


def _count(path: str) -> int:
    stamps, _ = _time_stamps(path, 1)
    if not stamps:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1)
    with av.open(path) as container:
        stream = container.streams.video[0]
        return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)


def sha256(path: str) -> str:
    """Of a file's bytes, in hexadecimal; they are read again only when the file changed."""
    status = os.stat(path)
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_frames(path: str, wanted: range) -> Tensor:
    """(k, H, W, 3) in [0, 1]: the frames with these indices of a clip; a picture has frame 0.

    Raises ValueError when the file is neither, or has fewer frames.
    """
    try:
        stamps, tick = _time_stamps(path, wanted[-1] + 1)
        # PyAV does not decode animated WebP: there the host goes on with Pillow, and so do we
        frames = _trimmed(path, wanted, stamps, tick) if stamps else _with_pillow(path, wanted)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"cannot be read as a picture or clip: {error}") from None
    return frames.to(
        comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    )


def _time_stamps(path: str, most: int) -> tuple[list[int], Fraction]:
    """When the first `most` frames are shown, in ticks, and a tick in seconds.

    Frames are decoded to be counted, for what a container says is not always so, but not turned
    into pixels.
    """
    stamps: list[int] = []
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("holds no picture")
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            with suppress(av.error.InvalidDataError):  # the host leaves such out, too
                stamps += (frame.pts for frame in packet.decode())
            if len(stamps) >= most:
                break
        return stamps[:most], stream.time_base


def _trimmed(path: str, wanted: range, stamps: list[int], tick: Fraction) -> Tensor:
    """As the host decodes a trimmed video, part by part, so that little is in memory."""
    _check_count(len(stamps), wanted)
    parts, per_part = [], max(1, _AT_ONCE // wanted.step)
    for begin in range(0, len(wanted), per_part):
        part = wanted[begin : begin + per_part]
        # Half a tick more, for the host rounds down to ticks.
        start = float((stamps[part[0]] + Fraction(1, 2)) * tick)
        duration = float((stamps[part[-1]] - stamps[part[0]] + 1) * tick)
        video = InputImpl.VideoFromFile(path, start_time=start, duration=duration)
        images = video.get_components().images
        if len(images) != part[-1] - part[0] + 1:
            raise ValueError("cannot be read from its middle: convert it to another format")
        parts.append(images[:: wanted.step])
    return torch.cat(parts)


def _with_pillow(path: str, wanted: range) -> Tensor:
    """As the host's Load Image: the frames that have the size of the first."""
    frames, count, size = [], 0, None
    for picture in ImageSequence.Iterator(node_helpers.pillow(Image.open, path)):
        picture = node_helpers.pillow(ImageOps.exif_transpose, picture).convert("RGB")
        size = size or picture.size
        if picture.size != size:
            continue
        if count in wanted:
            frames.append(torch.from_numpy(np.array(picture).astype(np.float32) / 255.0))
        count += 1
        if count > wanted[-1]:
            break
    _check_count(count, wanted)
    return torch.stack(frames)


def _check_count(found: int, wanted: range) -> None:
    if found <= wanted[-1]:
        held = "one frame" if found == 1 else f"{found} frames"
        raise ValueError(f"holds {held}, number {wanted[-1]} (from 0) is asked for: take fewer")
