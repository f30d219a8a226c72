"""Data sets as people have them, read into a stream of `Source`; nothing is decoded here.

| format | what it is |
|---|---|
| folder | media files, each with its caption in a `.txt` of the same name beside it |
| jsonl, csv, parquet | `metadata.*` whose rows name a file and its caption, as Open-Sora's do |
| frames | every folder that directly holds images is one clip, its images in numeric order |
| webdataset | `.tar` files, see `training.data.tars` |

A row names its file by `path`, `video`, `video_path`, `media_path`, `file_name` or `image`, and
its caption by `caption` or `text`; `captions` is a list of variants, `start` and `end` seconds,
`views` a list of further views of the same scene (multi-view), `fps` the rate of a folder of
frames. Other columns are ignored: sizes and lengths are always measured.

A `.txt` holds one caption, which may run over several lines and paragraphs (captions of video
models do). With `caption_lines="variants"` every line that is not empty is a variant instead.

Paths may not lead out of the data root. That is judged by their text, since data sets are often
folders of symbolic links, to files and to folders, into a store elsewhere. Whether a file exists is
found out when it is decoded, so that a list of millions of rows costs no look at a disk.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..names import readable
from .tables import LARGEST_CAPTION, Reject, read_rows

_VIDEO = "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts flv wmv ogv 3gp"
_IMAGE = "webp gif png jpg jpeg bmp tif tiff avif"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO.split())
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _IMAGE.split())
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES

Format = Literal["auto", "folder", "jsonl", "csv", "parquet", "frames", "webdataset"]
CaptionLines = Literal["whole", "variants"]

_PATH_KEYS = ("path", "video", "video_path", "media_path", "file_name", "image")
_CAPTION_KEYS = ("caption", "text")
_TABLES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Source:
    """One entry of a data set. `captions` are variants of one another; () = none."""

    path: Path  # video, image, animated image, folder of frames, or the tar of `member`
    captions: tuple[str, ...]
    root: Path
    start: float | None = None  # seconds from the first frame; None = from the first
    end: float | None = None  # exclusive; None = to the last
    views: tuple[Path, ...] = ()  # the views that follow `path`, which is the first
    fps: float | None = None  # of a folder of frames; None = the data set's frame_rate
    member: Member | None = None

    @property
    def name(self) -> str:
        """Path relative to the root with forward slashes, in a tar followed by the member's."""
        name = Path(os.path.relpath(self.path, self.root)).as_posix()
        return readable(f"{name}/{self.member.name}" if self.member else name)


def detect_format(path: Path) -> Format:
    """The format of a file or folder. Raises ValueError saying what was found and expected."""
    if path.is_file():
        if path.suffix.lower() in _TABLES:
            return _TABLES[path.suffix.lower()]
        if path.suffix.lower() == ".tar":
            return "webdataset"
        raise ValueError(f"{path}: expected a folder, .jsonl, .csv, .parquet or .tar")
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder: correct the data set's `path`")
    for suffix, name in _TABLES.items():
        if (path / f"metadata{suffix}").is_file():
            return name
    names = sorted(os.listdir(path))
    if any(_suffix(name) in MEDIA_SUFFIXES for name in names):
        return "folder"
    if any(_suffix(name) == ".tar" for name in names):
        return "webdataset"
    return "frames" if _holds_frames(path) else "folder"


def read_sources(
    path: Path,
    format: Format = "auto",
    *,
    media: Path | None = None,
    caption_lines: CaptionLines = "whole",
    reject: Reject,
) -> Iterator[Source]:
    """Every entry of the data set at `path`, in an order that depends on nothing but the names.

    media: folder that the paths of a list are relative to, where it is not the list's own.
    `reject` is called for every entry that cannot be used; the others follow all the same.
    Raises ValueError where `path` is not of the format, pyarrow is missing for parquet, or a
    parquet file is damaged.
    """
    path = Path(path)
    format = detect_format(path) if format == "auto" else format
    if format in _TABLES.values():
        table = path / f"metadata.{format}" if path.is_dir() else path
        if not table.is_file():
            raise ValueError(f"{table}: no such file: correct the data set's `path` or `format`")
        rows = read_rows(table, format, reject)
        return _table_sources(rows, table, Path(media or table.parent), reject)
    if format == "webdataset":
        from .tars import read_tars

        return read_tars(path, caption_lines=caption_lines, reject=reject)
    if not path.is_dir():
        raise ValueError(f"{path}: format {format!r} is a folder, and there is none")
    walk = _folder_sources if format == "folder" else _frame_sources
    return walk(path, caption_lines, reject)


# --- captions ------------------------------------------------------------------------------------


def split_captions(data: bytes, lines: CaptionLines) -> tuple[str, ...]:
    """The captions in a text file's bytes. Raises ValueError where they are not UTF-8 or too long.

    A byte order mark is dropped. `lines`: see the module.
    """
    if len(data) > LARGEST_CAPTION:
        raise ValueError(f"caption of {len(data)} bytes: expected at most {LARGEST_CAPTION}")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"caption is not UTF-8 ({error}): save it as UTF-8") from None
    parts = text.splitlines() if lines == "variants" else [text]
    return tuple(part.strip() for part in parts if part.strip())


def _read_captions(file: Path, lines: CaptionLines, reject: Reject, root: Path):
    """The captions of a .txt, () where it is missing, None where it was rejected."""
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise ValueError("is no regular file: expected a caption")
        with open(file, "rb") as stream:
            return split_captions(stream.read(LARGEST_CAPTION + 1), lines)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        reject(file.relative_to(root).as_posix(), str(error))
        return None


# --- folders -------------------------------------------------------------------------------------


def _suffix(name: str) -> str:
    return "" if name.startswith(".") else os.path.splitext(name)[1].lower()


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders below the root in order of name, each with its files in order of name.

    Hidden folders are left out. Links to folders are followed, those into hidden ones too, but
    nothing is read twice; nor are links to a folder around the root followed.
    """
    home = os.path.realpath(root)
    tops = {home}  # and what links led to

    def leads_on(folder: str) -> bool:
        if not os.path.islink(folder):
            return len(tops) == 1 or os.path.realpath(folder) not in tops
        target = os.path.realpath(folder)
        if _is_below(target, tops) or _holds(target, home):
            return False
        tops.add(target)
        return True

    for folder, folders, files in os.walk(root, followlinks=True):
        names = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in names if leads_on(os.path.join(folder, name))]
        yield Path(folder), sorted(files)


def _is_below(folder: str, tops: Set[str]) -> bool:
    """Whether a folder is one of the tops or below one, and not hidden there by a dot."""
    while folder not in tops:
        parent, name = os.path.split(folder)
        if name.startswith(".") or parent == folder:
            return False
        folder = parent
    return True


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _folder_sources(root: Path, lines: CaptionLines, reject: Reject) -> Iterator[Source]:
    found = False
    for folder, files in walk(root):
        for name in files:
            if _suffix(name) not in MEDIA_SUFFIXES:
                continue
            found = True
            path = folder / name
            captions = _read_captions(path.with_suffix(".txt"), lines, reject, root)
            if captions is not None:
                yield Source(path, captions, root)
    if not found:
        raise ValueError(
            f"{root}: no videos or images in it: expected files such as a.mp4, a.webp or a.png, "
            "each with its caption in a.txt, or a metadata.jsonl"
        )


def _holds_frames(root: Path) -> bool:
    """Only images, in folders of their own, several in each, and none with a caption."""
    several = False
    for folder, files in walk(root):
        suffixes = {_suffix(name) for name in files}
        stems = [os.path.splitext(name)[0] for name in files if _suffix(name) in IMAGE_SUFFIXES]
        captioned = any(f"{stem}.txt" in files for stem in stems)
        if suffixes & VIDEO_SUFFIXES or captioned or (stems and folder == root):
            return False
        several |= len(stems) > 1
    return several


def frame_order(name: str) -> tuple:
    """Sort key that puts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(p[:32]), "") if p.isdecimal() else (-1, p) for p in parts), name


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder of frames, in numeric order."""
    names = [n for n in os.listdir(folder) if _suffix(n) in IMAGE_SUFFIXES]
    return [folder / name for name in sorted(names, key=frame_order)]


def _frame_sources(root: Path, lines: CaptionLines, reject: Reject) -> Iterator[Source]:
    found = False
    for folder, files in walk(root):
        if not any(_suffix(name) in IMAGE_SUFFIXES for name in files):
            continue
        found = True
        beside = folder.parent / f"{folder.name}.txt"
        inside = folder / "caption.txt"
        chosen = beside if folder != root and beside.is_file() else inside
        captions = _read_captions(chosen, lines, reject, root)
        if captions is not None:
            yield Source(folder, captions, root)
    if not found:
        raise ValueError(f"{root}: no folder of frames in it: expected clip/0001.png, …")


# --- lists ---------------------------------------------------------------------------------------


def _table_sources(rows, table: Path, root: Path, reject: Reject) -> Iterator[Source]:
    found = False
    for where, row in rows:
        found = True
        try:
            yield row_source(row, root)
        except ValueError as error:
            reject(where, str(error))
    if not found:
        raise ValueError(f"{table}: no rows in it")


def row_source(row: Mapping[str, Any], root: Path) -> Source:
    """The entry that a row describes. Raises ValueError naming the column and its value."""
    if not isinstance(row, Mapping):
        raise ValueError(f"row is a {type(row).__name__}: expected columns such as path, caption")
    views = [inside(view, root) for view in _strings(row, "views")]
    name = next((row[key] for key in _PATH_KEYS if row.get(key)), None)
    if name is None and not views:
        raise ValueError(f"names no file: expected one of the columns {', '.join(_PATH_KEYS)}")
    path = views.pop(0) if name is None else inside(name, root)
    start, end, fps = (_number(row, key) for key in ("start", "end", "fps"))
    if end is not None and end <= (start or 0):
        raise ValueError(f"end is {end}: expected more than the start, {start or 0}")
    return Source(path, row_captions(row), root, start, end, tuple(views), fps or None)


def row_captions(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions of a row, () where it has none. Raises ValueError for anything but text."""
    for key in ("captions", *_CAPTION_KEYS):
        captions = tuple(text.strip() for text in _strings(row, key) if text.strip())
        if captions:
            return captions
    return ()


def _strings(row: Mapping[str, Any], key: str) -> list[str]:
    """A column that holds text, a list of texts, or (in CSV) either of them as JSON."""
    value = row.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, str) and key in ("captions", "views"):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise ValueError(f"{key} is {value[:80]!r}: expected a JSON list of strings") from None
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise ValueError(f"{key} is {str(value)[:80]!r}: expected text")
    for text in values:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{key} is not UTF-8: save the list as UTF-8") from None
    return values


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        if key == "fps" or (isinstance(value, float) and math.isnan(value)):
            return None  # an empty cell of a data frame
        raise ValueError(f"{key} is {value!r}: expected seconds, 0 or more")
    return number


def inside(name: Any, root: Path) -> Path:
    """The path of a file that a row names. Raises ValueError where it is not inside `root`."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"path is {name!r}: expected a file name")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"path is {name!r}: not UTF-8") from None
    base = os.path.abspath(root)
    path = os.path.normpath(os.path.join(base, name))
    if not path.startswith(os.path.join(base, "")):
        raise ValueError(
            f"path is {name!r}, outside {root}: expected a path inside it; set `media` of the "
            "data set where the files lie elsewhere"
        )
    return Path(root) / os.path.relpath(path, base)
