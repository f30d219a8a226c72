"""Long videos where the disk is shared with another server, full, or cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.host import ComfyServer, HostError, Run
from stiv.store import SegmentStore
from tests.conftest import HOST
from tests.host.test_long_video import (
    count_made,
    hierarchy,
    pixels,
    prediction,
    prompt_of,
    saved,
    told,
)

PROMPT = prediction()["STIVPredictionPlan"]["prompts"]


@pytest.fixture(scope="module")
def neighbour(
    server: ComfyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A second server on the same store and output folder."""
    with ComfyServer(
        HOST, base=tmp_path_factory.mktemp("neighbour"), cpu=True, output=server.output_dir,
        arguments=[f"--user-directory={server.base / 'user'}"],
    ) as running:  # fmt: skip
        yield running


def store_of(server: ComfyServer) -> Path:
    return server.base / "user" / "stiv" / "segments"


def films_of(server: ComfyServer) -> Path:
    return server.output_dir / "stiv_unfinished"


def at_once(runs: dict[ComfyServer, dict[str, Any]]) -> list[Run]:
    """Prompts on several servers at the same time."""
    queued = []
    for number, (server, prompt) in enumerate(runs.items()):
        prompt["save"]["inputs"]["filename_prefix"] = f"at_once_{number}"
        queued.append((server, server.queue(prompt)))
    return [server.wait(prompt_id) for server, prompt_id in queued]


@pytest.mark.parametrize("other", [PROMPT, PROMPT + "\n2: a red circle spins"])
def test_two_servers_make_the_same_and_overlapping_videos(
    other: str, server: ComfyServer, neighbour: ComfyServer
) -> None:
    frames, window, carry, seed = 40, 16, 4, 60 + (other == PROMPT)
    plans = [prediction(frames=frames, seed=seed, prompts=text) for text in (PROMPT, other)]
    runs = at_once(dict(zip((server, neighbour), map(prompt_of, plans), strict=True)))
    first, second = (pixels(saved(run)) for run in runs)
    assert len(first) == len(second) == frames
    same = frames if other == PROMPT else 2 * (window - carry) + carry
    assert (first[:same] == second[:same]).all()
    assert (first[same:] != second[same:]).any() == (same < frames)
    assert not list(films_of(server).glob("*.mp4"))
    for plan in plans:
        dry = server.run(prompt_of(plan, dry_run=True))
        assert "in the store: 3 of 3 segments" in told(dry)
    store = SegmentStore(store_of(server), 10**9)
    keys = [path.stem for path in store.folder.glob("*/*.safetensors")]
    assert keys and all(store.get(key) for key in keys)


@contextmanager
def small_disk(folder: Path, kilobytes: int, *, read_only: bool = False) -> Iterator[None]:
    """A disk of its own in place of a folder, while the server runs."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kilobytes}k" + ",ro" * read_only
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount: a small disk needs Linux")
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("place", [store_of, films_of])
def test_a_disk_that_takes_nothing_is_told_before_anything_is_made(
    place: Any, read_only: bool, server: ComfyServer
) -> None:
    message = "cannot be written" if read_only else "no disk space for .* need.*, .* are free"
    with small_disk(place(server), 16, read_only=read_only):
        prompt_id = server.queue(prompt_of(hierarchy(seed=70)))
        with pytest.raises(HostError, match=f"STIVLongVideo #make: .*{message}"):
            server.wait(prompt_id)
    begun = [
        data["node"]
        for kind, data in server.events
        if kind == "executing" and data.get("prompt_id") == prompt_id and data["node"]
    ]
    assert begun[-1] == "make"  # nothing inside it


@pytest.mark.parametrize("place", [store_of, films_of])
def test_a_disk_that_fills_up_loses_nothing(place: Any, server: ComfyServer) -> None:
    """Lossless, the video takes more than was to be expected."""
    size, seed = {store_of: (200, 71), films_of: (44, 72)}[place]
    plan, folder = prediction(frames=40, seed=seed), place(server)
    prompt = prompt_of(plan, crf=0)
    with small_disk(folder, size):
        with pytest.raises(HostError, match=r"make room on the disk"):
            server.run(prompt)
        (film,) = films_of(server).glob("*.mp4")
        assert 16 <= len(pixels(film)) < 40
        subprocess.run(["mount", "-o", "remount,size=9m", str(folder)], check=True)
        dry = told(server.run(prompt_of(plan, crf=0, dry_run=True)))
        (kept,) = (n for n in (1, 2, 3) if f"in the store: {n} of 3 segments" in dry)
        run = server.run(prompt)
        assert count_made(run) == 3 - kept
    assert len(pixels(saved(run))) == 40
