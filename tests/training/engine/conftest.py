"""A small work folder for tests that run its steps, and a server for those that ask one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.training.data.numbered import write_video
from tests.training.engine.chat_server import chat_server
from tests.training.engine.footage import moving, save_real_clips
from tests.training.engine.pets import GOOD
from tests.training.engine.small_work import CLIP, FEATURES, contents, prepare
from training.engine.run import run
from training.engine.step import make_step
from training.engine.work import Work


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A real clip, four small videos, one that is broken and one that is no video."""
    folder = tmp_path_factory.mktemp("media")
    save_real_clips(folder, [CLIP])
    for number in range(4):
        write_video(folder / f"{number}.mp4", list(moving(number, 20 + 3 * number)), 12)
    (folder / "5.mp4").write_bytes((folder / "3.mp4").read_bytes()[:-900])
    (folder / "6.mp4").write_bytes(b"no video" * 100)
    return folder


@pytest.fixture(scope="module")
def prepared(media, tmp_path_factory) -> Work:
    return prepare(media, tmp_path_factory.mktemp("prepared") / "work")


@pytest.fixture
def work(prepared: Work, tmp_path: Path) -> Work:
    shutil.copytree(prepared.folder, tmp_path / "work")
    return Work.open(tmp_path / "work")


@pytest.fixture(scope="module")
def whole(prepared: Work, tmp_path_factory) -> dict[str, bytes]:
    """What an uninterrupted run of the features with one worker writes."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    shutil.copytree(prepared.folder, folder)
    run(Work.open(folder), [make_step(name) for name in FEATURES], workers=1)
    return contents(folder)


@pytest.fixture
def server():
    """A model that knows of two cats."""
    with chat_server() as running:
        running.script = lambda request: GOOD
        yield running
