"""STIV Timeline: its JSON, the files it names, and the same frames as the wired graph's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl
from ComfyUI_STIV.nodes.host import pictures
from ComfyUI_STIV.nodes.timeline import STIVTimeline
from ComfyUI_STIV.stiv.frame_timeline import (
    MAX_FRAMES,
    MAX_ITEMS,
    Item,
    check_places,
    read_timeline,
)
from ComfyUI_STIV.stiv.frames import GivenFrames
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import nodes as host_nodes
from tests.nodes import tiny

SIDE = (50, 38)  # width, height: no multiples of anything
CLIP_FRAMES = 150  # with several key frames in between


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The host's input folder with pictures and clips of every kind in `stiv`."""
    base = tmp_path_factory.mktemp("input")
    before = folder_paths.get_input_directory()
    folder_paths.set_input_directory(str(base))
    folder = base / "stiv"
    folder.mkdir()
    first, *others = (some_picture(seed) for seed in range(3))
    first.save(folder / "cat.png")
    first.convert("RGBA").save(folder / "clear.png")
    rotated = first.getexif()
    rotated[0x0112] = 6  # the camera was held upright
    first.save(folder / "upright.jpg", exif=rotated)
    first.save(folder / "still.webp")
    first.save(folder / "moving.webp", save_all=True, append_images=others)
    palette = [picture.quantize() for picture in (first, *others)]
    options = {"append_images": palette[1:], "duration": 100, "loop": 0}
    palette[0].save(folder / "moving.gif", save_all=True, **options)
    for name, codec in (("clip.mp4", "libx264"), ("clip.webm", "libvpx-vp9")):
        write_clip(folder / name, codec)
    (folder / "notes.png").write_text("no picture")
    yield base
    folder_paths.set_input_directory(before)


def some_picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (*SIDE[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def write_clip(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options={"g": "40"})
        stream.width, stream.height, stream.pix_fmt = *SIDE, "yuv420p"
        for number in range(CLIP_FRAMES):
            pixels = np.zeros((*SIDE[::-1], 3), np.uint8)
            pixels[:, number % SIDE[0]] = 200
            pixels[number % SIDE[1]] = 90
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def timeline(*items: dict[str, Any], **more: Any) -> str:
    return json.dumps({"version": 1, "items": list(items), **more})


def placed(text: str, frames: int = 16, **inputs: Any) -> GivenFrames:
    return tiny.run("STIVTimeline", frames=frames, timeline=text, **inputs)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same(found: GivenFrames, expected: GivenFrames, frames: int) -> None:
    found, expected = found.resolve(frames), expected.resolve(frames)
    assert [frame.position for frame in found] == [frame.position for frame in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.kind == other.kind == "image"
        assert torch.equal(one.frame, other.frame)


# -- the same as the wired graph


STILLS = ("cat.png", "clear.png", "upright.jpg", "still.webp", "moving.webp", "moving.gif")


@pytest.mark.parametrize("name", STILLS)
@pytest.mark.parametrize(("at", "positions"), [(0, "first"), (5, "5"), ("last", "last")])
def test_a_picture_is_what_load_image_and_place_frames_give(
    name: str, at: int | str, positions: str, files: Path
) -> None:
    loaded = host_nodes.LoadImage().load_image(f"stiv/{name}")[0]
    wired = tiny.run("STIVPlaceFrames", frames=loaded[:1], positions=positions)
    text = timeline({"at": at, "file": f"stiv/{name}", "sha256": digest(files / "stiv" / name)})
    assert_same(placed(text), wired, 16)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "moving.webp", "moving.gif"])
@pytest.mark.parametrize(
    ("numbers", "positions"),
    [
        ({"count": 3}, "4-6"),
        ({"count": 2, "start": 1}, "4-5"),
        ({"count": 2, "every": 2}, "4,5"),
        ({"count": 3, "spacing": 2}, "4,6,8"),
        ({"start": 2}, "4"),
    ],
)
def test_a_clip_is_what_load_video_and_place_frames_give(
    name: str, numbers: dict[str, int], positions: str, files: Path
) -> None:
    if name.startswith("clip"):
        loaded = InputImpl.VideoFromFile(str(files / "stiv" / name)).get_components().images
    else:
        loaded = host_nodes.LoadImage().load_image(f"stiv/{name}")[0]
    item = Item(at=4, file=name, **numbers)
    taken = loaded[item.start :: item.every][: item.count]
    wired = tiny.run("STIVPlaceFrames", frames=taken, positions=positions)
    assert_same(placed(timeline({"at": 4, "file": f"stiv/{name}", **numbers})), wired, 16)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
@pytest.mark.parametrize(
    "wanted", [range(CLIP_FRAMES), range(1, CLIP_FRAMES, 7), range(39, 42), range(149, 150)]
)
def test_frames_anywhere_in_a_long_clip(name: str, wanted: range, files: Path) -> None:
    path = str(files / "stiv" / name)
    whole = InputImpl.VideoFromFile(path).get_components().images
    assert len(whole) == CLIP_FRAMES
    assert torch.equal(pictures.read_frames(path, wanted), whole[list(wanted)])


def test_several_timelines_and_place_frames_chain(files: Path) -> None:
    before = tiny.run("STIVPlaceFrames", frames=torch.zeros(1, 8, 8, 3), positions="2")
    both = placed(timeline({"at": 0, "file": "stiv/cat.png"}), stiv_frames=before)
    again = placed(timeline({"at": "last", "file": "stiv/still.webp"}), stiv_frames=both)
    assert [frame.position for frame in again.resolve(16)] == [0, 2, 15]


def test_an_empty_timeline_gives_nothing(files: Path) -> None:
    for text in ("", " \n", timeline(), '{"version": 1}'):
        assert placed(text).resolve(16) == []
        assert STIVTimeline.validate_inputs(text) is True


# -- files that are not as they were


def test_a_missing_file_is_refused_by_name_before_anything_runs(files: Path) -> None:
    text = timeline({"at": 0, "file": "stiv/lost.png"}, {"at": 1, "file": "stiv/cat.png"})
    for message in (STIVTimeline.validate_inputs(text), error_of(text)):
        assert re.match(r"STIV Timeline: 'stiv/lost.png' is missing from .* put it there", message)


def test_many_missing_files_are_counted(files: Path) -> None:
    text = timeline(*({"at": at, "file": f"lost{at}.png"} for at in range(10)))
    message = STIVTimeline.validate_inputs(text)
    assert "'lost2.png'" in message and message.endswith("and 7 more")


def test_another_file_under_the_name_is_refused(files: Path) -> None:
    path = files / "stiv" / "changing.png"
    some_picture(7).save(path)
    text = timeline({"at": 0, "file": "stiv/changing.png", "sha256": digest(path)})
    assert STIVTimeline.validate_inputs(text) is True
    seen = STIVTimeline.fingerprint_inputs(timeline=text, frames=16)

    some_picture(8).save(path)
    for message in (STIVTimeline.validate_inputs(text), error_of(text)):
        assert "'stiv/changing.png'" in message and "SHA-256 differs" in message
    assert STIVTimeline.fingerprint_inputs(timeline=text, frames=16) != seen


def test_without_a_hash_the_content_decides_whether_it_runs_again(files: Path) -> None:
    path = files / "stiv" / "any.png"
    text = timeline({"at": 0, "file": "stiv/any.png"})
    seen = []
    for seed in (1, 2):
        some_picture(seed).save(path)
        assert STIVTimeline.validate_inputs(text) is True
        seen.append(STIVTimeline.fingerprint_inputs(timeline=text, frames=16))
    assert seen[0] != seen[1]


def test_the_fingerprint_of_what_cannot_run_is_no_error(files: Path) -> None:
    for text in (None, "{", timeline({"at": 0, "file": "lost.png"})):
        assert STIVTimeline.fingerprint_inputs(timeline=text, frames=16) == []


@pytest.mark.parametrize("file", ["../secret.png", "/etc/passwd", "stiv/../../secret.png"])
def test_files_elsewhere_are_refused(file: str, files: Path) -> None:
    (files.parent / "secret.png").write_bytes((files / "stiv" / "cat.png").read_bytes())
    text = timeline({"at": 0, "file": file})
    assert "leads out of ComfyUI's input folder" in error_of(text)
    with pytest.raises(ValueError, match="leads out"):
        pictures.describe(file)


def test_what_is_no_picture_is_refused(files: Path) -> None:
    message = error_of(timeline({"at": 0, "file": "stiv/notes.png"}))
    assert message.startswith("STIV Timeline: 'stiv/notes.png' cannot be read as a picture or clip")


@pytest.mark.parametrize(
    ("name", "numbers", "held"),
    [
        ("cat.png", {"count": 2}, "one frame, number 1"),
        ("cat.png", {"start": 1}, "one frame, number 1"),
        ("moving.webp", {"count": 4}, "3 frames, number 3"),
        ("clip.mp4", {"start": 149, "count": 2}, "150 frames, number 150"),
    ],
)
def test_more_frames_than_a_file_holds(
    name: str, numbers: dict[str, int], held: str, files: Path
) -> None:
    message = error_of(timeline({"at": 0, "file": f"stiv/{name}", **numbers}))
    assert message.startswith(f"STIV Timeline: 'stiv/{name}' holds {held} (from 0)")


def error_of(text: str, frames: int = 16) -> str:
    with pytest.raises(ValueError) as refused:
        placed(text, frames)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000
    return str(refused.value)


# -- what the front end asks


def test_a_file_is_described_by_content_and_length(files: Path) -> None:
    lengths = dict.fromkeys(STILLS, 1) | {
        "moving.webp": 3, "moving.gif": 3, "clip.mp4": CLIP_FRAMES, "clip.webm": CLIP_FRAMES,
    }  # fmt: skip
    for name, frames in lengths.items():
        path = files / "stiv" / name
        assert pictures.describe(f"stiv/{name}") == {"sha256": digest(path), "frames": frames}
    lost, unreadable = pictures.look_up("stiv/lost.png"), pictures.look_up("stiv/notes.png")
    assert lost["missing"] and "'stiv/lost.png' is missing" in lost["error"]
    assert not unreadable["missing"]
    assert "'stiv/notes.png' cannot be read as a picture or clip" in unreadable["error"]
    assert "leads out of" in pictures.look_up("../secret.png")["error"]


# -- places


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([Item(16, "a.png")], "'a.png' at frame 16 lies beyond the video of 16 frames"),
        ([Item(10, "a.mp4", count=4, spacing=2)], "'a.mp4' at frame 16 lies beyond"),
        ([Item(3, "a.png"), Item(3, "b.png")], "'a.png' and 'b.png' both lie at frame 3"),
        ([Item(15, "a.png"), Item(None, "b.png")], "both lie at frame 15"),
        ([Item(0, "a.mp4", count=5, spacing=2), Item(3, "b.mp4", count=2)], "both lie at frame 4"),
    ],
)
def test_places_beyond_the_end_or_taken_are_refused(items: list[Item], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_places(tuple(items), 16)


@pytest.mark.parametrize("frames", [0, -1, 1_000_001, True, 1.5, "16"])
def test_impossible_lengths_are_refused(frames: Any) -> None:
    with pytest.raises(ValueError, match=r"frames is .*: expected a number from 1"):
        check_places((), frames)


def test_an_item_beyond_the_end_blocks_the_run_and_is_kept(files: Path) -> None:
    text = timeline({"at": 12, "file": "stiv/cat.png"})
    assert "lies beyond the video of 8 frames" in error_of(text, 8)
    assert [frame.position for frame in placed(text, 16).resolve(16)] == [12]


# -- strangers' JSON

DIGEST = "0123456789abcdef" * 4
items = st.builds(
    dict,
    at=st.integers(0, 999_999),
    file=st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30),
    sha256=st.sampled_from(["", DIGEST]),
    thumb=st.sampled_from(["", "data:image/webp;base64,AAAA"]),
    start=st.integers(0, 1000),
    every=st.integers(1, 9),
    count=st.integers(1, 500),
    spacing=st.integers(1, 9),
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(items, max_size=6))
def test_what_is_written_is_read(values: list[dict[str, Any]]) -> None:
    read = read_timeline(timeline(*values))
    for item, value in zip(read, values, strict=True):
        assert {key: getattr(item, key) for key in value if key != "thumb"} == {
            key: entry for key, entry in value.items() if key != "thumb"
        }
        assert len(item.taken) == len(item.positions(16)) == item.count


@settings(max_examples=150, deadline=None)
@given(items, st.integers(0, 20))
def test_positions_as_text_name_the_same_frames(values: dict[str, Any], more: int) -> None:
    (item,) = read_timeline(timeline(values))
    frames = min(item.positions(1)[-1] + 1 + more, MAX_FRAMES)
    assume(item.positions(1)[-1] < frames)
    tensor = torch.zeros(item.count, 1, 1, 3)
    resolved = GivenFrames().place(tensor, item.text).resolve(frames)
    assert [frame.position for frame in resolved] == list(item.positions(frames))
    check_places((item,), frames)


@settings(max_examples=150, deadline=None)
@given(json_values | st.builds(lambda v: {"version": 1, "items": [v]}, json_values))
def test_any_json_is_read_or_refused_in_one_line(value: Any) -> None:
    try:
        read_timeline(json.dumps(value))
    except ValueError as error:
        assert len(str(error)) < 400 and "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(items, st.sampled_from(["at", "file", "sha256", "thumb", "count", "every"]), json_values)
def test_any_value_of_an_item_is_read_or_refused(
    item: dict[str, Any], key: str, value: Any
) -> None:
    try:
        read_timeline(timeline(item | {key: value}))
    except ValueError as error:
        assert re.match(f"'{key}' of item 1 of the timeline is |item 1 .* at 'last'", str(error))


TEN_THOUSAND = {f"key{n}": n for n in range(10_000)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('{"version":1,"version":1}', "'version' is there twice"),
        ('{"version":NaN}', "NaN is not a number"),
        ("null", "the timeline is None: expected a table"),
        ("{}", "version is None, this pack reads 1"),
        ('{"version":2,"tracks":[]}', "version is 2, this pack reads 1: update ComfyUI-STIV"),
        ('{"version":true}', "version is True"),
        ('{"version":1,"items":{}}', "'items' are {}: expected a list"),
        (json.dumps({"version": 1} | TEN_THOUSAND), "unknown key 'key0' and 9,999 more: remove it"),
        (timeline(TEN_THOUSAND), "item 1 of the timeline has an unknown key 'key0' and 9,999"),
        (timeline(*[{"at": 0, "file": "a"}] * (MAX_ITEMS + 1)), "4,097 long: expected a list"),
        ('{"version":1,"items":[' + "0," * 100_000 + "0]}", "more than 40,960 values"),
        (timeline(5), "item 1 of the timeline is 5: expected a table"),
        (timeline({"at": 0}), "'file' of item 1 of the timeline is None"),
        (timeline({"file": "a.png"}), "'at' of item 1 of the timeline is None"),
        (timeline({"at": -1, "file": "a.png"}), 'from 0, or "last"'),
        (timeline({"at": 0, "file": "a\nb"}), "'file' of item 1"),
        (timeline({"at": 0, "file": "a", "sha256": "AB"}), "expected 64 hexadecimal digits"),
        (timeline({"at": 0, "file": "a", "thumb": "x" * 5000}), "expected a picture as a data URL"),
        (timeline({"at": "last", "file": "a", "count": 2}), "is 2 frames at 'last'"),
        (" " * 17_000_000, "expected up to 16,777,216 characters"),
    ],
)
def test_hostile_timelines_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_timeline(text)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 400
    assert STIVTimeline.validate_inputs(text) == f"STIV Timeline: {refused.value}"


def test_a_timeline_by_wire_is_checked_when_it_runs() -> None:
    assert STIVTimeline.validate_inputs(None) is True
    assert error_of("{").startswith("STIV Timeline: the timeline is no valid JSON")


def test_markup_in_a_name_is_only_a_name(files: Path) -> None:
    name = "stiv/<img src=x onerror=alert(1)>.png"
    (files / name).write_bytes((files / "stiv" / "cat.png").read_bytes())
    assert len(placed(timeline({"at": 0, "file": name})).resolve(16)) == 1
    lost = "<script>alert(1)</script>.png"
    assert f"'{lost}' is missing" in error_of(timeline({"at": 0, "file": lost}))
