"""Fingerprints of functions, methods and classes: by their code and what it uses."""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from ComfyUI_STIV.nodes.host import callables

from tests.nodes.fingerprints import Patch, closing_over, digest


def in_module(source: str, name: str = "their_pack.nodes") -> dict[str, Any]:
    """What a custom node's file defines, imported under the name that the host gives it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nodes.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return vars(module)


PACK = """
{extra}
SCALE = {scale}

def helper(x):
    return x {sign} SCALE

class Base:
    def shared(self, x):
        return x {sign} 3

class Patch(Base):
    factor = {factor}
    def __call__(self, args):
        return helper(args)

def patch(args):
    return helper(args)

def make(x):
    def inner(args, y={default}):
        return helper(args) * x
    return inner

method = Patch().__call__
instance = Patch()
closure = make({closed})
"""
SETTINGS = {"extra": "", "scale": 2, "sign": "+", "factor": 1, "default": 1, "closed": 1}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"extra": "# a comment\n\n\n"}, ""),
        ({"scale": 3}, "method instance patch closure"),
        ({"sign": "-"}, "method instance patch closure"),
        ({"factor": 2}, "method instance"),
        ({"default": 2}, "closure"),
        ({"closed": 2}, "closure"),
    ],
    ids=str,
)
def test_an_update_of_a_pack(change: dict[str, Any], changed: str) -> None:
    """Code, helpers, constants and bases count; comments and line numbers do not."""
    before, after = in_module(PACK.format(**SETTINGS)), in_module(PACK.format(**SETTINGS | change))
    names = ("method", "instance", "patch", "closure")
    assert [n for n in names if digest(before[n]) != digest(after[n])] == [
        n for n in names if n in changed
    ]


def test_lambdas_of_one_place_are_told_apart() -> None:
    made = [lambda x: x + 1, lambda x: x - 1, lambda x: x + 1.0, lambda x, y=1: x + 1,
            lambda y: y + 1, lambda x: x + True]  # fmt: skip
    assert len({digest(one) for one in made}) == len(made)


@pytest.mark.parametrize("module", ["their_pack", "comfy.somewhere", callables.__name__])
def test_functions_of_one_name_are_told_apart(module: str) -> None:
    """Also where names are known: a VAE's `lambda` for its input is another in each kind of VAE."""
    make = in_module("def make(kind):\n    if kind:\n        return lambda x: x\n"
                     "    return lambda x: -x\n", module)["make"]  # fmt: skip
    assert digest(make(True)) == digest(make(True)) != digest(make(False))


def test_what_a_function_remembers_of_a_run() -> None:
    """As the host's APG does: a run leaves a mean where the next one begins anew."""

    def guidance(momentum: float, start: float = 0.0) -> Any:
        mean = start

        def patch(x: float) -> float:
            nonlocal mean
            mean = momentum * mean + x
            return mean

        return patch

    first = guidance(0.5)
    before = digest(first)
    assert first(3.0) == 3.0
    assert digest(first) == before == digest(guidance(0.5))
    assert len({before, digest(guidance(0.6)), digest(guidance(0.5, 1.0))}) == 3


def test_a_counter_of_a_module_does_not_count() -> None:
    table = in_module("calls = 0\ndef patch(x):\n    global calls\n    calls += 1\n    return x\n")
    before = digest(table["patch"])
    table["patch"](1)
    assert digest(table["patch"]) == before


def test_where_a_pack_lies_does_not_count() -> None:
    source = "def patch(x):\n    return x\n"
    places = [
        "ComfyUI/custom_nodes/Pack_x_1.nodes",
        r"elsewhere\custom_nodes\Pack_x_1.nodes",
    ]
    one, other = (in_module(source, place)["patch"] for place in places)
    assert digest(one) == digest(other) != digest(in_module(source, "Pack_x_2.nodes")["patch"])
    assert callables.module_name(callables.__name__) == "comfyui-stiv.nodes.host.callables"


def test_methods_are_of_their_objects() -> None:
    assert digest(Patch(1).apply) == digest(Patch(1).apply)
    assert len({digest(Patch(1).apply), digest(Patch(2).apply), digest(Patch.apply)}) == 3
    assert digest([1].append) != digest([2].append)
    assert digest(closing_over(1)) != digest(closing_over(2))


def test_classes_made_in_functions() -> None:
    """As the host makes its sampling classes: the bases tell them apart."""

    def made(base: type) -> Any:
        class Sampling(base):
            pass

        return Sampling()

    assert digest(made(torch.nn.ReLU)) == digest(made(torch.nn.ReLU)) != digest(made(torch.nn.SiLU))
    enum = Enum("Colour", "RED BLUE")
    assert digest(enum.RED) != digest(enum.BLUE)

    @dataclasses.dataclass
    class Point:
        x: float

    assert digest(Point(1.0)) == digest(Point(1.0)) != digest(Point(2.0))
