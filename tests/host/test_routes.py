"""The pack's routes on the real server: right answers, clear refusals, nothing changed."""

from __future__ import annotations

import base64
import json
import random
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from scripts.host import LOCAL, ComfyServer
from scripts.prepare import ROOT
from stiv.checkpoint import read_card
from stiv.plan import hierarchy
from stiv.plan_view import plan_view
from tests.host.test_long_video import hierarchy as hierarchy_node

NANO = "stiv_nano (bundled)"
SECRET = "not_a_model.safetensors"
PART = 7000


@pytest.fixture(scope="module")
def models(server: ComfyServer) -> Iterator[Path]:
    """The server's models, with files that are no STIV models, and one outside of them."""
    folder = server.base / "models"
    for name in ("checkpoints", "diffusion_models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    checkpoints = folder / "checkpoints"
    save_file({"a.weight": torch.zeros(2, 2)}, checkpoints / "foreign.safetensors")
    (checkpoints / "broken.safetensors").write_bytes(b"<!DOCTYPE html>" + b"x" * 100)
    (checkpoints / "text.txt").write_text("{}")
    (folder / SECRET).write_bytes((ROOT / "models" / "stiv_nano.safetensors").read_bytes())
    yield folder
    for path in [*checkpoints.iterdir(), folder / SECRET]:
        path.unlink()


def ask(
    server: ComfyServer, path: str, method: str = "GET", inputs: str = "", **query: str
) -> tuple[int, Any]:
    """The status and the JSON of an answer; inputs are packed."""
    url = f"{server.url}{path}?{urllib.parse.urlencode(query)}"
    parts = [inputs[at : at + PART] for at in range(0, len(inputs), PART)]
    headers = {f"STIV-Inputs-{number}": part for number, part in enumerate(parts)}
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with LOCAL.open(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        body = error.read()
        is_json = error.headers.get_content_type() == "application/json"
        return error.code, json.loads(body) if is_json else body


def pack(inputs: Any) -> str:
    text = inputs if isinstance(inputs, bytes) else json.dumps(inputs).encode()
    return base64.urlsafe_b64encode(zlib.compress(text)).decode().rstrip("=")


def test_the_card_of_the_bundled_model(server: ComfyServer) -> None:
    status, found = ask(server, "/stiv/card", folder="checkpoints", name=NANO)
    card = read_card(ROOT / "models" / "stiv_nano.safetensors")
    assert status == 200
    assert found["title"] == card.modelspec["title"]
    assert found["parameters"] == card.parameters
    assert found["tensor_hash"] == card.tensor_hash
    assert [task["task"] for task in found["tasks"]] == [task["task"] for task in card.tasks]
    assert found["inside"] == ["text_encoder", "vae"]
    assert "vocab" not in found["text"]
    assert ask(server, "/api/stiv/card", folder="checkpoints", name=NANO) == (200, found)


@pytest.mark.parametrize(
    ("folder", "name", "status"),
    [
        ("checkpoints", "absent.safetensors", 404),
        ("checkpoints", f"../{SECRET}", 404),
        ("checkpoints", f"..\\{SECRET}", 404),
        ("checkpoints", "/etc/passwd", 404),
        ("checkpoints", "a\0b.safetensors", 404),
        ("checkpoints", "text.txt", 404),
        ("checkpoints", "x" * 3000 + ".safetensors", 404),
        ("diffusion_models", NANO, 404),
        ("checkpoints", "foreign.safetensors", 400),
        ("checkpoints", "broken.safetensors", 400),
        ("output", "foreign.safetensors", 400),
        ("../models/checkpoints", "foreign.safetensors", 400),
        ("", "", 400),
    ],
)
def test_a_card_that_cannot_be(
    folder: str, name: str, status: int, server: ComfyServer, models: Path
) -> None:
    found, answer = ask(server, "/stiv/card", folder=folder, name=name)
    assert (found, list(answer)) == (status, ["error"])
    assert "\n" not in answer["error"] and len(answer["error"]) <= 1000
    assert str(models) not in answer["error"]


def test_a_plan_is_the_one_that_the_node_makes(server: ComfyServer) -> None:
    (inputs,) = hierarchy_node(prompts="a\n2: 一个圆", seeds="key: 7").values()
    found = ask(server, "/stiv/plan", node="STIVLongVideoPlan", inputs=pack(inputs))
    plan = plan_view(hierarchy(**inputs))
    assert found == (200, {"plan": json.loads(json.dumps(plan))})


def test_long_prompts_are_planned_with(server: ComfyServer) -> None:
    lines = [f"{number}: {random.Random(number).randbytes(400).hex()}" for number in range(60)]
    values = {"key_frames": 61, "stride": 5, "fps": 8.0, "width": 64, "height": 64}
    inputs = values | {"prompts": "\n".join(lines)}
    assert 4 * PART < len(pack(inputs)) < 8 * PART
    _, found = ask(server, "/stiv/plan", node="STIVLongVideoPlan", inputs=pack(inputs))
    assert found == {"plan": json.loads(json.dumps(plan_view(hierarchy(**inputs))))}


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("STIVLongVideoPlan", {}, "cannot be made"),
        ("STIVLongVideoPlan", {"__class__": 1}, "__class__"),
        ("STIVPredictionPlan", {"frames": 10**30, "fps": 8, "width": 64, "height": 64}, "frames"),
        ("STIVInterpolationPlan", {"factor": "3"}, "cannot be made"),
        ("STIVLoadModel", {}, "node is 'STIVLoadModel'"),
        ("", {}, "node is ''"),
    ],
)
def test_a_plan_that_cannot_be(node: str, inputs: Any, message: str, server: ComfyServer) -> None:
    status, answer = ask(server, "/stiv/plan", node=node, inputs=pack(inputs))
    assert (status, list(answer)) == (200, ["error"])
    assert message in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "expected a table"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"a": "' + b"x" * 500_000 + b'"}', "longer than"),
        (b"\xff\xfe", "unpacked"),
        (b"[" + b"1," * 120_000 + b"1]", "more than"),
    ],
)
def test_inputs_that_are_refused(inputs: Any, message: str, server: ComfyServer) -> None:
    status, answer = ask(server, "/stiv/plan", node="STIVLongVideoPlan", inputs=pack(inputs))
    assert (status, list(answer)) == (400, ["error"])
    assert message in answer["error"]


@pytest.mark.parametrize("packed", ["", "!", "AAAA", pack({})[:-4], "x" * 7000])
def test_inputs_that_are_no_packed_table(packed: str, server: ComfyServer) -> None:
    status, answer = ask(server, "/stiv/plan", node="STIVLongVideoPlan", inputs=packed)
    assert (status, list(answer)) == (400, ["error"])


def test_a_huge_query_is_refused_and_the_server_goes_on(server: ComfyServer) -> None:
    assert 400 <= ask(server, "/stiv/plan", node="x" * 100_000)[0] < 500
    status, _ = ask(server, "/stiv/plan", node="STIVLongVideoPlan", inputs="x" * 200_000)
    assert 400 <= status < 500
    assert ask(server, "/stiv/card", folder="checkpoints", name=NANO)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/stiv/card", "/stiv/plan", "/stiv/other"])
def test_only_questions_are_answered(path: str, method: str, server: ComfyServer) -> None:
    assert ask(server, path, method)[0] in (404, 405)


def test_questions_change_nothing_on_the_disk(server: ComfyServer, models: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        folders = ("models", "user", "output", "temp", "input")
        files = [path for name in folders for path in (server.base / name).rglob("*")]
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.is_file()}

    before = state()
    (inputs,) = hierarchy_node(seed=991).values()
    ask(server, "/stiv/plan", node="STIVLongVideoPlan", inputs=pack(inputs))
    ask(server, "/stiv/card", folder="checkpoints", name="foreign.safetensors")
    ask(server, "/stiv/card", folder="checkpoints", name=NANO)
    assert state() == before
