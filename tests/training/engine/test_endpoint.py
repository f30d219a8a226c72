"""The client for OpenAI-compatible servers: how long it waits, whom it blames, where a key goes."""

from __future__ import annotations

import json
import socket
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from tests.training.engine.chat_server import Reply
from tests.training.engine.pets import GOOD, Pets, ask, turn
from training.engine.language import endpoint
from training.engine.language.ask import Asker
from training.engine.language.endpoint import (
    LARGEST_REPLY,
    LONGEST_WAIT,
    TRIES,
    Endpoint,
    _retry_after,
)
from training.engine.language.settings import ModelSettings
from training.engine.step import NotReady, Unavailable

# --- servers that are busy, gone, slow or broken -------------------------------------------------


class Clock:
    """In place of the client's `time`: it passes while the client waits, and at no other time."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(endpoint, "time", clock)
    return clock


def test_a_busy_server_is_waited_for_as_long_as_it_says(server, clock) -> None:
    server.plays(Reply("", 429, headers={"Retry-After": "40"}), GOOD)
    assert ask(server, patience=60).value.count == 2
    assert clock.pauses == [40] and len(server.requests) == 2


def test_a_wait_longer_than_the_patience_ends_the_run_at_once(server, clock) -> None:
    server.plays(
        Reply("", 429, body=b'{"error": {"message": "quota"}}', headers={"Retry-After": "60"})
    )
    with pytest.raises(Unavailable, match="HTTP 429: quota; start again"):
        ask(server, patience=59)
    assert not clock.pauses and len(server.requests) == 1


@pytest.mark.parametrize("said", [None, "0", "-5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_waits_grow_until_patience_ends(server, clock, said) -> None:
    """Also where the server says "at once" each time."""
    clock.time = time.time  # for the date
    server.plays(Reply("", 503, headers={"Retry-After": said} if said else {}))
    with pytest.raises(Unavailable, match="503"):
        ask(server, patience=300, first_wait=1)
    most = [min(2.0**index, LONGEST_WAIT) for index in range(len(clock.pauses) + 1)]
    assert all(0.5 * m <= pause <= m for pause, m in zip(clock.pauses, most, strict=False))
    assert sum(clock.pauses) <= 300 < sum(clock.pauses) + most[-1]
    assert len(server.requests) == len(clock.pauses) + 1
    assert not server.trials  # nobody doubts that it is the server


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        model = ModelSettings(base_url=url, model="m", patience=0.1, first_wait=0.01)
        with pytest.raises(Unavailable, match="cannot be reached"):
            Asker(model).ask(Pets, turn(), 50)
        with pytest.raises(NotReady, match="is the server started"):
            Endpoint(model).check(frames=True)


FAULTS = {
    "fails": (Reply("", 500, body=b"<h1>oops</h1>"), TRIES, "oops"),
    "refuses": (Reply("", 400, body=b'{"error": "too long"}'), 1, "400: too long"),
    "silent": (Reply(GOOD, pauses=(30,)), TRIES, "timeout"),
    "dripping": (Reply(GOOD, pauses=(0.05,) * 100), TRIES, "timeout"),
    "breaks off": (Reply(GOOD, short=50), TRIES, "connection broke"),
    "no completion": (Reply(body=b"[1]"), TRIES, "no chat completion"),
    "no message": (Reply(body=b'{"choices": [{"message": null}]}'), TRIES, "no chat completion"),
    "text": (Reply(body=b'{"choices": [{"message": "yes"}]}'), TRIES, "no chat completion"),
    "error": (
        Reply(body=b'{"error": {"message": "no such model"}}'),
        TRIES,
        "no chat completion .*: no such model",
    ),
    "parts": (
        Reply(body=b'{"choices": [{"message": {"content": ["yes"]}}]}'),
        TRIES,
        "no chat completion",
    ),
    "nested": (Reply(body=b"[" * 10**5), TRIES, "no chat completion"),
    "huge": (Reply(body=b" " * (LARGEST_REPLY + 1)), 1, "longer than"),
    "filtered": (Reply(None, finish="content_filter"), 1, "refuses to answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_who_is_to_blame_is_found_by_a_trial_request(server, fault) -> None:
    reply, tries, reason = FAULTS[fault]
    timeout = 1 if reason == "timeout" else 30  # the trial has to get through on a busy machine
    quick = {"timeout": timeout, "first_wait": 0.001, "patience": 100}
    server.plays(reply)
    with pytest.raises(ValueError, match=reason):
        ask(server, **quick)
    assert len(server.requests) == tries and len(server.trials) == 1
    if fault in ("fails", "refuses"):
        server.trial = server.script
        with pytest.raises(Unavailable, match=reason):
            ask(server, **quick)


def test_a_fault_that_passes_is_not_seen(server) -> None:
    server.plays(Reply("", 500), Reply(GOOD, short=9), GOOD)
    assert ask(server, first_wait=0.001, patience=20).value.count == 2
    assert not server.trials


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=30)
    assert _retry_after("7") == 7 and _retry_after("-3") == 0
    assert 27 < _retry_after(format_datetime(soon, usegmt=True)) <= 30
    assert [_retry_after(odd) for odd in (None, "", "soon", "nan")] == [None] * 4
    assert _retry_after("inf") == 1e9


# --- the key -------------------------------------------------------------------------------------


def test_the_key_stays_out_of_every_text(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PET_KEY", "secret-key-17")
    model = server.model(api_key_env="PET_KEY")
    echo = json.dumps({"error": {"message": "bad key secret-key-17"}}).encode()
    server.trial = lambda request: Reply("", 401, body=echo)
    with pytest.raises(NotReady, match=r"401: bad key \*\*\*") as told:
        Endpoint(model).check(frames=False)
    server.script = server.trial
    with pytest.raises(Unavailable) as raised:
        Asker(model, tmp_path).ask(Pets, turn(), 50)
    for text in (str(told.value), str(raised.value), repr(model), model.model_dump_json()):
        assert "secret" not in text
    assert "secret" not in json.dumps(model.stamp())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": "m"}, "either base_url or folder"),
        ({"base_url": "http://a/v1"}, "model is missing"),
        ({"base_url": "ftp://a/v1", "model": "m"}, "expected http"),
        ({"base_url": "https://me:pw@a/v1", "model": "m"}, "api_key_env"),
        ({"base_url": "https://a/v1?key=x", "model": "m"}, "api_key_env"),
        ({"base_url": "http://a", "model": "m", "api_key": "x"}, "api_key: Extra"),
        ({"base_url": "http://a", "model": "m", "extra": {"messages": []}}, "not to be set"),
        ({"folder": "f", "model": "m"}, "leave them out"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, values, reason) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=reason) as raised:
        ModelSettings.load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_key_that_is_not_set(monkeypatch) -> None:
    monkeypatch.delenv("PET_KEY", raising=False)
    with pytest.raises(NotReady, match=r"PET_KEY \(api_key_env\) is not set"):
        Endpoint(ModelSettings(base_url="http://a", model="m", api_key_env="PET_KEY"))


@pytest.mark.parametrize("key", ["secret-17\nsecret-18", "sécret-17"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(monkeypatch, key) -> None:
    monkeypatch.setenv("PET_KEY", key)
    with pytest.raises(NotReady, match=r"PET_KEY \(api_key_env\) holds a line break") as told:
        Endpoint(ModelSettings(base_url="http://a", model="m", api_key_env="PET_KEY"))
    assert "cret-1" not in str(told.value)
