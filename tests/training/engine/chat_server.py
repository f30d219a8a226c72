"""A server on loopback that speaks OpenAI's chat completions and answers as a test says."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from training.engine.language.settings import ModelSettings

USAGE = {"prompt_tokens": 100, "completion_tokens": 20}


@dataclass
class Reply:
    """What the server sends: `text` in a chat completion, or `body` as it is."""

    text: str | None = None
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    usage: dict[str, int] | None = field(default_factory=USAGE.copy)
    pauses: tuple[float, ...] = ()  # seconds before the body, and before each byte after the first
    short: int = 0  # bytes that are announced and never come

    def encoded(self) -> bytes:
        if self.body is not None:
            return self.body
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        reply = {"model": "fake-1.5", "choices": [choice], "usage": self.usage}
        return json.dumps(reply).encode()


@dataclass
class Request:
    """What came: the body, and the headers."""

    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """Of the last message."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]

    @property
    def pictures(self) -> list[np.ndarray]:
        """uint8 (H, W, 3) each, of all messages in order."""
        parts = [m["content"] for m in self.body["messages"] if isinstance(m["content"], list)]
        urls = [p["image_url"]["url"] for part in parts for p in part if p["type"] == "image_url"]
        datas = [base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in urls]
        return [np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"])) for data in datas]


Script = Callable[[Request], "Reply | str"]


class ChatServer:
    """Answers by `script`; tiny trial requests by `trial`, and they are counted apart."""

    def __init__(self, url: str):
        self.url = url
        self.script: Script = lambda request: '{"caption": "A dog runs."}'
        self.trial: Script = lambda request: '{"ok": true}'
        self.requests: list[Request] = []
        self.trials: list[Request] = []

    def plays(self, *replies: Reply | str) -> None:
        """Answers with these, one after the other, then with the last for ever."""
        left = list(replies)
        self.script = lambda request: left.pop(0) if len(left) > 1 else left[0]

    def model(self, **changes: Any) -> ModelSettings:
        """Settings that lead here; waits are short."""
        quick = {"first_wait": 0.02, "patience": 1.0, "timeout": 5.0}
        return ModelSettings(**{"base_url": self.url, "model": "fake", **quick, **changes})

    def reply(self, request: Request) -> Reply:
        trial = '{"ok": true}' in request.text
        (self.trials if trial else self.requests).append(request)
        said = (self.trial if trial else self.script)(request)
        return Reply(said) if isinstance(said, str) else said


@contextmanager
def chat_server():
    """A running server; see `ChatServer`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self.send_error(404)
                return
            reply = server.reply(Request(body, dict(self.headers)))
            data = reply.encoded()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) + reply.short))
            self.end_headers()
            first, *others = reply.pauses or (0.0,)
            time.sleep(first)
            try:
                for index, pause in enumerate(others):
                    self.wfile.write(data[index : index + 1])
                    self.wfile.flush()
                    time.sleep(pause)
                self.wfile.write(data[len(others) :])
            except OSError:
                pass  # the client has gone
            self.close_connection = bool(reply.short)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = ChatServer(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
