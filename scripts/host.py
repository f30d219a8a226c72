"""Drive a real ComfyUI server with this pack loaded: for the demo and for the tests.

    with ComfyServer(comfyui, base=folder, cpu=True) as server:
        run = server.run_workflow("workflows/image_to_video.json")
        run.files   # paths of what the save nodes wrote

The server gets a base directory of its own, in which `custom_nodes/ComfyUI-STIV` is a link to this
checkout: nobody's ComfyUI is changed, and two checkouts never share a link, models or outputs.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.prepare import ROOT, cache_dir

PACK_NAME = "ComfyUI-STIV"
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy


class HostError(RuntimeError):
    """The server could not start, refused a prompt, or a run failed; `details` has the response."""

    def __init__(self, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Run:
    """One finished prompt."""

    prompt_id: str
    history: Mapping[str, Any]
    files: list[Path]  # what its nodes saved or previewed, in node order
    seconds: float
    executed: list[str] = field(default_factory=list)  # ids of nodes that ran, cached ones left out

    @property
    def outputs(self) -> Mapping[str, Any]:
        """The UI outputs by node id."""
        return self.history["outputs"]


def checkout_base(root: Path = ROOT) -> Path:
    """The base directory that belongs to this checkout, in the cache."""
    return cache_dir() / "bases" / hashlib.sha256(str(root).encode()).hexdigest()[:12]


def make_base(base: Path, comfyui: Path, root: Path = ROOT) -> Path:
    """A base directory whose only custom node is the checkout at `root`."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    example = comfyui / "input" / "example.png"  # every ComfyUI has it: workflows may load it
    if example.is_file():
        shutil.copy(example, base / "input")
    link = base / "custom_nodes" / PACK_NAME
    if not (link.exists() and link.samefile(root)):
        link.unlink(missing_ok=True)
        if os.name == "nt":  # a junction needs no administrator
            subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(root)], check=True)
        else:
            link.symlink_to(root, target_is_directory=True)
    return base


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """A ComfyUI process of our own; a context manager that always ends exactly that process.

    `cpu=None` takes an accelerator where torch finds one. `pack=False` starts the bare host.
    `log_path` holds everything the server wrote.
    """

    def __init__(
        self,
        comfyui: Path,
        *,
        base: Path,
        python: str | Path = sys.executable,
        pack: bool = True,
        cpu: bool | None = None,
        output: Path | None = None,
        arguments: Sequence[str] = (),
        start_timeout: float = 300,
    ) -> None:
        self.comfyui, self.base, self.python = Path(comfyui), Path(base), str(python)
        self.output_dir = (output or self.base / "output").absolute()
        self.pack, self.cpu = pack, has_no_accelerator() if cpu is None else cpu
        self.arguments, self.start_timeout = list(arguments), start_timeout
        self.log_path = self.base / "server.log"
        self.client_id = uuid.uuid4().hex
        self.events: list[tuple[str, dict[str, Any]]] = []  # the websocket's messages, in order
        self.previews: list[bytes] = []  # its binary messages, each with a header of 8 bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Any = None
        self._object_info: dict[str, Any] | None = None

    # --- life ---

    def __enter__(self) -> ComfyServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ComfyServer:
        make_base(self.base, self.comfyui)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        command = [self.python, str(self.comfyui / "main.py"), "--listen=127.0.0.1"]
        command += [f"--port={self.port}", "--disable-auto-launch", "--disable-api-nodes"]
        command += [f"--base-directory={self.base}", f"--output-directory={self.output_dir}"]
        command += ["--database-url=sqlite:///:memory:", *self.arguments]
        if self.cpu:  # without the second the host chooses a slower attention on the CPU
            command += ["--cpu", "--use-pytorch-cross-attention"]
        if not self.pack:
            command.append("--disable-all-custom-nodes")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.base,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt in the terminal reaches us, and we end it
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        try:
            self._await_ready()
            self._listen()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and wait for it; safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(OSError):
                self.get("/system_stats", timeout=5)
                return
            time.sleep(0.2)
        raise HostError(f"the server did not answer in {self.start_timeout:.0f} s\n{self.tail()}")

    def _check_alive(self) -> None:
        code = None if self._process is None else self._process.poll()
        if self._process is None or code is not None:
            raise HostError(f"the server has ended (exit code {code})\n{self.tail()}")

    def _listen(self) -> None:
        import websocket

        address = f"ws://127.0.0.1:{self.port}/ws?clientId={self.client_id}"
        connection = websocket.create_connection(address, http_no_proxy=["127.0.0.1"])
        self._socket = connection
        threading.Thread(target=self._read_events, args=(connection,), daemon=True).start()

    def _read_events(self, connection: Any) -> None:
        with contextlib.suppress(Exception):  # closing the socket is how this thread ends
            while True:
                message = connection.recv()
                if isinstance(message, bytes):
                    self.previews.append(message)
                elif message:
                    event = json.loads(message)
                    self.events.append((event["type"], event.get("data") or {}))

    # --- facts ---

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        self._check_alive()
        return self._process.pid  # type: ignore[union-attr]

    @property
    def log(self) -> str:
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.splitlines()[-lines:])

    @property
    def input_dir(self) -> Path:
        return self.base / "input"

    def memory(self, key: str = "VmRSS") -> int | None:
        """Bytes of the server's memory (`VmRSS`) or of its peak (`VmHWM`); None off Linux."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith(f"{key}:"):
                    return int(line.split()[1]) * 1024
        return None

    # --- HTTP ---

    def get(self, path: str, timeout: float = 60) -> Any:
        with LOCAL.open(self.url + path, timeout=timeout) as response:
            return json.loads(response.read())

    def post(self, path: str, data: Any = None, timeout: float = 60) -> Any:
        body = json.dumps(data if data is not None else {}).encode()
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": "application/json"}
        )
        with LOCAL.open(request, timeout=timeout) as response:
            text = response.read()
        return json.loads(text) if text else None

    def object_info(self) -> dict[str, Any]:
        """Every node's schema; read once per server."""
        if self._object_info is None:
            self._object_info = self.get("/object_info")
        return self._object_info

    def put_input(self, path: Path, name: str | None = None) -> str:
        """Copy a picture into the input folder; returns the name that LoadImage takes."""
        name = name or path.name
        shutil.copy(path, self.input_dir / name)
        return name

    def queue(self, prompt: Mapping[str, Any], workflow: Mapping[str, Any] | None = None) -> str:
        """Queue an API-format prompt; HostError names each refused input."""
        data: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id}
        if workflow is not None:  # what SaveVideo writes into the file, as the front end sends it
            data["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post("/prompt", data)["prompt_id"]
        except urllib.error.HTTPError as error:
            details = json.loads(error.read())
            raise HostError(_refusal(details), details) from None

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self) -> None:
        """Stop what is running; returns at once, `wait` then raises HostError."""
        self.post("/interrupt")

    def free(self) -> None:
        """Unload models and forget cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    # --- runs ---

    def wait(
        self,
        prompt_id: str,
        timeout: float = 300,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> Run:
        """Wait for a prompt; HostError with the node's message when it fails or is interrupted."""
        start, seen = time.monotonic(), 0
        while True:
            self._check_alive()
            entry = self.history(prompt_id)
            for event in self._events_of(prompt_id, seen) if on_event else ():
                on_event(*event)  # type: ignore[misc]
            seen = len(self.events)
            if entry is not None:
                break
            if time.monotonic() - start > timeout:
                self.interrupt()
                raise HostError(f"prompt {prompt_id} took over {timeout:.0f} s\n{self.tail()}")
            time.sleep(0.1)
        status = entry["status"]
        if status["status_str"] != "success":
            raise HostError(_failure(status["messages"]), entry)
        executed = [d["node"] for t, d in self._events_of(prompt_id) if t == "executing"]
        return Run(
            prompt_id,
            entry,
            [file for output in entry["outputs"].values() for file in self._files(output)],
            _seconds(status["messages"]),
            [node for node in executed if node],
        )

    def run(self, prompt: Mapping[str, Any], timeout: float = 300) -> Run:
        return self.wait(self.queue(prompt), timeout)

    def run_workflow(self, path: str | Path, timeout: float = 300) -> Run:
        """Run a UI-format workflow file as the front end would queue it."""
        workflow = json.loads(Path(path).read_text(encoding="utf-8"))
        return self.wait(self.queue(self.to_prompt(workflow), workflow), timeout)

    def to_prompt(self, workflow: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a UI-format workflow to the API format with this server's schemas."""
        from comfy_cli.workflow_to_api import convert_ui_to_api

        return convert_ui_to_api(dict(workflow), self.object_info())

    def _events_of(self, prompt_id: str, start: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        for kind, data in self.events[start:]:
            if data.get("prompt_id") == prompt_id:
                yield kind, data

    def _files(self, output: Mapping[str, Any]) -> Iterator[Path]:
        folders = {"output": self.output_dir, "temp": self.base / "temp", "input": self.input_dir}
        for entries in output.values():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and "filename" in entry:
                    yield folders[entry["type"]] / entry.get("subfolder", "") / entry["filename"]


def _end_with_parent() -> None:
    """In the server, before it starts: have the kernel end it even if we are killed outright."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


def has_no_accelerator() -> bool:
    import torch

    return not torch.accelerator.is_available()


def _refusal(details: Mapping[str, Any]) -> str:
    """The one-line reasons in a refused prompt's response."""
    reasons = [details.get("error", {}).get("message", "the prompt was refused")]
    for node, errors in (details.get("node_errors") or {}).items():
        for error in errors["errors"]:
            name = f"{errors.get('class_type')} #{node}"
            reasons.append(f"{name}: {error['message']}: {error.get('details', '')}".rstrip(": "))
    return "; ".join(reasons)


def _failure(messages: Sequence[Sequence[Any]]) -> str:
    for kind, data in messages:
        if kind == "execution_error":
            message = data["exception_message"].strip()
            return f"{data['node_type']} #{data['node_id']}: {message}"
        if kind == "execution_interrupted":
            return "interrupted"
    return "the run failed"


def _seconds(messages: Sequence[Sequence[Any]]) -> float:
    times = {kind: data["timestamp"] for kind, data in messages if "timestamp" in data}
    return (times.get("execution_success", 0) - times.get("execution_start", 0)) / 1000
