"""Probing and decoding one media file: video by PyAV, pictures and animations by Pillow.

Everything here may crash or hang on a hostile file, so it runs in the worker processes of
`training.data.workers`. It imports neither torch nor pydantic, to keep those processes small.

A `Media` knows when each of its frames is shown (from the packets' headers, without decoding) and
decodes any choice of them. Only the wanted stretch is decoded, one frame at a time: a clip costs
the same from a film of ten hours as from one of ten seconds, apart from reading the headers.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .formats import IMAGE_SUFFIXES, Member, frame_files
from .pictures import MOST_FRAMES, MediaError, check_size, moments, open_picture, say, shown, to_rgb
from .shown import Decoded, Ready, Shown

# Formats that only ever read the file they are given: no play lists, no scripts of other files.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,ivf,obu"
_SEEK_MARGINS = (0.0, 1.0, 10.0)  # seconds before the wanted frame; after them from the beginning


@dataclass
class Timeline:
    """What a file holds. pts[i] * base is when frame i is shown, in seconds; ascending."""

    height: int  # pixels as displayed, after rotation
    width: int
    pts: np.ndarray  # int64 (n,)
    base: Fraction
    fps: float  # mean rate; 0 = a still

    @property
    def times(self) -> np.ndarray:
        """float64 (n,) seconds from the first frame."""
        return (self.pts - self.pts[0]) * float(self.base)


@dataclass
class Media:
    """One file, a stretch of a tar, or a folder of frames.

    views: files shown after `path`, one frame each. fps: rate of a folder of frames.
    `decoded` counts the frames decoded so far.
    """

    path: Path
    member: Member | None = None
    views: Sequence[Path] = ()
    fps: float = 24.0
    decoded: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        suffix = Path(self.member.name if self.member else self.path).suffix.lower()
        self._is_folder = not self.member and self.path.is_dir()
        self._is_picture = suffix in IMAGE_SUFFIXES
        self._files = [self.path, *map(Path, self.views)]
        if self._is_folder:
            self._files = frame_files(self.path)
            if not self._files:
                raise MediaError("no frames in the folder")

    @property
    def is_sequence(self) -> bool:
        """Whether each frame is a file of its own."""
        return self._is_folder or len(self._files) > 1

    @property
    def can_seek(self) -> bool:
        """Whether a frame in the middle costs less than all frames before it."""
        return self.is_sequence or not self._is_picture

    def content(self) -> str:
        """SHA-256 of the file's bytes; of several files, over the digest of each in order."""
        digests = [self._digest(file) for file in self._files]
        if not self.is_sequence:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def _digest(self, file: Path) -> str:
        digest = hashlib.sha256()
        with self._open(file) as stream:
            while block := stream.read(2**20):
                digest.update(block)
        return digest.hexdigest()

    def _open(self, file: Path) -> BinaryIO:
        try:
            stream = open(file, "rb")  # noqa: SIM115  the caller closes it
        except FileNotFoundError:
            raise MediaError("file not found") from None
        size = self.member.size if self.member else os.fstat(stream.fileno()).st_size
        if not size and file.is_file():
            stream.close()
            raise MediaError("empty file")
        return io.BufferedReader(_Stretch(stream, self.member)) if self.member else stream

    def timeline(self) -> Timeline:
        """Measures the file. Raises MediaError where it is empty, broken or implausible."""
        if self.is_sequence:
            with self._picture(self._files[0]) as image:
                width, height = shown(image).size
            pts = np.arange(len(self._files), dtype=np.int64)
            fps = 0.0 if self.views else self.fps
            base = 1 / Fraction(self.fps).limit_denominator(1001)
            return Timeline(height, width, pts, base, fps)
        return self._picture_timeline() if self._is_picture else self._video_timeline()

    def frames(self, pts: Sequence[int]) -> Iterator[Image.Image]:
        """The frames shown at ascending `pts` of the timeline, RGB; the nearest where the decoder
        does not give one of them. Raises MediaError where the file ends or breaks before the last.
        """
        pts = [int(moment) for moment in pts]
        if self.is_sequence:
            for index in pts:
                with self._picture(self._files[index]) as image:
                    self.decoded += 1
                    yield to_rgb(shown(image))
        elif self._is_picture:
            yield from _nearest(self._picture_frames(), pts)
        else:
            yield from self._video_frames(pts)

    def stretch(self, start: int | None, end: int | None) -> Iterator[tuple[int, Shown]]:
        """Every frame shown from pts `start` to before `end` (None = from the first, to the last)
        with its pts, its pixels not yet converted. Raises MediaError where the file breaks.
        """
        if self.is_sequence:
            frames = self._sequence_frames()
        elif self._is_picture:
            frames = ((pts, Ready(image)) for pts, image in self._picture_frames())
        else:
            frames = self._decode(None) if start is None else self._video_from(start)
        for moment, frame in frames:
            if end is not None and moment >= end:
                return
            if start is None or moment >= start:
                yield moment, frame

    def kind(self) -> dict[str, str]:
        """What the file is by its own account: `container` and `codec`. Raises MediaError."""
        if self.is_sequence:
            return {"container": "frames", "codec": self._files[0].suffix[1:].lower()}
        if self._is_picture:
            with self._picture(self.path) as image:
                return {"container": image.format.lower(), "codec": image.format.lower()}
        with self._video() as (container, video):
            return {"container": container.format.name, "codec": video.codec_context.name}

    # --- pictures ---

    def _sequence_frames(self) -> Iterator[tuple[int, Ready]]:
        for index, file in enumerate(self._files):
            with self._picture(file) as image:
                self.decoded += 1
                yield index, Ready(to_rgb(shown(image)))

    @contextmanager
    def _picture(self, file: Path) -> Iterator[Image.Image]:
        with self._open(file) as stream:
            yield open_picture(stream)

    def _picture_timeline(self) -> Timeline:
        with self._picture(self.path) as image:
            pts = moments(image)
            width, height = shown(image).size
        return Timeline(height, width, pts, Fraction(1, 1000), _rate(pts / 1000))

    def _picture_frames(self) -> Iterator[tuple[int, Image.Image]]:
        pts = self._picture_timeline().pts
        with self._picture(self.path) as image:
            for index, moment in enumerate(pts):
                try:
                    image.seek(index)
                    frame = to_rgb(shown(image))
                except Exception as error:
                    raise MediaError(f"frame {index}: {say(error)}") from error
                self.decoded += 1
                yield int(moment), frame

    # --- video ---

    @contextmanager
    def _video(self):
        import av

        with self._open(self.path) as stream:
            try:
                container = av.open(
                    stream,
                    options={"format_whitelist": _CONTAINERS},
                    metadata_errors="replace",
                    buffer_size=2**18,
                )
            except (av.FFmpegError, OSError, ValueError) as error:
                raise MediaError(f"not a video that can be read ({say(error)})") from error
            with container:
                if not container.streams.video:
                    raise MediaError("no video stream in it")
                video = container.streams.video[0]
                if video.codec_context is None:
                    raise MediaError("no decoder for its video")
                video.codec_context.thread_count = 1  # decoding in threads can deadlock
                video.codec_context.thread_type = "NONE"
                yield container, video

    def _video_timeline(self) -> Timeline:
        first = next(self._decode(None), None)
        if first is None:
            raise MediaError("no frame in it could be decoded")
        import av

        with self._video() as (container, video):
            pts = []
            try:
                for packet in container.demux(video):
                    by_dts = packet.pts is None or container.format.name == "avi"
                    moment = packet.dts if by_dts else packet.pts
                    if moment is not None and not packet.is_discard and packet.size:
                        pts.append(moment)
                    if len(pts) > MOST_FRAMES:
                        raise MediaError(f"more than {MOST_FRAMES} frames: cut it into parts")
            except av.FFmpegError as error:
                if not pts:
                    raise MediaError(say(error)) from error
            base, named = Fraction(video.time_base), float(video.average_rate or 0)
        moment, image = first
        pts = np.unique(np.asarray(pts, np.int64))
        pts = pts[pts >= moment]
        if not len(pts):
            pts = np.asarray([moment], np.int64)
        fps = _rate(pts * float(base))
        if abs(fps - named) < 0.005 * fps:  # time stamps are rounded, to 1 ms in WebM
            fps = named
        return Timeline(image.height, image.width, pts, base, fps)

    def _video_frames(self, pts: Sequence[int]) -> Iterator[Image.Image]:
        yield from _nearest(self._video_from(pts[0]), pts)

    def _video_from(self, start: int) -> Iterator[tuple[int, Decoded]]:
        """(pts, frame) from the one shown at `start` or a little before it."""
        for margin in _SEEK_MARGINS:
            frames = self._decode(start, margin)
            first = next(frames, None)
            if first is not None and first[0] <= start:
                break
            frames.close()
        else:
            frames = self._decode(None)
            first = next(frames, None)
        if first is None:
            raise MediaError("no frame in it could be decoded")
        yield first
        yield from frames

    def _decode(self, start: int | None, margin: float = 0) -> Iterator[tuple[int, Image.Image]]:
        """(pts, frame) from the key frame at or before `start` on, None = from the beginning."""
        import av

        with self._video() as (container, video):
            check_size(video.codec_context.width, video.codec_context.height)
            try:
                if start is not None:
                    before = start - round(margin / video.time_base)
                    container.seek(before, stream=video, backward=True)
            except av.FFmpegError:
                return
            try:
                for moment, frame in _timed(container, video):
                    check_size(frame.width, frame.height)
                    self.decoded += 1
                    yield moment, Decoded(frame, video.sample_aspect_ratio)
            except av.FFmpegError as error:
                raise MediaError(f"decoding failed ({say(error)})") from error


def _timed(container, video) -> Iterator[tuple[int, Any]]:
    """Every frame with when it is shown.

    AVI names only when packets are decoded. Frames come out in the order in which they are shown,
    so each is shown at the earliest of these times that is left.
    """
    unnamed: list[int] = []
    for packet in container.demux(video):
        if container.format.name == "avi" and packet.dts is not None and packet.size:
            heapq.heappush(unnamed, packet.dts)
        for frame in packet.decode():
            moment = frame.dts if frame.pts is None else frame.pts
            if unnamed:
                moment = heapq.heappop(unnamed)
            if moment is not None:
                yield moment, frame


class _Stretch(io.RawIOBase):
    """The bytes of a tar member as a file of their own."""

    def __init__(self, stream: BinaryIO, member: Member):
        self.stream, self.member, self.position = stream, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.member.size}
        self.position = max(0, start[whence] + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer) -> int:
        count = max(0, min(len(buffer), self.member.size - self.position))
        self.stream.seek(self.member.offset + self.position)
        data = self.stream.read(count)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def _nearest(frames: Iterator, pts: Sequence[int]) -> Iterator[Image.Image]:
    """For each of the ascending pts, the frame shown nearest to it, as an RGB image.

    A frame further off than half the distance of two wanted ones means that frames are missing:
    MediaError.
    """
    gaps = np.diff(np.unique(pts))
    tolerance = gaps.min() / 2 if len(gaps) else np.inf
    before: tuple[int, Image.Image] | None = None
    wanted = list(pts)
    for now in frames:
        while wanted and now[0] >= wanted[0]:
            near = now
            if before is not None and wanted[0] - before[0] <= now[0] - wanted[0]:
                near = before
            yield _converted(near, wanted.pop(0), tolerance)
        if not wanted:
            return
        before = now
    for moment in wanted:
        if before is None:
            raise MediaError("no frame in it could be decoded")
        yield _converted(before, moment, tolerance)


def _converted(frame: tuple[int, Image.Image], moment: int, tolerance: float) -> Image.Image:
    if abs(frame[0] - moment) > tolerance:
        raise MediaError(f"frames are missing: wanted one at {moment}, nearest is at {frame[0]}")
    return frame[1].convert() if isinstance(frame[1], Decoded) else frame[1]


def _rate(times: np.ndarray) -> float:
    length = float(times[-1] - times[0])
    return (len(times) - 1) / length if length > 0 else 0.0
