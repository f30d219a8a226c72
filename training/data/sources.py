"""What the clips of a data set are cut by: the part of a recipe that says so."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..section import Section, UserPath
from .cutting import Cutting
from .formats import CaptionLines, Format

SIDE = 16  # sizes are multiples: 8 of the VAE times 2 of the patch


class DataSpec(Section):
    """One data set and the clips to take from it. Paths may begin with ~."""

    path: UserPath = Field(description="folder, metadata file or .tar with the data set")
    name: str = Field(
        "",
        pattern=r"^[\w.-]*$",
        max_length=100,
        description="put before the names of its clips, where several data sets share a cache",
    )
    format: Format = Field("auto", description="what `path` is; auto = seen from its contents")
    media: UserPath | None = Field(
        None, description="folder that a metadata file's paths are relative to; null = its own"
    )
    caption_lines: CaptionLines = Field(
        "whole", description="a .txt is one caption (whole), or each of its lines is a variant"
    )
    uncaptioned: Literal["skip", "empty"] = Field(
        "skip", description="files without a caption are left out, or trained with the empty one"
    )
    sizes: list[tuple[int, int]] = Field(
        [(256, 256)],
        min_length=1,
        max_length=256,
        description=f"[height, width] of each bucket, multiples of {SIDE}; the nearest aspect, "
        "then the largest that needs no enlarging is taken",
    )
    frames: list[int] = Field(
        [20],
        min_length=1,
        max_length=256,
        description="lengths of the buckets, 1 = image; the longest that a file fills is taken",
    )
    stride: int = Field(3, ge=1, le=1000, description="take one frame of so many (paper 3)")
    fps: float | None = Field(
        None, gt=0, le=240, description="take so many frames per second instead of a stride"
    )
    extract: Literal["first", "middle", "uniform", "all"] = Field(
        "middle",
        description="clips of a file: its first, the one in the middle, clips_per_video spread "
        "evenly, or all that follow one another",
    )
    clips_per_video: int = Field(1, ge=1, le=10000, description="clips where extract is uniform")
    crop: Literal["centre", "random"] = Field(
        "centre", description="where the bucket is cut out; random is drawn once per clip"
    )
    min_side: int | None = Field(
        None,
        ge=1,
        description="smaller files are enlarged to the smallest bucket if their shorter side has "
        "so many pixels; null = never enlarge",
    )
    frame_rate: float = Field(
        24, gt=0, le=240, description="frames per second of folders of frames"
    )
    time_limit: float = Field(
        120, gt=0, description="seconds for one step of decoding a file, then it is quarantined"
    )

    @field_validator("sizes")
    @classmethod
    def _check_sizes(cls, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for size in sizes:
            if any(side < SIDE or side % SIDE or side > 8192 for side in size):
                raise ValueError(f"size {list(size)}: expected multiples of {SIDE} up to 8192")
        return sizes

    @field_validator("frames")
    @classmethod
    def _check_frames(cls, frames: list[int]) -> list[int]:
        for length in frames:
            if not 1 <= length <= 4096:
                raise ValueError(f"length {length}: expected 1 to 4096 frames")
        return frames

    @model_validator(mode="after")
    def _check_count(self) -> DataSpec:
        if self.clips_per_video > 1 and self.extract != "uniform":
            raise ValueError(
                f"clips_per_video is {self.clips_per_video} with extract {self.extract!r}: it "
                "counts only with extract: uniform"
            )
        return self

    def cutting(self, seed: int = 0) -> Cutting:
        """What decides the pixels of a file's clips, as plain data: part of a cache's provenance.

        Two specs with equal results cut every file alike.
        """
        return Cutting(
            sizes=[list(size) for size in sorted(set(self.sizes))],
            frames=sorted(set(self.frames)),
            stride=1 if self.fps else self.stride,
            fps=self.fps,
            extract=self.extract,
            clips_per_video=self.clips_per_video,
            crop=self.crop,
            min_side=self.min_side,
            frame_rate=self.frame_rate,
            name=self.name,
            seed=seed if self.crop == "random" else 0,
        )

    def provenance(self, seed: int = 0) -> dict[str, Any]:
        """`cutting` as JSON."""
        from dataclasses import asdict

        return asdict(self.cutting(seed))
