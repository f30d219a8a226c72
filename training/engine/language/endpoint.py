"""A client for any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, others.

Every failure is the server's or the request's. A server that is busy or unreachable is waited for,
twice as long each time, and at least as long as it says (Retry-After). Where it stays away, or
refuses a tiny trial request as well, `Unavailable` ends the run and no row is blamed. A request
that fails while the trial gets through is itself to blame: ValueError, for its row alone.

The API key is sent in one header, and cut out of whatever the server says.
"""

from __future__ import annotations

import base64
import io
import json
import random
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ...names import one_line
from ...optional import need
from ..step import NotReady, Unavailable
from .settings import ModelSettings
from .turns import TRIAL_SCHEMA, Completion, Turn, trial

QUALITY = 90  # of the JPEGs that are sent
LARGEST_REPLY = 2**20  # bytes
TRIES = 3  # of a request that the server fails at, while it is there
LONGEST_WAIT = 60.0  # seconds between two, unless the server asks for more
_TRIAL_TOKENS = 64
_BUSY = (408, 425, 429, 502, 503, 504, 529)
_LONGEST_TEXT = 300  # characters of the server's own words


class _Failure(Exception):
    """No answer. away: the server is busy or gone. again: worth another try. wait: seconds."""

    def __init__(self, text: str, *, away=False, again=False, wait: float | None = None):
        super().__init__(text)
        self.away, self.again, self.wait = away, away or again, wait


class Endpoint:
    """One model of a server. Raises NotReady where the key is not in the environment."""

    def __init__(self, settings: ModelSettings):
        self.settings = settings
        self._key = settings.api_key()

    @cached_property
    def _client(self):
        httpx = need("httpx")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx.Client(headers=headers, timeout=self.settings.timeout)

    def close(self) -> None:
        self._client.close()

    def check(self, frames: bool) -> None:
        try:
            self._post(self._body([trial(frames)], TRIAL_SCHEMA, _TRIAL_TOKENS))
        except _Failure as failure:
            sees = " with a picture" if frames else ""
            raise NotReady(
                f"{self._name()} does not answer a trial request{sees}: {failure}; is the server "
                "started, has it this model, and does it know answer_format "
                f"{self.settings.answer_format}? see docs/captions.md"
            ) from None

    def complete(
        self, turns: Sequence[Turn], schema: dict[str, Any], max_tokens: int
    ) -> Completion:
        body = self._body(turns, schema, max_tokens)
        try:
            return self._patiently(body)
        except _Failure as failure:
            if failure.away:
                raise Unavailable(f"{self._name()}: {failure}; start again later") from None
            try:
                self.check(any(turn.frames for turn in turns))
            except NotReady as error:
                raise Unavailable(str(error)) from None
            raise ValueError(f"{self._name()} gives no answer: {failure}") from None

    def _name(self) -> str:
        return f"{self.settings.model} at {self.settings.base_url}"

    def _body(self, turns: Sequence[Turn], schema: dict[str, Any], max_tokens: int) -> bytes:
        settings = self.settings
        body: dict[str, Any] = {
            **settings.extra,
            "model": settings.model,
            "messages": [{"role": turn.role, "content": _content(turn)} for turn in turns],
            settings.max_tokens_key: max_tokens,
        }
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        if settings.answer_format == "json_schema":
            named = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif settings.answer_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return json.dumps(body).encode()

    def _patiently(self, body: bytes) -> Completion:
        deadline = time.monotonic() + self.settings.patience
        wait, tries = self.settings.first_wait, 0
        while True:
            try:
                return self._post(body)
            except _Failure as failure:
                tries += not failure.away
                # Clients that were turned away together do not come back together. A server may
                # say "after 0 s", for ever: our own wait is the least.
                pause = max(failure.wait or 0.0, random.uniform(0.5, 1) * wait)
                late = time.monotonic() + pause > deadline
                if not failure.again or tries >= TRIES or late:
                    raise
                time.sleep(pause)
                wait = min(2 * wait, LONGEST_WAIT)

    def _post(self, body: bytes) -> Completion:
        httpx = need("httpx")
        url = f"{self.settings.base_url}/chat/completions"
        headers = {"Content-Type": "application/json"}
        try:
            with self._client.stream("POST", url, content=body, headers=headers) as response:
                data = self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Failure(f"cannot be reached ({error})", away=True) from None
        except httpx.TimeoutException:
            raise _Failure(
                f"no answer in {self.settings.timeout:g} s (timeout)", again=True
            ) from None
        except httpx.HTTPError as error:
            raise _Failure(f"the connection broke ({error})", again=True) from None
        status = response.status_code
        if status != 200:
            text = f"HTTP {status}: {self._clean(_reason(data))}"
            wait = _retry_after(response.headers.get("Retry-After"))
            raise _Failure(text, away=status in _BUSY, again=status >= 500, wait=wait)
        try:
            return self._completion(json.loads(data))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            text = f"its answer is no chat completion ({self._clean(repr(error))}): "
            raise _Failure(text + self._clean(_reason(data)), again=True) from None

    def _read(self, response) -> bytes:
        """The body, in bounded time and memory."""
        httpx = need("httpx")
        deadline = time.monotonic() + self.settings.timeout
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > LARGEST_REPLY:
                raise _Failure(f"its answer is longer than {LARGEST_REPLY} bytes")
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("slow")
        return bytes(data)

    def _completion(self, reply: dict[str, Any]) -> Completion:
        choice = reply["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text = message.get("content")
        if isinstance(text, list):  # of parts
            text = "".join(part.get("text") or "" for part in text)
        if text is None and finish == "length":
            text = ""  # the server parts thoughts from answers, and it got no further than those
        if not isinstance(text, str) or finish == "content_filter":
            refusal = message.get("refusal") or finish
            raise _Failure(f"it refuses to answer ({self._clean(str(refusal))})")
        name = reply.get("model")
        name = one_line(name)[:200] if isinstance(name, str) and name else self.settings.model
        return Completion(text, name, _tokens(reply.get("usage")), finish == "length")

    def _clean(self, text: str) -> str:
        """A server's words for people: short, on one line, without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return one_line(text)[:_LONGEST_TEXT]


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    if not turn.frames:
        return turn.text
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(f)}} for f in turn.frames]
    return [*pictures, {"type": "text", "text": turn.text}]


def _data_url(frame: np.ndarray) -> str:
    """uint8 (H, W, 3) as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _reason(data: bytes) -> str:
    """What a server says of an error: OpenAI's form, or whatever else it sent."""
    text = data[: 2**16].decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, RecursionError, LookupError, TypeError):
        return text.strip()


def _retry_after(value: str | None) -> float | None:
    """Seconds of the header, which holds a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), 1e9) if seconds == seconds else None


def _tokens(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not all(type(count) is int and 0 <= count < 2**40 for count in counts):
        return None
    return counts
