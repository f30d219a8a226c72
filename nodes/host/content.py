"""What live objects hold, as one hash: the same after a restart when all of it is the same.

Objects are described by their class and what they hold, functions by their code and what they
close over (`callables.py`), tensors by their bytes. A thing that holds what cannot be described
(an open file, a lock, memory of a C library) gets a number of this process instead.
"""

from __future__ import annotations

import copyreg
import functools
import itertools
import logging
import math
import secrets
import struct
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.weak import WeakIdKeyDictionary

from . import callables
from .digests import joined, plain, tensor_digest

MAX_DEPTH = 100
MAX_VALUES = 2_000_000

Rule = Callable[["Content", Any], bytes]
"""How objects of some class are described, instead of by all that they hold."""

_PROCESS = secrets.token_hex(16)
_SERIALS = WeakIdKeyDictionary()
_NEXT_SERIAL = itertools.count()
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_POINTER = struct.calcsize("P")
_CONTAINERS = (list, tuple, set, frozenset, dict)
_SCALARS = (int, float, complex, str, bytes)
_TOO_MUCH = "something too deep or too large to describe"


class Content:
    """One description; `reason` says afterwards what, if anything, has no lasting one.

    Args:
        rules: (class, rule) pairs; the first that an object is an instance of describes it.
        passing: names of classes ("module.Class") and of their attributes that say nothing of
            what an object does: where it lies, or how far a run has come.
    """

    def __init__(
        self,
        rules: Sequence[tuple[type, Rule]] = (),
        passing: Mapping[str, frozenset[str]] = types.MappingProxyType({}),
    ) -> None:
        self.reason = ""
        self._rules, self._passing = rules, passing
        self._where: list[str] = []
        self._left = MAX_VALUES
        # Objects by id; all are kept alive, or their ids would be given to others.
        self._alive: list[Any] = []
        self._open: dict[int, int] = {}  # being described now: how deep
        self._closed: dict[int, bytes] = {}  # described, wherever they turn up again
        self._tangled: dict[int, tuple[int, float]] = {}  # described within a loop: number, depth
        self._lowest = math.inf  # the outermost open object that the current one leads back to

    def digest(self, value: Any, name: str = "") -> bytes:
        """32 bytes; `name` is where the value was found, for the reason."""
        self._left -= 1
        simple = plain(value)
        if simple is not None:
            return joined(type(value).__name__, simple)
        self._where.append(name)
        try:
            return self._described_once(value)
        finally:
            self._where.pop()

    def facts(self, tag: str, **values: Any) -> bytes:
        """A digest of several named values."""
        parts = (part for name in values for part in (name, self.digest(values[name], name)))
        return joined(tag, *parts)

    def plain_object(self, value: Any) -> bytes:
        """An object by its class and attributes, whatever rules there are."""
        return joined("object", self.digest(type(value)), self._attributes(value))

    def know(self, value: Any, digest: bytes) -> None:
        """What describes this object, wherever it turns up from now on."""
        self._alive.append(value)
        self._closed[id(value)] = digest

    def unknown(self, value: Any, what: str, fresh: bool = False) -> bytes:
        """The digest of something that has no lasting one: the same in this process only, for
        this very object; with `fresh`, another each time."""
        if not self.reason:
            path = " › ".join(name for name in self._where if name)
            self.reason = f"{path}: {what} cannot be recognised after a restart"
        serial = secrets.token_hex(16)
        if not fresh:
            with suppress(TypeError):  # no weak reference: its id may be another's next time
                serial = str(_SERIALS.setdefault(value, next(_NEXT_SERIAL)))
        return joined("unknown", _PROCESS, serial)

    def _described_once(self, value: Any) -> bytes:
        """Objects that were described before, or that are being described, by reference.

        So a loop ends, and what is shared is described once. Copies count as much as the same
        object twice, except within loops.
        """
        key, depth = id(value), len(self._open)
        if key in self._closed:
            return self._closed[key]
        if key in self._open:
            self._lowest = min(self._lowest, self._open[key])
            return joined("loop", str(depth - self._open[key]))
        if key in self._tangled:
            number, lowest = self._tangled[key]
            self._lowest = min(self._lowest, lowest)
            return joined("again", str(len(self._alive) - number))
        if depth >= MAX_DEPTH or self._left < 0:
            return self.unknown(value, _TOO_MUCH, fresh=True)

        outer, self._lowest = self._lowest, math.inf
        number = len(self._alive)
        self._alive.append(value)
        self._open[key] = depth
        try:
            result = self._described(value)
        except RecursionError:
            result = self.unknown(value, _TOO_MUCH, fresh=True)
        except Exception as error:  # whatever a foreign object does when it is looked at
            said = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            result = self.unknown(value, f"a {_class_name(value)} ({said})", fresh=True)
        finally:
            del self._open[key]
        if self._lowest >= depth:
            self._closed[key], self._lowest = result, math.inf
        else:
            self._tangled[key] = number, self._lowest
        self._lowest = min(outer, self._lowest)
        return result

    def _described(self, value: Any) -> bytes:
        for cls, rule in self._rules:
            if isinstance(value, cls):
                return rule(self, value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(value)
        if isinstance(value, Enum):
            return joined("enum", self.digest(type(value)), self.digest([value.name, value.value]))
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        if isinstance(value, type):
            return callables.describe_class(self, value)
        if isinstance(value, callables.KINDS):
            return callables.describe_callable(self, value)
        if isinstance(value, types.ModuleType):
            version = getattr(value, "__version__", "")
            return joined("module", callables.module_name(value.__name__), str(version))
        if isinstance(value, types.MappingProxyType):
            return self.digest(dict(value))
        if isinstance(value, weakref.ref):
            return joined("reference", self.digest(value()))
        if isinstance(value, logging.Logger):
            return joined("logger", value.name)
        return self._object(value)

    def _container(self, value: Any) -> bytes:
        kind = next(base for base in _CONTAINERS if isinstance(value, base))
        if kind.__len__(value) > self._left:
            return self.unknown(value, _TOO_MUCH, fresh=True)
        if isinstance(value, dict):
            keyed = [(self.digest(key), key) for key in dict.keys(value)]
            if not isinstance(value, OrderedDict):
                keyed.sort(key=lambda pair: pair[0])
            parts = [
                part
                for digest, key in keyed
                for part in (digest, self.digest(dict.__getitem__(value, key), _short(key)))
            ]
        elif isinstance(value, (set, frozenset)):
            parts = sorted(self.digest(item) for item in kind.__iter__(value))
        else:
            items = enumerate(kind.__iter__(value))
            parts = [self.digest(item, f"[{n}]") for n, item in items]
        if type(value) is kind:
            return joined(kind.__name__, *parts)
        factory = self.digest(getattr(value, "default_factory", None))
        own = (self.digest(type(value)), self._attributes(value), factory)
        return joined("kind of", kind.__name__, *own, *parts)

    def _tensor(self, value: Tensor) -> bytes:
        if is_traceable_wrapper_subclass(value):
            inner, context = value.__tensor_flatten__()
            held = {name: getattr(value, name) for name in inner}
            return joined("tensor", self.digest(type(value)), self.digest([held, context]))
        plain = type(value) in (Tensor, torch.nn.Parameter)
        digest = tensor_digest(value if plain else value.as_subclass(Tensor))
        if digest is None:
            return self.unknown(value, f"a tensor without plain data ({value.layout})")
        if plain:
            return joined("tensor", digest)
        return joined("tensor", digest, self.digest(type(value)), self._attributes(value))

    def _array(self, value: np.ndarray | np.generic) -> bytes:
        if value.dtype.hasobject:
            return joined("array", str(value.shape), self.digest(value.tolist()))
        return joined("array", type(value).__name__, value.dtype.str, str(value.shape),
                      value.tobytes())  # fmt: skip

    def _object(self, value: Any) -> bytes:
        base = _layout(type(value))
        if base is object:
            return self.plain_object(value)
        if base in _SCALARS:
            scalar = self.digest(base.__getnewargs__(value)[0])
            return joined("kind of", scalar, self.plain_object(value))
        return self._reduced(value)

    def _attributes(self, value: Any) -> bytes:
        held = {**_slots(value), **getattr(value, "__dict__", {})}
        classes = type(value).__mro__
        for cls in classes:
            for name in self._passing.get(f"{cls.__module__}.{cls.__qualname__}", ()):
                held.pop(name, None)
        names = (name for name in held if not _computed(classes, name))
        ordered = sorted(names, key=str)
        parts = (part for n in ordered for part in (str(n), self.digest(held[n], str(n))))
        return joined("attributes", *parts)

    def _reduced(self, value: Any) -> bytes:
        """Objects of C, as they describe themselves for copying; those that hold what only the
        system knows refuse it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reduce = copyreg.dispatch_table.get(type(value))
                described = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception:  # whatever an object says to that
            return self.unknown(value, f"a {_class_name(value)}")
        if isinstance(described, str):
            wrapped = self.digest(getattr(value, "__wrapped__", None))
            return joined("named", self.digest(type(value)), described, wrapped)
        parts = [list(part) if n >= 3 and part else part for n, part in enumerate(described[:5])]
        return joined("reduced", self.digest(type(value)), self.digest(parts))


def _short(key: Any) -> str:
    return key if isinstance(key, str) else f"[{repr(key)[:40]}]"


def _class_name(value: Any) -> str:
    return f"{callables.module_name(type(value).__module__)}.{type(value).__qualname__}"


def _layout(cls: type) -> type:
    """The class that decides what an object's memory holds; `object` when that is nothing but its
    attributes. As the standard library finds it for copying."""
    for base in cls.__mro__:
        new = base.__dict__.get("__new__")
        of_c = isinstance(new, types.BuiltinFunctionType) and new.__self__ is base
        if of_c or not base.__flags__ & _HEAP_TYPE:
            break
    if base is not object:
        return base
    pointers = len(copyreg._slotnames(cls)) + (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0)
    hidden = cls.__basicsize__ > object.__basicsize__ + pointers * _POINTER
    return cls if hidden else object


def _slots(value: Any) -> dict[str, Any]:
    names = copyreg._slotnames(type(value))
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _computed(classes: Iterable[type], name: Any) -> bool:
    """Whether an attribute is what a cached property remembers of the others."""
    found = next((vars(cls)[name] for cls in classes if name in vars(cls)), None)
    return isinstance(found, functools.cached_property)
