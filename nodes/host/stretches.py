"""Stretches of a long video: finished segments decoded, put in order and written into a film."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from ...stiv.frames import to_canvas
from ...stiv.plan import Plan
from ...stiv.seams import FrameStatistics, frame_statistics, join_statistics
from ...stiv.store import SegmentStore
from ...stiv.timeline import Stretch, owners, source, stretches
from ..frames import fit_picture
from .colours import match_colours
from .film import Film, finish
from .fingerprint import fingerprint, vae_fingerprint
from .panel import pictures_to_json, tell_run
from .pieces import Piece, eight_bit, encode_piece
from .segments import LongVideo, SegmentHandle, chain, segment_store
from .thumbnails import from_tensors, moments, thumbnail, to_tensors
from .vae import decode_frames, encode_pictures

VERSION = 1
"""Of what a piece's key stands for; raised when the same settings give other pixels."""
_ARTIST = -1
_BATCH = 8  # frames decoded at a time
_HOSTILE = (OverflowError, RecursionError)


@dataclass(frozen=True)
class Look:
    """How decoded frames become the video."""

    fps: float
    crf: int
    exact: bool
    """The artist's pictures as they are, instead of what the VAE makes of them."""
    match: bool
    """Colours matched toward the key frames."""


@dataclass(frozen=True)
class Part:
    """What a stretch consists of: plain numbers, so that it travels as a widget value."""

    start: int
    sources: tuple[tuple[int, int], ...]
    """(slot, where) of each frame; slots as in `Task`."""
    keys: tuple[tuple[int, int, int], ...]
    """(position, slot, where) of the key frames that colours are matched to."""
    width: int
    height: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Part:
        """Raises ValueError for anything that `to_json` does not write."""
        try:
            values = json.loads(text)
            part = cls(
                sources=tuple((int(slot), int(where)) for slot, where in values.pop("sources")),
                keys=tuple((int(at), int(s), int(w)) for at, s, w in values.pop("keys")),
                **{name: int(values.pop(name)) for name in ("start", "width", "height")},
            )
        except (ValueError, TypeError, KeyError, AttributeError, *_HOSTILE) as error:
            raise ValueError(f"a part of a long video is not understood: {error!r}") from None
        if values:
            raise ValueError(
                "a part of a long video holds more than it should: make it from a plan"
            )
        return part


@dataclass(frozen=True, eq=False)
class FilmHandle:
    """The value of STIV_FILM: a stretch that is written, and those before it."""

    key: str
    part: Part
    segments: tuple[SegmentHandle, ...]
    before: FilmHandle | None
    identity: str
    """`LongVideo.identity`: videos with the same beginning have films of their own."""

    def parts(self) -> list[FilmHandle]:
        """All of them, in order."""
        return list(chain(self))[::-1]

    @property
    def path(self) -> Path:
        """The growing file, playable at any time."""
        name = fingerprint((self.identity, self.parts()[0].key)).digest[:12]
        return unfinished_folder() / f"long_video_{name}.mp4"


def unfinished_folder() -> Path:
    """Where films grow."""
    return Path(folder_paths.get_output_directory()) / "stiv_unfinished"


def part_of(plan: Plan, stretch: Stretch, match: bool) -> tuple[Part, list[int]]:
    """A stretch as a part, and the indices of the segments that its slots stand for."""
    keys = []
    if match and plan.mode == "hierarchy":
        keys = [*range(stretch.start, stretch.stop, plan.stride)]
        keys += [keys[-1] + plan.stride] if keys[-1] + plan.stride < plan.span else []
    positions = range(stretch.start, stretch.stop)
    slots = owners(plan, {*positions, *keys})

    def place(position: int) -> tuple[int, int]:
        found = source(plan, position)
        slot = _ARTIST if found.segment is None else slots.index(found.segment)
        return slot, found.index

    part = Part(
        start=stretch.start, sources=tuple(map(place, positions)), width=plan.width,
        keys=tuple((position, *place(position)) for position in keys), height=plan.height,
    )  # fmt: skip
    return part, slots


def takes_artists_frames(part: Part) -> bool:
    """Whether the artist's frames are needed to write it."""
    places = [slot for slot, _ in part.sources] + [slot for _, slot, _ in part.keys]
    return _ARTIST in places


def bytes_of(plan: Plan) -> int:
    """About what its pieces of film and their statistics take in the store."""
    return film_bytes(plan) + len(stretches(plan)) * 2 * 3 * plan.width * plan.height


def film_bytes(plan: Plan) -> int:
    """About what the whole film takes."""
    return int(plan.frames * plan.width * plan.height * 0.25)


def write_stretch(
    part: Part,
    look: Look,
    vae: Any,
    video: LongVideo | None,
    segments: Sequence[SegmentHandle],
    before: FilmHandle | None,
    identity: str = "",
) -> FilmHandle:
    """The film with one more stretch; its piece comes from the store, or is made and put there."""
    slots = {slot for slot, _ in part.sources} | {slot for _, slot, _ in part.keys}
    if not slots <= set(range(_ARTIST, len(segments))):
        raise ValueError(f"frames from {part.start} on need segments that are not connected")
    if takes_artists_frames(part) and video is None:
        raise ValueError(f"frames from {part.start} on were given, but no plan is connected")
    index = 0 if before is None else len(before.parts())
    key = _piece_key(part, index, look, vae, video, segments)
    film = FilmHandle(key, part, tuple(segments), before, identity)
    grow(film, look, vae, video)
    tell_run("pictures", lambda: {"pictures": pictures_to_json(_thumbnails(film))})
    return film


def grow(
    film: FilmHandle, look: Look, vae: Any, video: LongVideo | None, complete: bool = False
) -> None:
    """Let the film's file have all stretches up to this one; `complete`: and nothing more."""
    store, parts = segment_store(), film.parts()

    def make(index: int) -> Piece:
        return _piece(parts[index], index, look, vae, video, store)

    ids, file = [part.key for part in parts], Film(film.path)
    if complete or file.kept(ids) < len(ids):  # a run that goes on leaves what plays already
        file.grow(ids, make)


def statistics(film: FilmHandle) -> FrameStatistics | None:
    """Of all frames of the film; None where the store has lost those of a stretch."""
    store, found, last = segment_store(), [], None
    for part in film.parts():
        tensors = store.get(_statistics_key(part.key))
        if tensors is None:
            return None
        if last is not None:
            step = frame_statistics(tensors["first"][None] / 255, last / 255)
            tensors["motion"][0] = step.motion[0]
        found.append(FrameStatistics(tensors["colour"], tensors["motion"]))
        last = tensors["last"]
    return join_statistics(found)


def finished(film: FilmHandle, look: Look, vae: Any, video: LongVideo | None) -> Path:
    """The whole film as an ordinary MP4 in the temporary folder; the growing file goes."""
    name = fingerprint([part.key for part in film.parts()]).digest[:24]
    target = Path(folder_paths.get_temp_directory()) / f"stiv_{name}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        grow(film, look, vae, video, complete=True)
        try:
            finish(film.path, target)
        except OSError:
            if film.path.exists():
                raise
            continue  # another server that makes the same video was done with it: write it again
        with contextlib.suppress(PermissionError):  # it plays somewhere, and the system minds
            Film(film.path).remove()
        return target


def _thumbnails(film: FilmHandle) -> dict[str, bytes]:
    """Of the segments in its last stretch, by their names."""
    tensors = segment_store().get(_statistics_key(film.key)) or {}
    return {film.segments[slot].name: data for slot, data in from_tensors(tensors).items()}


def all_frames(film: FilmHandle, look: Look, vae: Any, video: LongVideo | None) -> Tensor:
    """(T, H, W, 3) of the whole film: as much memory as that takes."""
    store = segment_store()
    return torch.cat(
        [
            batch
            for handle in film.parts()
            for batch in pixels(handle.part, look, vae, video, handle.segments, store)
        ]
    )


def pixels(
    part: Part,
    look: Look,
    vae: Any,
    video: LongVideo | None,
    segments: Sequence[SegmentHandle],
    store: SegmentStore,
) -> Iterator[Tensor]:
    """Frames (t, H, W, 3) of a part, few at a time."""
    needed = {slot for slot, _ in part.sources} | {slot for _, slot, _ in part.keys}
    latents = {slot: segments[slot].latents(store) for slot in needed - {_ARTIST}}

    def frames(places: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        for start in range(0, len(places), _BATCH):
            yield _decode(places[start : start + _BATCH], part, look, vae, video, latents)

    if not part.keys:
        yield from frames(part.sources)
        return
    keys = torch.cat(list(frames([place for _, *place in part.keys])))
    positions = [position for position, *_ in part.keys]
    as_they_are = {
        part.start + index
        for index, (slot, where) in enumerate(part.sources)
        if look.exact and slot == _ARTIST and video.frame(where).kind == "image"
    }
    at = part.start
    for batch in frames(part.sources):
        yield torch.stack(
            [
                frame if at + i in as_they_are else _matched(frame, at + i, positions, keys)
                for i, frame in enumerate(batch)
            ]
        )
        at += len(batch)


def _matched(frame: Tensor, position: int, positions: list[int], keys: Tensor) -> Tensor:
    """A frame between two key frames with the colours they lead to."""
    before = max(index for index, key in enumerate(positions) if key <= position)
    if positions[before] == position or before + 1 == len(positions):
        return frame
    place = (position - positions[before]) / (positions[before + 1] - positions[before])
    return match_colours(frame[None], keys[before], keys[before + 1], [place])[0]


def _decode(
    places: Sequence[tuple[int, int]],
    part: Part,
    look: Look,
    vae: Any,
    video: LongVideo | None,
    latents: dict[int, Tensor],
) -> Tensor:
    ready, to_decode = {}, {}
    for index, (slot, where) in enumerate(places):
        if slot != _ARTIST:
            to_decode[index] = latents[slot][:, where]
        elif video.frame(where).kind == "latent":
            to_decode[index] = video.frame(where).frame
        else:
            picture = fit_picture(video.frame(where).frame[..., :3], part.width, part.height)
            if look.exact:
                ready[index] = picture
            else:
                to_decode[index] = encode_pictures(vae, to_canvas(picture[None]))[0]
    if to_decode:
        like = next(iter(to_decode.values()))
        stacked = torch.stack([z.to(like) for z in to_decode.values()], dim=1)
        decoded = torch.cat(list(decode_frames(vae, stacked)))[:, : part.height, : part.width]
        ready |= dict(zip(to_decode, decoded, strict=True))
    return torch.stack([ready[index].float().cpu() for index in range(len(places))])


def _piece_key(
    part: Part,
    index: int,
    look: Look,
    vae: Any,
    video: LongVideo | None,
    segments: Sequence[SegmentHandle],
) -> str:
    places = [*part.sources, *((slot, where) for _, slot, where in part.keys)]
    artists = [video.frame(where).frame for slot, where in places if slot == _ARTIST and video]
    made_of = [vae_fingerprint(vae).digest, fingerprint(artists).digest]
    made_of += [handle.key for handle in segments]
    return fingerprint(("piece", VERSION, index, asdict(part), asdict(look), made_of)).digest


def _statistics_key(piece_key: str) -> str:
    return fingerprint(("statistics", piece_key)).digest


def _piece(
    film: FilmHandle, index: int, look: Look, vae: Any, video: LongVideo | None, store: SegmentStore
) -> Piece:
    """A stretch as a piece of film, from the store or made and put there."""
    found, start, count = store.path(film.key, ".mp4"), film.part.start, len(film.part.sources)
    if found is not None and store.has(_statistics_key(film.key)):
        return Piece.from_bytes(found.read_bytes(), start, count)
    numbers: list[FrameStatistics] = []
    ends: list[Tensor] = []
    shown = moments([slot for slot, _ in film.part.sources])
    thumbnails: dict[int, bytes] = {}

    def measured() -> Iterator[Tensor]:
        at = 0
        for batch in pixels(film.part, look, vae, video, film.segments, store):
            for index in shown.keys() & set(range(at, at + len(batch))):
                thumbnails[shown[index]] = thumbnail(batch[index - at])
            at += len(batch)
            numbers.append(frame_statistics(batch, ends[-1] if ends else None))
            ends[1:] = [batch[-1]] if ends else [batch[0], batch[-1]]
            yield batch

    piece = encode_piece(measured(), start, index, look.fps, look.crf)
    joined = join_statistics(numbers)
    tensors = {"colour": joined.colour, "motion": joined.motion}
    tensors |= {"first": eight_bit(ends[0]), "last": eight_bit(ends[-1])}
    tensors |= to_tensors(thumbnails)
    store.put(_statistics_key(film.key), tensors, {"name": "statistics"})
    store.put_file(film.key, ".mp4", piece.to_bytes())
    return piece
