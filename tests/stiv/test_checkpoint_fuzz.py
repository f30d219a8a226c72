"""Files that are broken at random: read, or refused in one line, and never at a cost."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stiv.checkpoint import write_checkpoint
from stiv.header import parse_json
from tests.stiv.bad_files import CARD, edited, only_refuses, packed, tensors


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    write_checkpoint(path, CARD, tensors())
    return path, path.read_bytes()


fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@fuzz
@given(content=st.binary(max_size=300))
def test_fuzz_random_bytes(scratch: tuple[Path, bytes], content: bytes) -> None:
    only_refuses(scratch[0], content)


@fuzz
@given(header=json_values | st.dictionaries(st.text(max_size=4), json_values))
def test_fuzz_random_headers(scratch: tuple[Path, bytes], header: object) -> None:
    only_refuses(scratch[0], packed(header))


@fuzz
@given(data=st.data())
def test_fuzz_flipped_bytes(scratch: tuple[Path, bytes], data: st.DataObject) -> None:
    path, good = scratch
    content = bytearray(good)
    places = st.integers(0, 8 + struct.unpack("<Q", good[:8])[0])
    for place, byte in data.draw(
        st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[place] = byte
    only_refuses(path, bytes(content))


@fuzz
@given(data=st.data())
def test_fuzz_changed_values(scratch: tuple[Path, bytes], data: st.DataObject) -> None:
    """Valid JSON whose entries and metadata say something else."""
    path, good = scratch

    def edit(table: dict) -> None:
        names = [name for name in table if name != "__metadata__"]
        name, value = data.draw(st.sampled_from(names)), data.draw(json_values)
        action = data.draw(st.sampled_from(["entry", "field", "metadata", "nested", "drop"]))
        metadata = table["__metadata__"]
        key = data.draw(st.sampled_from(sorted(metadata)))
        if action == "entry":
            table[name] = value
        elif action == "field":
            table[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = value
        elif action == "metadata":
            metadata[key] = data.draw(st.just(json.dumps(value)) | st.text(max_size=20))
        elif action == "nested":
            key = data.draw(st.sampled_from(["stiv.config", "stiv.latents", "stiv.text"]))
            inner = json.loads(metadata[key])
            inner[data.draw(st.sampled_from(sorted(inner)))] = value
            metadata[key] = json.dumps(inner)
        else:
            del metadata[key]

    only_refuses(path, edited(good, edit))


@given(text=st.text(max_size=100) | json_values.map(json.dumps))
def test_fuzz_json(text: str) -> None:
    try:
        parse_json(text)
    except ValueError:
        return
