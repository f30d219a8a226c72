"""From a data set on disk to its clips, by real decoding processes, with what went wrong named."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.numbered import draw, read, write_animation, write_video
from training.data.clips import Report, clips, dump
from training.data.media import Media
from training.data.sources import DataSpec


def spec(path: Path, **changes) -> DataSpec:
    settings = {"sizes": [(48, 64), (64, 48)], "frames": [1, 5], "stride": 3, "extract": "first"}
    return DataSpec(path=path, **settings | changes)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Good and bad files of many kinds in one folder."""
    root = tmp_path / "set"
    root.mkdir()
    write_video(root / "a.mp4", 40)
    write_animation(root / "b.webp", [50] * 30)
    Image.fromarray(draw(7, 99, 77)).save(root / "c.png")
    write_video(root / "d_short.mp4", 2)
    Image.new("RGB", (20, 20)).save(root / "e_small.png")
    (root / "f_empty.mp4").touch()
    (root / "g_garbage.mp4").write_bytes(bytes(range(256)) * 40)
    write_video(root / "h_truncated.mp4", 40)
    os.truncate(root / "h_truncated.mp4", 1500)
    write_video(root / "i_latin.mp4", 40)
    write_video(root / "j_silent.mp4", 40)
    write_video(root / "k_last.mkv", 40, times=[round(i * 1000 / 30) for i in range(40)])
    for file in list(root.iterdir()):
        file.with_suffix(".txt").write_text(f"caption of {file.name}")
    (root / "i_latin.txt").write_bytes(b"caf\xe9")
    (root / "j_silent.txt").unlink()
    return root


def test_a_mixed_folder_gives_its_good_clips_and_a_report(mixed: Path, tmp_path: Path) -> None:
    quarantine = tmp_path / "bad" / "quarantine.jsonl"
    report = Report(quarantine)
    found = list(clips(spec(mixed), workers=2, report=report))
    assert [c.key for c in found] == [
        "a.mp4#0",
        "b.webp#0",
        "c.png#0",
        "d_short.mp4#0",
        "k_last.mkv#0",
    ]
    numbers = [[read(frame) for frame in c.frames] for c in found]
    assert numbers == [[0, 3, 6, 9, 12]] * 2 + [[7], [0], [0, 3, 6, 9, 12]]
    assert [c.frames.shape[1:3] for c in found[2:4]] == [(64, 48), (48, 64)]
    assert all(c.captions == (f"caption of {c.key[:-2]}",) for c in found)
    assert report.clips == {"5x48x64": 3, "1x64x48": 1, "1x48x64": 1}
    assert report.drops == {"too small": 1} and report.uncaptioned == 1
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [(line["path"], line["reason"]) for line in lines] == report.quarantined
    bad = {"f_empty.mp4", "g_garbage.mp4", "h_truncated.mp4", "i_latin.txt"}
    assert {line["path"] for line in lines} == bad and all(line["reason"] for line in lines)
    text = report.summary()
    assert "5 clips from 10 entries" in text
    assert "without a caption: 1, as j_silent.mp4" in text
    assert "dropped, too small: 1, as e_small.png (20x20" in text
    assert f"quarantined: 4 (all in {quarantine})" in text


def test_the_number_of_workers_changes_nothing(mixed: Path) -> None:
    def run(workers: int, **options) -> list[tuple]:
        made = clips(
            spec(mixed, extract="all", crop="random", sizes=[(32, 32)]),
            workers=workers,
            seed=4,
            **options,
        )
        return [(c.key, c.frames.tobytes(), c.micro, c.content, c.captions) for c in made]

    alone = run(1)
    assert run(2) == alone and len({clip[0] for clip in alone}) == len(alone) > 6
    parts = [run(1, part=(i, 2)) for i in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(alone)


def test_cached_clips_are_not_decoded_again(mixed: Path) -> None:
    asked = []
    report = Report()

    def skip(key: str, content: str, captions: tuple[str, ...]) -> bool:
        asked.append((key, content))
        return key == "a.mp4#0"

    found = list(clips(spec(mixed), report=report, skip=skip))
    assert "a.mp4#0" not in [c.key for c in found]
    assert ("a.mp4#0", Media(mixed / "a.mp4").content()) in asked
    assert (report.skipped, len(found)) == (1, len(asked) - 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_file_that_hangs_the_decoder_is_quarantined(tmp_path: Path) -> None:
    for name in ("a.mp4", "c.mp4"):
        write_video(tmp_path / name)
    os.mkfifo(tmp_path / "b.mp4")
    rows = [{"path": name, "text": name} for name in ("a.mp4", "b.mp4", "c.mp4")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = Report()
    found = list(clips(spec(tmp_path, time_limit=4), workers=1, report=report))
    assert [c.key for c in found] == ["a.mp4#0", "c.mp4#0"]
    assert report.quarantined == [("b.mp4", "it took more than 4 s (time_limit) and was stopped")]


def test_damaged_files_never_stop_the_run(tmp_path: Path) -> None:
    originals = [
        write_video(tmp_path / "a.mp4", 12),
        write_video(tmp_path / "a.ts", 12),
        write_video(tmp_path / "a.webm", 12, codec="libvpx-vp9"),
        write_animation(tmp_path / "a.webp", [50] * 6),
    ]
    rng = np.random.default_rng(0)
    root = tmp_path / "damaged"
    root.mkdir()
    for number in range(24):
        original = originals[number % len(originals)]
        data = np.frombuffer(original.read_bytes(), np.uint8).copy()
        places = rng.integers(0, len(data) if number % 3 else 200, 10)
        data[places] = rng.integers(0, 256, 10)
        (root / f"{number:02d}{original.suffix}").write_bytes(data.tobytes())
    (root / "last.mp4").write_bytes(originals[0].read_bytes())
    report = Report()
    settings = spec(root, frames=[1, 4], uncaptioned="empty", min_side=1)
    keys = [c.key for c in clips(settings, report=report)]
    assert keys[-1] == "last.mp4#0" and report.sources == 25
    bad = {name.split("#")[0] for name, _ in report.quarantined}
    assert bad and len(keys) + len(bad) + report.drops.total() == 25


def test_missing_files_and_repeated_clips_are_reported(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    rows = [{"path": name, "text": "x"} for name in ("a.mp4", "gone.mp4", "a.mp4")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = Report()
    assert len(list(clips(spec(tmp_path), report=report))) == 1
    assert report.quarantined == [("gone.mp4", "file not found")]
    assert report.drops == {"same clip again": 1}


def test_tars_frames_and_views_give_clips(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 20)
    tars, frames, views = (tmp_path / name for name in ("tars", "frames", "views"))
    for folder in (tars, frames / "clip", views):
        folder.mkdir(parents=True)
    with tarfile.open(tars / "s.tar", "w") as tar:
        tar.add(video, "1.mp4")
        caption = tarfile.TarInfo("1.txt")
        caption.size = 3
        tar.addfile(caption, io.BytesIO(b"one"))
    for i in range(14):
        Image.fromarray(draw(i)).save(frames / "clip" / f"{i}.png")
        Image.fromarray(draw(i)).save(views / f"{i}.png")
    (frames / "clip.txt").write_text("two")
    (views / "metadata.jsonl").write_text(json.dumps({"views": [f"{i}.png" for i in range(5)]}))
    (one,) = clips(spec(tars), workers=1)
    (two,) = clips(spec(frames, frame_rate=12), workers=1)
    (three,) = clips(spec(views), workers=1)
    assert [c.key for c in (one, two, three)] == ["s.tar/1.mp4#0", "clip#0", "0.png#0"]
    assert [c.captions for c in (one, two, three)] == [("one",), ("two",), ()]
    assert [c.fps for c in (one, two, three)] == pytest.approx([10, 4, 0])
    assert [read(f) for f in one.frames] == [read(f) for f in two.frames] == [0, 3, 6, 9, 12]
    assert [read(f) for f in three.frames] == [0, 1, 2, 3, 4]


def test_files_without_a_caption_may_train_with_the_empty_one(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    (only,) = clips(spec(tmp_path, uncaptioned="empty", name="mine"), workers=1)
    assert (only.captions, only.key) == ((), "mine/a.mp4#0")


def test_the_dump_shows_what_is_trained_on(mixed: Path, tmp_path: Path) -> None:
    written = dump(spec(mixed), tmp_path / "dump", 3)
    assert [path.suffix for path in written] == [".mp4", ".mp4", ".png"]
    for path, name in zip(written, ("a.mp4", "b.webp", "c.png"), strict=True):
        facts = json.loads(path.with_suffix(".json").read_text())
        assert facts["key"] == f"{name}#0" and len(facts["micro"]) == 6
        assert path.with_suffix(".txt").read_text() == f"caption of {name}\n"
    media = Media(written[0])
    timeline = media.timeline()
    assert timeline.fps == pytest.approx(10)
    shown = [read(np.asarray(image)) for image in media.frames(timeline.pts)]
    assert shown == [0, 3, 6, 9, 12]
    assert dump(spec(mixed), tmp_path / "none", 0) == []


def test_an_empty_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no videos or images"):
        list(clips(spec(tmp_path), workers=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [(48, 65)]}, r"size \[48, 65\]: expected multiples of 16"),
        ({"sizes": []}, "sizes"),
        ({"frames": [0]}, "length 0"),
        ({"stride": 0}, "stride"),
        ({"clips_per_video": 2}, "extract: uniform"),
        ({"frame": [5]}, "frame"),
    ],
)
def test_a_wrong_spec_names_the_key(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        spec(tmp_path, **changes)


def test_every_key_is_described_and_provenance_is_what_cuts(tmp_path: Path) -> None:
    assert all(field.description for field in DataSpec.model_fields.values())
    one, other = spec(tmp_path), spec(tmp_path / "x", time_limit=9)
    assert one.provenance() == other.provenance(seed=8)
    assert one.provenance() != spec(tmp_path, stride=2).provenance()
    random = spec(tmp_path, crop="random")
    assert random.provenance(1) != random.provenance(2)
    assert re.match(r"\{", json.dumps(one.provenance()))
