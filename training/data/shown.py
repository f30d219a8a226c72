"""Frames that a file shows, before their pixels are RGB: most are looked at by nobody."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from PIL import Image

_HD_LINES = 720  # video of so many lines that does not name its colours is BT.709 by custom


class Decoded:
    """A video frame, converted to RGB only when it is one of the wanted."""

    def __init__(self, frame, aspect: Fraction | None):
        self.frame = frame
        turned = frame.rotation % 180 != 0
        width = max(1, round(frame.width * (aspect or 1)))  # pixels need not be square
        if not 1 / 16 <= width / frame.height <= 16:
            width = frame.width
        self.width, self.height = (frame.height, width) if turned else (width, frame.height)

    def convert(self, size: tuple[int, int] | None = None) -> Image.Image:
        """RGB, scaled to `size` (width, height) by averaging where it is given."""
        frame = self.frame
        unspecified = int(frame.colorspace) == 2
        options = {"src_colorspace": "ITU709"} if unspecified and frame.height >= _HD_LINES else {}
        turns = round(frame.rotation / 90) % 4
        if size is not None:
            width, height = size if turns % 2 == 0 else size[::-1]
            options |= {"width": width, "height": height, "interpolation": "AREA"}
        pixels = frame.to_ndarray(format="rgb24", **options)
        image = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))
        wanted = size or (self.width, self.height)
        return image if image.size == wanted else image.resize(wanted, Image.Resampling.LANCZOS)


class Ready:
    """A frame that comes as RGB."""

    def __init__(self, image: Image.Image):
        self.image = image
        self.width, self.height = image.size

    def convert(self, size: tuple[int, int] | None = None) -> Image.Image:
        """RGB, scaled to `size` (width, height) by averaging where it is given."""
        return self.image if size is None else self.image.resize(size, Image.Resampling.BOX)


Shown = Decoded | Ready
