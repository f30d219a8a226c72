"""Requests, strict answers, what is kept of them, and prompts, against a real HTTP server."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.engine.chat_server import Reply
from tests.training.engine.pets import GOOD, Pets, ask, frame, turn
from training.engine.dsg import Questions
from training.engine.language.answers import Answers, Spending, key
from training.engine.language.ask import LONGEST_ANSWER, Asker, Form, _Bad, _parse, plain_schema
from training.engine.language.endpoint import Endpoint
from training.engine.language.prompts import FOLDER, load_prompt
from training.engine.language.settings import ModelSettings
from training.engine.language.turns import Completion

# --- requests and answers ------------------------------------------------------------------------


def test_what_is_sent_and_what_comes_back(server, monkeypatch) -> None:
    monkeypatch.setenv("PET_KEY", "secret-key-17")
    asker = Asker(server.model(api_key_env="PET_KEY", extra={"top_k": 3}))
    answer = asker.ask(Pets, turn("How many?", frame(10), frame(200)), 50)
    assert answer.value == Pets(animal="cat", count=2)
    assert (answer.model, answer.tokens) == ("fake-1.5", (100, 20))
    (request,) = server.requests
    assert request.headers["Authorization"] == "Bearer secret-key-17"
    body = request.body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("fake", 50, 0.0)
    assert body["top_k"] == 3
    asked = body["response_format"]
    assert asked["type"] == "json_schema" and asked["json_schema"]["schema"] == plain_schema(Pets)
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert request.text == "How many?"
    for picture, value in zip(request.pictures, (10, 200), strict=True):
        assert picture.shape == (24, 40, 3)
        assert np.abs(picture.astype(int) - value).max() <= 2


def test_how_json_is_asked_for_is_a_setting(server) -> None:
    ask(
        server,
        answer_format="json_object",
        temperature=None,
        max_tokens_key="max_completion_tokens",
    )
    ask(server, answer_format="text")
    first, second = (request.body for request in server.requests)
    assert first["response_format"] == {"type": "json_object"} and "temperature" not in first
    assert first["max_completion_tokens"] == 50 and "max_tokens" not in first
    assert "response_format" not in second


def test_schema_is_plain(server) -> None:
    text = {"type": "string"}
    thing = {
        "type": "object",
        "properties": {
            "name": text,
            "question": text,
            "sentences": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["name", "question", "sentences"],
        "additionalProperties": False,
    }
    assert plain_schema(Questions) == {
        "type": "object",
        "properties": {"objects": {"type": "array", "items": thing}},
        "required": ["objects"],
        "additionalProperties": False,
    }


# --- answers of the wrong form -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("Two cats.", "Invalid JSON"),
        (GOOD[:-9], "Invalid JSON"),
        ('{"animal": "cow", "count": 2}', "animal"),
        ('{"animal": "cat", "count": "2"}', "count"),
        ('{"animal": "cat", "count": 2, "note": ""}', "note"),
        ("[" * 9000, "Invalid JSON"),
        (Reply(GOOD, finish="length"), "cut off"),
        ("x" * (LONGEST_ANSWER + 1), "longer than"),
        ("", "Invalid JSON"),
    ],
)
def test_a_bad_answer_is_sent_back_once_with_the_reason(server, bad, reason) -> None:
    server.plays(bad, GOOD)
    answer = ask(server)
    assert answer.value.count == 2 and answer.tokens == (200, 40)
    again = server.requests[1].body["messages"]
    assert [m["role"] for m in again] == ["user", "assistant", "user"]
    assert reason in again[-1]["content"] and len(again[-2]["content"]) <= 4000
    server.plays(bad)
    with pytest.raises(ValueError, match="two bad answers"):
        ask(server)
    assert len(server.requests) == 4


def test_an_answer_that_never_left_its_thoughts_is_one_cut_off(server) -> None:
    """As servers send it that part thoughts from answers: no content, finish_reason "length"."""
    server.trial = lambda request: Reply(None, finish="length")
    Endpoint(server.model()).check(frames=False)  # it answers, and a trial is short
    server.plays(Reply(None, finish="length"), GOOD)
    assert ask(server).value.count == 2
    assert "cut off" in server.requests[1].text


@pytest.mark.parametrize("text", [f"```json\n{GOOD}\n```", f"<think>a {{b</think>\n{GOOD}", GOOD])
def test_what_models_put_around_json(server, text) -> None:
    server.plays(text)
    assert ask(server).value.count == 2
    assert len(server.requests) == 1


def test_what_stands_in_the_json_is_left_alone() -> None:
    class Said(Form):
        text: str

    for text in ("He <think>hm</think> said", "```json\n{}\n```", "a\n```"):
        answer = Completion(json.dumps({"text": text}), "m", None)
        assert _parse(Said, bool, answer).text == text


@pytest.mark.parametrize("start", ["```json\n", "", "<think>", " "])
def test_an_answer_of_line_breaks_takes_no_time(start) -> None:
    """As small models end in them; patterns that try every way to part them took minutes."""
    began = time.monotonic()
    with pytest.raises(_Bad):
        _parse(Pets, bool, Completion(start + "\n" * (LONGEST_ANSWER - 20) + "x", "m", None))
    assert time.monotonic() - began < 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["cat"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["animal", "count"]), inner),
)


@given(st.text() | JSON.map(json.dumps))
@settings(max_examples=60, deadline=None)
def test_whatever_is_answered_has_the_form_or_is_refused(text) -> None:
    try:
        value = _parse(Pets, bool, Completion(text, "m", None))
    except _Bad as bad:
        assert str(bad)
    else:
        assert value.animal in ("cat", "dog") and type(value.count) is int


# --- kept answers and their cost -----------------------------------------------------------------


def test_an_answer_is_asked_for_once_and_paid_for_once(server, tmp_path) -> None:
    prices = {"price_in": 2.0, "price_out": 8.0}
    server.plays("no", GOOD)
    first = ask(server, tmp_path, **prices)
    # 2 answers of 100 and 20 tokens: 200 x 2 + 40 x 8 millionths
    assert Answers(tmp_path).spent() == Spending(2, 200, 40, pytest.approx(720e-6))
    mark = Answers(tmp_path).mark()
    assert ask(server, tmp_path, **prices, timeout=9) == first
    assert len(server.requests) == 2
    assert Answers(tmp_path).spent(mark) == Spending()
    (kept,) = tmp_path.glob("??/*.json")
    kept.write_bytes(kept.read_bytes()[:30])  # damaged: asked again
    server.plays(Reply(GOOD, usage=None))
    assert ask(server, tmp_path, **prices).tokens is None
    assert Answers(tmp_path).spent(mark) == Spending(answers=1, uncounted=1)


def test_answers_differ_by_all_that_matters() -> None:
    def name(model=None, text="How many?", value=90, size=(24, 40), form=Pets, most=50) -> str:
        named = {"base_url": "http://a/v1", "model": "m", **(model or {})}
        sent = turn(text, frame(value, *size))
        return key(ModelSettings(**named), sent, plain_schema(form), most)

    changes = [
        {"model": {"model": "n"}},
        {"model": {"temperature": 0.5}},
        {"model": {"extra": {"top_k": 1}}},
        {"text": "How  many?"},
        {"value": 91},
        {"size": (40, 24)},
        {"form": Questions},
        {"most": 51},
    ]
    assert len({name(), *(name(**change) for change in changes)}) == len(changes) + 1
    for moved in ({"base_url": "http://b/v1"}, {"timeout": 3.0}, {"price_in": 9.0}):
        assert name(model=moved) == name()


# --- prompts -------------------------------------------------------------------------------------


def test_a_changed_prompt_is_another_and_a_broken_one_is_refused(tmp_path) -> None:
    ours = load_prompt("captions_short", None, "count", "seconds")
    text = (FOLDER / "captions_short.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("at most 20 words", "at most 15 words"), encoding="utf-8")
    mine = load_prompt("captions_short", str(path), "count", "seconds")
    assert mine.version == ours.version and mine.id != ours.id
    assert "$seconds" in mine.turn(count="$seconds", seconds=2).text  # not looked into
    for old, new, reason in (
        ("$count", "$number", "number"),
        ("$count frames", "frames", "is missing"),
        ("$count", "$ count", "Invalid placeholder"),
        ("version: 1", "version: one", "version"),
    ):
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValueError, match=reason) as raised:
            load_prompt("captions_short", str(path), "count", "seconds")
        assert str(path) in str(raised.value)
