"""Fingerprints of values: equal for equal content, different for other, honest about the rest."""

from __future__ import annotations

import collections
import copy
import datetime
import functools
import io
import re
import socket
import sys
import threading
import types
from enum import Flag, IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ComfyUI_STIV.nodes.host.fingerprint import Fingerprint, fingerprint
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nodes.fingerprints import Patch, Setting, digest, values

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.binary(max_size=8) | st.complex_numbers(allow_nan=False)
)  # fmt: skip
keys = scalars | st.tuples(scalars, scalars)
plain_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4) | st.frozensets(keys, max_size=4)
        | st.builds(Setting, st.text(max_size=3), st.lists(st.floats(), max_size=2).map(tuple))
    ),
    max_leaves=12,
)  # fmt: skip


def exact(value: Any) -> Any:
    """As Python's `==`, but telling 1 from 1.0 and True, and 0.0 from -0.0."""
    if isinstance(value, (list, tuple)):
        return type(value), [exact(item) for item in value]
    if isinstance(value, frozenset):
        return frozenset, frozenset(map(exact_key, value))
    if isinstance(value, dict):
        return dict, {exact_key(key): exact(item) for key, item in value.items()}
    if isinstance(value, Setting):
        return Setting, exact(value.name), exact(value.values)
    return type(value), repr(value)


def exact_key(key: Any) -> Any:
    return type(key), tuple(map(exact_key, key)) if isinstance(key, tuple) else repr(key)


@settings(max_examples=300, deadline=None)
@given(plain_values)
def test_equal_values_have_equal_digests(value: Any) -> None:
    assert digest(value) == digest(copy.deepcopy(value))
    assert digest([value, value]) == digest([value, copy.deepcopy(value)])
    if isinstance(value, dict):
        assert digest(dict(reversed(value.items()))) == digest(value)


@settings(max_examples=300, deadline=None)
@given(plain_values, plain_values)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (exact(one) == exact(other))


@settings(max_examples=100, deadline=None)
@given(st.data(), plain_values)
def test_a_value_inside_counts(data: st.DataObject, value: Any) -> None:
    other = data.draw(plain_values)
    for wrap in (
        lambda x: [x], lambda x: {"a": x}, Patch, lambda x: functools.partial(max, x),
        lambda x: (lambda: x), lambda x: (lambda held=x: held),
        lambda x: types.SimpleNamespace(x=x),
    ):  # fmt: skip
        assert (digest(wrap(value)) == digest(wrap(other))) == (exact(value) == exact(other))


def test_values_made_anew() -> None:
    first, again = values(), values()
    assert {name: digest(value) for name, value in first.items()} == {
        name: digest(value) for name, value in again.items()
    }
    assert len({digest(value) for value in first.values()}) == len(first)


# Tensors

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
          torch.float8_e5m2, torch.int64, torch.uint8, torch.bool, torch.complex64)  # fmt: skip


def test_dtypes_shapes_and_bytes() -> None:
    tensors = [torch.zeros(4, dtype=dtype) for dtype in DTYPES]
    tensors += [torch.zeros(shape) for shape in ((), (1,), (2, 2), (4, 1), (1, 4), (0,), (0, 2))]
    tensors += [torch.tensor([0.0, 0.0, 0.0, -0.0]), torch.tensor([0.0, 0.0, 0.0, 1e-45])]
    assert len({digest(tensor) for tensor in tensors}) == len(tensors)


def test_strides_do_not_count() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    for view in (whole.t(), whole[1:, ::2], whole[0], whole.expand(2, 4, 6)):
        assert digest(view) == digest(view.contiguous()) == digest(view.clone())
    conjugate = torch.tensor([1 + 2j]).conj()
    assert conjugate.is_conj() and digest(conjugate) == digest(conjugate.resolve_conj())
    assert digest(torch.nn.Parameter(whole)) == digest(whole)


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float64], ids=str)
def test_large_tensors_are_remembered_while_they_stay_the_same(
    dtype: torch.dtype, offset: int
) -> None:
    big = torch.zeros(1_200_000 + offset).to(dtype)[offset:]
    before = digest(big)
    assert digest(big) == before == digest(big.clone())
    as_bytes = big.view(torch.uint8)
    for position in (0, 5, 8 * 1021, len(as_bytes) - 1):
        as_bytes[position] = 1
        assert digest(big) == digest(big.clone()) != before
        before = digest(big)


def test_a_quantised_weight_of_the_host() -> None:
    from comfy.quant_ops import QuantizedTensor

    def quantised(scale: float) -> Any:
        return QuantizedTensor.from_float(torch.arange(32.0).reshape(4, 8) * scale,
                                          "TensorCoreFP8Layout")  # fmt: skip

    assert digest(quantised(1.0)) == digest(quantised(1.0))
    # The same eight-bit numbers: the scale beside them tells these two apart.
    assert digest(quantised(1.0)) != digest(quantised(2.0))


def test_arrays() -> None:
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.float64(0), 0.0,
              np.array([None, "x"], dtype=object), np.arange(4.0)[::-1]]  # fmt: skip
    assert len({digest(array) for array in arrays}) == len(arrays)
    assert digest(np.arange(4.0)[::-1]) == digest(np.array([3.0, 2.0, 1.0, 0.0]))


def test_modules() -> None:
    def module(weight: float, buffer: float = 1.0, inner: type = torch.nn.SiLU) -> Any:
        made = torch.nn.Sequential(torch.nn.Linear(2, 2), inner())
        for parameter in made.parameters():
            torch.nn.init.constant_(parameter, weight)
        made.register_buffer("scale", torch.tensor(buffer), persistent=False)
        return made

    assert digest(module(0.5)) == digest(module(0.5))
    others = [
        module(0.6),
        module(0.5, 2.0),
        module(0.5, inner=torch.nn.GELU),
        module(0.5).train(False),
    ]
    assert len({digest(module(0.5)), *map(digest, others)}) == 5
    placed = module(0.5)
    placed[0].weight_function, placed[0].comfy_cast_weights = [lambda x: x], True
    assert digest(placed) == digest(module(0.5)), "where the host put it says nothing"


# Objects


class Level(IntEnum):
    LOW = 1


class Part(Flag):
    A = 1
    B = 2


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any):
        self.a = a


class Kind(dict):
    pass


class Word(str):
    pass


def test_objects_of_other_kinds() -> None:
    things = [
        1, Level.LOW, Part.A, Part.A | Part.B, Slotted(1), Slotted(2), Patch(1), Patch(2), Kind(),
        {}, Kind(a=1), "x", Word("x"), collections.OrderedDict(a=1, b=2),
        collections.OrderedDict(b=2, a=1), collections.deque([1]), collections.deque([1], 3),
        collections.defaultdict(list), collections.defaultdict(set), re.compile("a"),
        re.compile("a", re.I), datetime.date(2020, 1, 1), datetime.date(2020, 1, 2), range(3),
        range(4), slice(3), Path("a"), Path("b"), types.SimpleNamespace(a=1), Exception("a"),
        np.random.default_rng(1), np.random.default_rng(2), threading, types, torch.Size([1]), [1],
        (1,), {1}, frozenset([1]), bytearray(b"a"), b"a", "a", io.BytesIO(b"a"), list[int],
    ]  # fmt: skip
    assert len({digest(thing) for thing in things}) == len(things)
    for thing in things:
        if not isinstance(thing, types.ModuleType):
            assert digest(thing) == digest(copy.deepcopy(thing)), thing


def test_what_is_computed_from_the_rest_does_not_count() -> None:
    setting, fresh = Setting("x", (1.0, 2.0)), Setting("x", (1.0, 2.0))
    assert setting.total == 3.0 and "total" in vars(setting)
    assert digest(setting) == digest(fresh)


def test_loops() -> None:
    def ring(*values: int) -> list:
        nodes = [[value] for value in values]
        for node, following in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            node.append(following)
        return nodes[0]

    assert digest(ring(1, 2, 3)) == digest(ring(1, 2, 3))
    assert len({digest(ring(1, 2, 3)), digest(ring(1, 3, 2)), digest(ring(1, 2))}) == 3

    def tangle(last: int) -> list:
        """Everyone knows everyone."""
        people = [Patch(n) for n in range(30)]
        people[-1].scale = last
        for one in people:
            one.more = list(people)
        return people

    assert digest(tangle(5)) == digest(tangle(5)) != digest(tangle(6))


def test_too_deep_or_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    from ComfyUI_STIV.nodes.host import content

    monkeypatch.setattr(content, "MAX_VALUES", 1000)
    for value in (deep, list(range(2000)), [[[1]] for _ in range(900)], set(range(2000))):
        first, again = fingerprint(value), fingerprint(value)
        assert not first.lasting and "too deep or too large" in first.reason
        assert first.digest != again.digest, "it may have changed unseen"
    assert digest(list(range(900)))


def test_an_object_that_fails_when_looked_at() -> None:
    class Bad:
        @property
        def __dict__(self) -> dict:
            raise OSError("gone\nfor good")

    taken = fingerprint([Bad()])
    assert not taken.lasting and "OSError: gone" in taken.reason and "\n" not in taken.reason


def opened() -> Any:
    return Path(__file__).open()


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock, threading.RLock, threading.Event, socket.socket,
        opened, lambda: (n for n in ()), lambda: memoryview(b"a"),
        lambda: torch.zeros(2, device="meta"), lambda: torch.eye(2).to_sparse(),
        lambda: types.SimpleNamespace(file=opened()), lambda: sys._getframe(),
    ],
)  # fmt: skip
def test_what_has_no_lasting_digest(make: Any) -> None:
    thing, other = make(), make()
    taken = fingerprint({"held": thing})
    assert not taken.lasting and taken.reason.startswith("value › held")
    assert taken.reason.endswith("cannot be recognised after a restart")
    assert "\n" not in taken.reason
    assert fingerprint({"held": other}).digest != taken.digest
    if not isinstance(thing, types.FrameType):
        assert fingerprint({"held": thing}) == taken
    with_seed = [fingerprint({"held": thing, "seed": seed}).digest for seed in (1, 2)]
    assert with_seed[0] != with_seed[1]


def test_fingerprints_inside() -> None:
    assert digest(Fingerprint("ab" * 32, True)) != digest(Fingerprint("cd" * 32, True))
