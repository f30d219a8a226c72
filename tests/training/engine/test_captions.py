"""Captions, categories and DSG-Video through the commands, with a model that looks at pixels."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.engine.chat_server import ChatServer, Reply, Request, chat_server
from training.cli import main
from training.data.workers import ROOT
from training.engine.captions import DenseCaptions
from training.engine.reader import Reader
from training.engine.rows import Row
from training.engine.step import NotReady, make_step
from training.engine.work import Work

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
FRAMES = 6
KEY = "secret-key-23"

# clip -> what its frames show, and what a model says of it; the brightness tells which it is
CLIPS = {
    "a": ({"red": range(FRAMES), "blue": [5]}, 60),
    "b": ({"red": [1]}, 120),
    "c": ({}, 180),
}
CAPTIONS = {
    "a": "A red square lies there. A blue square comes. A green square rolls by. It is red.",
    "b": "A green square meets a blue square. A red square leaves.",
    "c": "Nothing can be seen.",
}


def draw(shown: dict[str, object], ground: int, index: int) -> np.ndarray:
    """uint8 (48, 64, 3): grey that grows brighter by 4 with each frame, and squares on it."""
    frame = np.full((48, 64, 3), ground + 4 * index, np.uint8)
    for place, (name, colour) in enumerate(COLOURS.items()):
        if index in shown.get(name, ()):
            frame[16:32, 16 * place + 8 : 16 * place + 24] = colour
    return frame


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name, (shown, ground) in CLIPS.items():
        first, *others = (Image.fromarray(draw(shown, ground, i)) for i in range(FRAMES))
        path = folder / f"{name}.webp"
        first.save(path, save_all=True, append_images=others, duration=100, lossless=True)
    return folder


def make_work(folder: Path, media: Path) -> Work:
    """A work folder with a segment for each clip."""
    work = Work.create(folder, media)
    end = 100 * FRAMES
    seconds = {"start_s": 0.0, "end_s": end / 1000, "seconds": end / 1000}
    segment = {"start": 0, "end": end, **seconds, "frames": FRAMES}
    work.shard("segments", 0).write(
        {
            "schema": 1,
            "id": f"clip-{name}",
            "source": {"path": f"{name}.webp", "base": [1, 1000], "captions": ["A red square."]},
            "segment": segment,
        }
        for name in CLIPS
    )
    return work


# --- the model -----------------------------------------------------------------------------------


def see(picture: np.ndarray) -> tuple[str, int, set[str]]:
    """Which clip a frame is of, its index, and the colours of its squares."""
    ground = int(np.median(picture[:12]))
    name = next(n for n, (_, g) in CLIPS.items() if g - 2 <= ground < g + 4 * FRAMES)
    colours = {
        colour
        for colour, rgb in COLOURS.items()
        if (np.abs(picture.astype(int) - rgb).max(axis=-1) < 60).sum() > 60
    }
    return name, round((ground - CLIPS[name][1]) / 4), colours


def model(request: Request) -> str:
    """Captions by heart, questions by the words, categories by colour, answers by the pixels."""
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    text, pictures = request.text, request.pictures
    if "numbered" in text:
        sentences = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
        objects = [
            {
                "name": f"{colour} square",
                "question": f"Is there a {colour} square?",
                "sentences": [int(n) for n, words in sentences.items() if colour in words],
            }
            for colour in COLOURS
        ]
        return json.dumps({"objects": [thing for thing in objects if thing["sentences"]]})
    if "categories:" in text:
        return json.dumps({"category": "abstract" if "square" in text else "other"})
    if "questions" in text:
        (picture,) = pictures
        asked = re.findall(r"Is there a (\w+) square", text)
        return json.dumps({"answers": ["yes" if c in see(picture)[2] else "no" for c in asked]})
    caption = CAPTIONS[see(pictures[0])[0]]
    return json.dumps(
        {"caption": caption.partition(". ")[0] if "one sentence" in text else caption}
    )


@pytest.fixture(scope="module")
def server():
    with chat_server() as running:
        running.script = model
        yield running


@pytest.fixture(autouse=True, scope="module")
def _key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUARES_KEY", KEY)
        yield


def command(server: ChatServer, work: Work, step: str, *options: str) -> list[str]:
    """The command line of a step."""
    path = work.folder / "model.yaml"
    settings = {"base_url": server.url, "model": "squares", "api_key_env": "SQUARES_KEY"}
    settings |= {"first_wait": 0.01, "patience": 1, "price_in": 1.0, "price_out": 5.0}
    path.write_text(json.dumps(settings))
    return ["data", step, "--work", str(work.folder), "--model", str(path), *options]


def do(line: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(line)
    if end.value.code:
        raise RuntimeError(end.value.code)


def rows_of(work: Work) -> dict[str, Row]:
    return {row["id"].removeprefix("clip-"): row for row in work.rows()}


@pytest.fixture(scope="module")
def done(server, media, tmp_path_factory) -> tuple[Work, str]:
    """The work folder after the three steps, and what they printed."""
    work = make_work(tmp_path_factory.mktemp("work"), media)
    out = tmp_path_factory.mktemp("out") / "out.txt"
    with open(out, "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        do(command(server, work, "caption", "--kinds", "dense", "short", "--frames", "3"))
        do(command(server, work, "categorize", "--workers", "1"))
        do(command(server, work, "dsg", "--frames", "3", "--workers", "1"))
    return work, out.read_text()


# --- the steps -----------------------------------------------------------------------------------


def test_captions_are_of_frames_spread_evenly(done, server) -> None:
    rows = rows_of(done[0])
    for name, row in rows.items():
        dense, short = row["captions_dense"], row["captions_short"]
        assert dense["text"] == CAPTIONS[name] and CAPTIONS[name].startswith(short["text"])
        assert (dense["model"], dense["frames"], dense["tokens"]) == ("fake-1.5", 3, [100, 20])
        made_by = dense["made_by"]
        assert (made_by["model"], made_by["frames"]) == ("squares", 3)
        assert re.fullmatch(r"1-[0-9a-f]{8}", made_by["prompts"]["captions_dense"])
        assert made_by["prompts"] != short["made_by"]["prompts"]
    asked = [r for r in server.requests if "evenly spaced" in r.text]
    assert len(asked) == 6
    for request in asked:
        assert [see(picture)[1] for picture in request.pictures] == [1, 3, 5]
        assert "3 frames of one clip of 0.6 seconds" in request.text


def test_categories_are_of_the_list(done) -> None:
    found = {name: row["categorize"]["category"] for name, row in rows_of(done[0]).items()}
    assert found == {"a": "abstract", "b": "abstract", "c": "other"}


def test_dsg_of_captions_whose_truth_is_known(done) -> None:
    work, printed = done
    rows = rows_of(work)
    seen = {
        name: {thing["name"].split()[0]: thing["seen"] for thing in row["dsg_dense"]["objects"]}
        for name, row in rows.items()
    }
    # Of frames 1, 3 and 5: the blue square of a is in the last only; nowhere is anything green.
    assert seen == {
        "a": {"red": 0, "green": None, "blue": 2},
        "b": {"red": 0, "green": None, "blue": None},
        "c": {},
    }
    values = {name: (row["dsg_dense"]["i"], row["dsg_dense"]["s"]) for name, row in rows.items()}
    assert values == {
        "a": (pytest.approx(1 / 3), 1 / 4),  # green, in one of four sentences
        "b": (pytest.approx(2 / 3), 1 / 2),  # green and blue, in one sentence of two
        "c": (None, 0),
    }
    assert re.search(r"i 50\.00 % \(95 %.*\): 3 of 6 objects", printed)
    assert re.search(r"s 28\.57 % \(95 %.*\): 2 of 7 sentences", printed)
    # A question that was answered by yes is not asked again: 1 call for the objects of each clip,
    # three frames of a with 3, 2 and 2 questions, three of b, none of c.
    assert rows["a"]["dsg_dense"]["tokens"] == [400, 80]
    assert rows["c"]["dsg_dense"]["tokens"] == [100, 20]


def test_cost_is_shown(done) -> None:
    spent = [line for line in done[1].splitlines() if line.startswith("asked the model")]
    # 2 kinds x 3 clips, 3 categories, 3 x questions and 6 frames; 100 x 1 + 20 x 5 millionths each
    assert [int(re.search(r"(\d+) answers", line)[1]) for line in spent] == [6, 3, 9]
    assert [re.search(r"cost (\S+)", line)[1] for line in spent] == ["0.0012", "0.0006", "0.0018"]


def test_the_key_is_in_no_file(done) -> None:
    work, printed = done
    files = [path for path in work.folder.rglob("*") if path.is_file()]
    assert len(files) > 15 and KEY not in printed
    for path in files:
        assert KEY.encode() not in path.read_bytes()


def test_a_step_is_done_again_where_the_caption_changed(done, server) -> None:
    work = done[0]
    model = {"base_url": server.url, "model": "squares", "api_key_env": "SQUARES_KEY"}
    steps = [
        make_step("categorize", {"model": model}),
        make_step("dsg_dense", {"model": model, "frames": 3}),
    ]
    row = rows_of(work)["a"]
    assert all(step.is_done(row) for step in steps)
    changed = {**row, "captions_dense": {**row["captions_dense"], "text": "A dog."}}
    assert not any(step.is_done(changed) for step in steps)
    assert {step.lacks({**row, "captions_dense": {"error": "no"}}) for step in steps} == {
        "captions_dense"
    }
    elsewhere = {**model, "base_url": "http://127.0.0.1:9/v1", "timeout": 3.0}
    assert make_step("categorize", {"model": elsewhere}).is_done(row)
    assert not make_step("categorize", {"model": {**model, "model": "circles"}}).is_done(row)


def test_nothing_is_summed_up_where_a_job_is_only_submitted(
    server, media, tmp_path, monkeypatch, capsys
) -> None:
    work = make_work(tmp_path / "work", media)
    monkeypatch.setattr("training.engine.commands.run_steps", lambda *_: "4711")
    do(command(server, work, "dsg"))
    printed = capsys.readouterr().out
    assert "the same command without --executor prints DSG-Video" in printed
    assert "no caption" not in printed and "asked the model" not in printed


def test_tasks_elsewhere_find_the_files_that_were_named(media, tmp_path, monkeypatch) -> None:
    """A cluster's tasks run in folders of their own."""
    work = make_work(tmp_path / "work", media)
    (tmp_path / "model.yaml").write_text("folder: models/mine\n")
    given = []
    monkeypatch.setattr("training.engine.commands.run_steps", lambda *words: given.append(words))
    monkeypatch.chdir(tmp_path)
    named = ["--model", "model.yaml", "--question-model", "model.yaml", "--prompt", "a.yaml"]
    do(["data", "dsg", "--work", str(work.folder), *named, "--question-prompt", "q.yaml"])
    ((_, _, _, settings),) = given
    for name in ("model", "question_model"):
        assert settings[name]["folder"] == str(tmp_path / "models" / "mine")
    assert settings["prompt"] == str(tmp_path / "a.yaml")
    assert settings["question_prompt"] == str(tmp_path / "q.yaml")


# --- what goes wrong -----------------------------------------------------------------------------


def test_killed_refused_and_resumed_gives_the_same(done, server, media, tmp_path) -> None:
    work = make_work(tmp_path / "work", media)
    options = ("--kinds", "dense", "short", "--frames", "3", "--workers", "1")
    line = command(server, work, "caption", *options)
    asked: list[Request] = []
    process: subprocess.Popen | None = None

    def deadly(request: Request) -> str:
        asked.append(request)
        if len(asked) == 4:
            os.kill(process.pid, signal.SIGKILL)
        return model(request)

    server.script = deadly
    try:
        process = subprocess.Popen([sys.executable, "-m", "training", *line], cwd=ROOT)
        assert process.wait(60) == -signal.SIGKILL
        server.trial = lambda request: Reply("", 401, body=b'{"error": "no such key"}')
        with pytest.raises(RuntimeError, match="401: no such key"):
            do(line)
        server.trial = lambda request: '{"ok": true}'
        do(line)
    finally:
        server.script = model
    assert len(asked) in (6, 7)  # the one in flight may have been asked twice
    for name, row in rows_of(work).items():
        for section in ("captions_dense", "captions_short"):
            assert row[section] == rows_of(done[0])[name][section]


def test_a_caption_that_fails_costs_its_row_only(server, media, tmp_path) -> None:
    work = make_work(tmp_path / "work", media)

    def moody(request: Request) -> str:
        return "I cannot." if see(request.pictures[0])[0] == "b" else model(request)

    server.script = moody
    try:
        do(command(server, work, "caption", "--workers", "1"))
    finally:
        server.script = model
    rows = rows_of(work)
    assert "two bad answers" in rows["b"]["captions_dense"]["error"]
    assert rows["a"]["captions_dense"]["text"] and rows["c"]["captions_dense"]["text"]


def test_a_file_that_has_become_too_short_makes_no_answer(server, media, monkeypatch) -> None:
    """A row says 50 frames, the file has 6: nothing in it is no hallucination."""
    source = {"path": "a.webp", "base": [1, 1000], "captions": ["A red square."]}
    segment = {"start": 0, "end": 100 * FRAMES, "start_s": 0.0, "end_s": 0.6, "frames": 50}
    row = {"id": "a", "source": source, "segment": {**segment, "seconds": 0.6}}
    monkeypatch.setenv("SQUARES_KEY", KEY)
    named = {"base_url": server.url, "model": "squares", "api_key_env": "SQUARES_KEY"}
    settings = {"model": named, "frames": 1}
    for name in ("captions_dense", "dsg_source"):
        before = len(server.requests)
        with pytest.raises(ValueError, match="too short for the frames of its row"):
            make_step(name, settings).run(row, Reader(row, media))
        assert len(server.requests) - before == (name == "dsg_source")  # its questions alone


def test_without_a_model_it_is_said_how_to_get_one(media, tmp_path) -> None:
    work = make_work(tmp_path / "work", media)
    for step in ("caption", "categorize", "dsg"):
        with pytest.raises(SystemExit, match="needs a model: name one by --model FILE"):
            main(["data", step, "--work", str(work.folder)])
    assert not (work.folder / "answers").exists()
    empty = tmp_path / "weights"
    empty.mkdir()
    with pytest.raises(NotReady, match=r"no folder of a model.*hf download"):
        make_step("captions_dense", {"model": {"folder": str(empty)}}).check()
    for name, key, odd in (("dsg_dense", "frames", 0), ("captions_short", "side", 5000)):
        model = {"base_url": "http://a", "model": "m"}
        with pytest.raises(ValueError, match=rf"{name}\.{key} is {odd}: expected"):
            make_step(name, {"model": model, key: odd}).check()
    with pytest.raises(ValueError, match="model: base: Extra"):
        DenseCaptions(model={"base": "http://a/v1"})
