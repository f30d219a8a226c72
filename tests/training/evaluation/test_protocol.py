"""Benchmark protocols, end to end on stand-ins: MSR-VTT's list and folder, UCF-101's classes."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from scripts.prepare import ROOT
from tests.training.conftest import refused, run
from tests.training.evaluation.conftest import write_folder
from tests.training.evaluation.networks import Clips, write_script
from training.cli import parser
from training.data.media import Media
from training.evaluation.inputs import Folder
from training.evaluation.protocol import Protocol, choose, class_words
from training.section import load_section
from training.shapes.captions import held_out_prompts
from training.shapes.render import render_clips

RECIPES = sorted((ROOT / "training" / "recipes" / "evaluation").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_its_command_is_one(path: Path) -> None:
    protocol = load_section(Protocol, path)
    assert protocol.paper and set(protocol.paper) <= set(protocol.measures)
    assert "Decided here" in protocol.source or "Taken here" in protocol.source
    lines = [line.removeprefix("#") for line in path.read_text().splitlines() if line[:1] == "#"]
    text = "\n".join(lines).replace("\\\n", " ")
    (command,) = [line for line in text.splitlines() if line.strip().startswith("python -m")]
    args = parser().parse_args(shlex.split(command)[3:])
    assert args.recipe == path.relative_to(ROOT)


def test_recipes_are_the_papers() -> None:
    msrvtt = {path.stem: load_section(Protocol, path) for path in RECIPES}
    ucf = msrvtt.pop("ucf101")
    for protocol in msrvtt.values():
        assert (protocol.frames, protocol.size, protocol.stride) == (20, (256, 256), 3)
        assert (protocol.videos, protocol.guidance_scale) == (2990, 7.5)
    assert (ucf.frames, ucf.size, ucf.captions) == (16, (128, 128), "class")
    assert ucf.measures["fvd"].count == ucf.true_videos == 2048 and ucf.videos == 10_000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("YoYo", "yo yo"),
        ("TaiChi", "tai chi"),
        ("HandstandPushups", "handstand pushups"),
        ("playing_guitar", "playing guitar"),
    ],
)
def test_class_names_become_words(name: str, words: str) -> None:
    assert class_words(name) == words


SMALL = {
    "title": "small",
    "frames": 4,
    "size": [32, 32],
    "stride": 3,
    "videos": 5,
    "steps": 2,
    "guidance_scale": 3.0,
    "measures": {"fvd": {}, "fid": {}, "motion": {}},
    "paper": {"fvd": 536.2},
}


def write_protocol(folder: Path, **changes) -> Path:
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory) -> tuple[Path, Path]:
    """Videos of 14 frames, and the benchmark's own list: two captions each, some of training."""
    base = tmp_path_factory.mktemp("msrvtt")
    pairs = held_out_prompts(4)
    clips = render_clips([scene for _, scene in pairs], 14, 48)
    videos = write_folder(base / "videos", clips)
    for index in range(4):
        (videos / f"{index:02d}.mkv").rename(videos / f"video{index}.mp4")
    listed = {
        "videos": [{"video_id": f"video{i}", "split": "test" if i else "train"} for i in range(4)],
        "sentences": [
            {"video_id": f"video{i}", "caption": f"{pairs[i][0]} {word}"}
            for i in range(4)
            for word in ("one", "two")
        ],
    }
    (base / "test_videodatainfo.json").write_text(json.dumps(listed))
    return videos, base / "test_videodatainfo.json"


def pixels(path: Path) -> np.ndarray:
    media = Media(path)
    return np.stack([np.asarray(image) for image in media.frames(media.timeline().pts)])


def test_video_prediction_on_msrvtt(msrvtt, checkpoint, i3d, inception, tmp_path, capsys) -> None:
    videos, listed = msrvtt
    recipe, out = write_protocol(tmp_path, task="ti2v"), tmp_path / "out"
    words = ("eval", "protocol", recipe, "--true", videos, "--captions", listed, "--out", out)
    words += ("--checkpoint", checkpoint, "--cpu", "--precision", "fp32", "--workers", 1)
    run(*words, "--i3d", i3d, "--inception", inception, "--seed", 4)
    said = capsys.readouterr().out
    fvd, fid, motion = json.loads(said.splitlines()[-1])
    assert (fvd["samples"], fid["samples"]) == ({"made": 5, "true": 3}, {"made": 20, "true": 12})
    assert fvd["more"]["paper"] == 536.2 and motion["measure"] == "motion"
    assert fvd["settings"]["true"]["stride"] == 3 and fvd["settings"]["made"]["stride"] == 1
    asked = [json.loads(line) for line in (out / "asked.jsonl").read_text().splitlines()]
    assert sorted(row["path"] for row in asked[:3]) == [f"video{i}.mp4" for i in (1, 2, 3)]
    assert all(row["caption"].endswith((" one", " two")) for row in asked)
    assert len({row["seed"] for row in asked}) == 5
    assert pixels(out / "made" / "00000.mkv").shape == (4, 32, 32, 3)
    before = {path: path.stat().st_mtime_ns for path in (out / "made").glob("*.mkv")}
    run(*words, "--i3d", i3d, "--inception", inception, "--seed", 4)
    assert {path: path.stat().st_mtime_ns for path in (out / "made").glob("*.mkv")} == before
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["value"] for row in again] == [fvd["value"], fid["value"], motion["value"]]
    assert json.loads((out / "results.json").read_text()) == again
    run(*words, "--seed", 4)
    said = capsys.readouterr().out
    assert "fvd is left out: name its network by --i3d" in said
    assert "made with seed 4, now it is 5" in refused(*words, "--seed", 5)


def test_a_true_clip_that_is_taken_away_makes_other_videos(
    msrvtt, checkpoint, i3d, tmp_path, capsys
) -> None:
    """Numbers name the videos, so what was made for other clips is made again, and what is no
    longer asked for is not measured."""
    videos, listed = msrvtt
    recipe, out = write_protocol(tmp_path, measures={"fvd": {}}), tmp_path / "out"
    mine = tmp_path / "videos"
    shutil.copytree(videos, mine)
    words = ("eval", "protocol", recipe, "--true", mine, "--captions", listed, "--out", out)
    words += ("--checkpoint", checkpoint, "--cpu", "--precision", "fp32", "--workers", 1)
    words += ("--i3d", i3d)
    run(*words)
    values = json.loads(listed.read_text())
    values["videos"] = [row for row in values["videos"] if row["video_id"] != "video2"]
    values["sentences"] = [row for row in values["sentences"] if row["video_id"] != "video2"]
    mended = tmp_path / "mended.json"
    mended.write_text(json.dumps(values))
    capsys.readouterr()
    run(*words, "--captions", mended, "--videos", 3)
    fvd = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert fvd["samples"] == {"made": 3, "true": 2} and fvd["files"]["made"]["files"] == 3
    fresh = tmp_path / "fresh"
    run(*words, "--captions", mended, "--videos", 3, "--out", fresh)
    assert (out / "asked.jsonl").read_text() == (fresh / "asked.jsonl").read_text()
    for path in (fresh / "made").glob("*.mkv"):
        assert np.array_equal(pixels(path), pixels(out / "made" / path.name))
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["value"] == fvd["value"]


def test_given_clips_are_read_before_sampling_and_another_makes_its_videos_again(
    msrvtt, checkpoint, tmp_path, capsys
) -> None:
    videos, listed = msrvtt
    mine, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos, mine)
    for name in ("video1.mp4", "video3.mp4"):
        (mine / name).write_bytes(b"?" * 999)
    recipe = write_protocol(tmp_path, task="ti2v", measures={"motion": {}})
    words = ("eval", "protocol", recipe, "--true", mine, "--captions", listed, "--out", out)
    words += ("--checkpoint", checkpoint, "--cpu", "--precision", "fp32", "--workers", 1)
    line = refused(*words)
    assert "2 true clips cannot be given to the model: leave" in line and "cannot be read" in line
    assert "video1.mp4" in line and "video3.mp4" in line and "video2.mp4" not in line
    assert not (out / "made").exists()
    for name in ("video1.mp4", "video3.mp4"):
        shutil.copyfile(videos / name, mine / name)
    run(*words)
    asked = [json.loads(line) for line in (out / "asked.jsonl").read_text().splitlines()]
    before = {path.name: path.stat().st_mtime_ns for path in (out / "made").glob("*.mkv")}
    shutil.copyfile(videos / "video1.mp4", mine / "video3.mp4")
    run(*words)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "made").glob("*.mkv")}
    again = {name for name in after if after[name] != before[name]}
    assert again == {f"{row['number']:05d}.mkv" for row in asked if row["path"] == "video3.mp4"}
    assert 0 < len(again) < len(after) == 5


def test_given_frames_are_the_true_clips(msrvtt, checkpoint) -> None:
    """Through the VAE alone: all frames given."""
    from training.data.workers import Workers
    from training.evaluation.protocol import _given, _source, read_clip
    from training.sampling import Sampler

    videos, _ = msrvtt
    true = Folder(videos, size=(32, 32), frames=4, stride=3, extract="middle")
    source = _source({"path": "video1.mp4"}, videos)
    sampler = Sampler.from_checkpoint(checkpoint, size=(4, 32, 32))
    with Workers(1) as pool:
        clip = read_clip(true, pool, source)
        clean, mask = _given(true, pool, source, [0, 2], sampler)
        assert mask.tolist() == [True, False, True, False]
        assert np.array_equal(clean[:, [0, 2]], sampler.codec.encode(clip[[0, 2]][None])[0])
        assert not clean[:, [1, 3]].any()
        with pytest.raises(ValueError, match="cannot be given to the model: too short"):
            read_clip(Folder(videos, size=(32, 32), frames=9, stride=3), pool, source)


def test_stretches_of_a_list_are_the_true_clips(msrvtt, checkpoint, i3d, tmp_path, capsys) -> None:
    """Two stretches of one file, as `data export` lists them, of 4 frames each, 8 a second."""
    videos, _ = msrvtt
    listed = tmp_path / "list.jsonl"
    stretches = [(0, 0.5), (0.75, 1.25)]
    rows = [
        {"path": "video1.mp4", "start": start, "end": end, "captions": [f"from {start}"]}
        for start, end in stretches
    ]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = write_protocol(tmp_path, task="v2v", stride=1, videos=2, measures={"fvd": {}})
    words = ("eval", "protocol", recipe, "--true", videos, "--captions", listed)
    words += ("--checkpoint", checkpoint, "--cpu", "--precision", "fp32", "--workers", 1)
    run(*words, "--out", tmp_path / "out", "--i3d", i3d, "--resamples", 0)
    fvd = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert fvd["samples"] == {"made": 2, "true": 2}
    true = [json.loads(line) for line in (tmp_path / "out" / "true.jsonl").read_text().splitlines()]
    assert [(row["start"], row["end"]) for row in true] == stretches
    made = (tmp_path / "out" / "made" / "videos.jsonl").read_text().splitlines()
    given = {row["caption"]: row["given"].partition("#")[2] for row in map(json.loads, made)}
    assert given == {"from 0": "0", "from 0.75": "6"}


def test_class_to_video_on_ucf101(checkpoint, i3d, tmp_path, capsys) -> None:
    scenes = [scene for _, scene in held_out_prompts(4)]
    clips = render_clips(scenes, 6, 32)
    for index, name in enumerate(("ApplyEyeMakeup", "YoYo")):
        write_folder(tmp_path / "UCF" / name, clips[2 * index : 2 * index + 2])
    c3d = write_script(Clips(3), tmp_path / "c3d.pt")
    measures = {"fvd": {"count": 3}, "is": {}}
    recipe = write_protocol(
        tmp_path, captions="class", stride=1, true_videos=3, measures=measures, paper={"is": 93.4}
    )
    words = ("eval", "protocol", recipe, "--true", tmp_path / "UCF", "--out", tmp_path / "out")
    words += ("--checkpoint", checkpoint, "--cpu", "--precision", "fp32", "--workers", 1)
    run(*words, "--i3d", i3d, "--c3d", c3d)
    fvd, score = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert fvd["samples"] == {"made": 3, "true": 3} and score["samples"] == {"made": 5}
    assert 1 <= score["value"] <= 3 and score["more"]["paper"] == 93.4
    lines = (tmp_path / "out" / "made" / "videos.jsonl").read_text().splitlines()
    captions = [json.loads(line)["caption"] for line in lines]
    assert set(captions) == {"apply eye makeup", "yo yo"} and len(captions) == 5
    assert "name the networks" in refused(*words)


def test_choice_is_the_seeds_and_takes_every_clip_once_before_any_twice(folders) -> None:
    _, true = folders
    protocol = Protocol(**{**SMALL, "videos": 15})
    _, asked = choose(protocol, Folder(true), 1)
    paths = [row["path"] for row in asked]
    assert sorted(paths[:6]) == sorted(paths[6:12]) and paths[:6] != paths[6:12]
    assert choose(protocol, Folder(true), 1) == choose(protocol, Folder(true), 1)
    assert choose(protocol, Folder(true), 2)[1] != asked
    rows, _ = choose(protocol.model_copy(update={"true_videos": 4}), Folder(true), 1)
    assert len(rows) == 4


def test_what_does_not_fit_is_told_before_sampling(folders, shapes, checkpoint, tmp_path) -> None:
    silent = write_folder(tmp_path / "silent", shapes[0][:2])
    words = ("--out", tmp_path / "out", "--checkpoint", checkpoint, "--cpu")
    recipe = write_protocol(tmp_path)
    line = refused("eval", "protocol", recipe, "--true", silent, *words)
    assert "00.mkv has no caption" in line
    classless = write_protocol(tmp_path, captions="class")
    assert "no folder of a class" in refused(
        "eval", "protocol", classless, "--true", silent, *words
    )
    bad = tmp_path / "bad.json"
    bad.write_text('{"videos": [1]}')
    line = refused("eval", "protocol", recipe, "--true", silent, "--captions", bad, *words)
    assert "not MSR-VTT's list" in line
    odd = write_protocol(tmp_path, size=[30, 32], sice=3)
    line = refused("eval", "protocol", odd, "--true", silent, *words)
    assert "multiples of 16" in line and "sice" in line
    words = ("eval", "protocol", write_protocol(tmp_path), "--true", folders[1], *words)
    assert "none.pt is not there" in refused(*words, "--i3d", tmp_path / "none.pt")
    assert not (tmp_path / "out" / "made").exists()
