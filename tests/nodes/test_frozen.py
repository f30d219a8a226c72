"""Workflows are shared as JSON, with widget values by their place: what was shipped stays there.

`tests/data/sockets.json` records it. A new widget comes last, with a default, and is added to the
record when it is shipped; nothing in the record is changed or removed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from comfy_api.latest import io

from scripts.prepare import ROOT
from tests.nodes import tiny

RECORD = json.loads((ROOT / "tests" / "data" / "sockets.json").read_text(encoding="utf-8"))


def sockets(node: type[io.ComfyNode]) -> dict[str, Any]:
    """What a workflow's JSON knows of a node."""
    schema = node.GET_SCHEMA()
    widgets = [socket for socket in schema.inputs if isinstance(socket, io.WidgetInput)]
    wires = [socket for socket in schema.inputs if not isinstance(socket, io.WidgetInput)]
    return {
        "widgets": [socket.id for socket in widgets],
        "inputs": {socket.id: socket.get_io_type() for socket in wires},
        "outputs": [socket.get_io_type() for socket in schema.outputs],
    }


def test_every_node_is_recorded() -> None:
    assert sorted(RECORD) == sorted(tiny.SHOWN)


@pytest.mark.parametrize("name", sorted(RECORD))
def test_what_was_shipped_stays_where_it_was(name: str) -> None:
    recorded, now = RECORD[name], sockets(tiny.SHOWN[name])
    assert now["widgets"][: len(recorded["widgets"])] == recorded["widgets"]
    assert now["outputs"][: len(recorded["outputs"])] == recorded["outputs"]
    assert recorded["inputs"].items() <= now["inputs"].items()


@pytest.mark.parametrize("name", sorted(RECORD))
def test_what_came_later_may_be_left_out(name: str) -> None:
    recorded = RECORD[name]
    for socket in tiny.SHOWN[name].GET_SCHEMA().inputs:
        if isinstance(socket, io.WidgetInput) and socket.id not in recorded["widgets"]:
            assert socket.default is not None or socket.optional
        elif socket.id not in {*recorded["widgets"], *recorded["inputs"]}:
            assert socket.optional
