"""Functions and classes by name and code, for `content.py`.

What the standard library, torch, the host and this pack do is known by name: their versions are
stated elsewhere, where they matter. Other packs are told by their code, together with the
functions and constants that it leads to: an update of a pack is another function.
"""

from __future__ import annotations

import dis
import functools
import re
import sys
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from .digests import is_plain, joined

if TYPE_CHECKING:
    from .content import Content

KINDS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.CodeType,
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
)

_OWN, _OURS = __package__.rsplit(".", 2)[0], "comfyui-stiv"
_VERSIONED = frozenset((
    *(sys.stdlib_module_names - {"__main__"}), "torch", "torchvision", "torchaudio", "numpy",
    "einops", "safetensors", "comfy", "comfy_api", "comfy_extras", "comfy_execution",
    "comfy_kitchen", "nodes", "node_helpers", "folder_paths", "execution", "server",
))  # fmt: skip
_MAX_HELPERS = 1000

# What functions had in the variables that they themselves write to, when first seen.
_FIRST_SEEN: WeakKeyDictionary[types.FunctionType, bytes] = WeakKeyDictionary()


def module_name(name: str) -> str:
    """A module's name without the folders that the host puts before those of its packs."""
    if name == _OWN or name.startswith(_OWN + "."):
        return _OURS + name[len(_OWN) :]
    return re.split(r"[\\/]", name)[-1]


def describe_class(content: Content, cls: type) -> bytes:
    """A class by its name and bases; with its code where that is not known by name."""
    parts = [_name(cls), *(content.digest(base) for base in cls.__bases__ if base is not object)]
    for name, member in () if _versioned(cls) else sorted(vars(cls).items()):
        if isinstance(member, KINDS):
            parts += [name, content.digest(member, name)]
        elif is_plain(member) and not name.startswith("__"):
            parts += [name, content.digest(member)]
    return joined("class", *parts)


def describe_callable(content: Content, value: Any) -> bytes:
    """A function, method or what Python makes of them in a class."""
    if isinstance(value, types.FunctionType):
        return _function(content, value)
    if isinstance(value, types.MethodType):
        held = (content.digest(value.__func__), content.digest(value.__self__, "self"))
        return joined("method", *held)
    if isinstance(value, types.CodeType):
        return joined("code", _code(value))
    if isinstance(value, (staticmethod, classmethod)):
        return joined(type(value).__name__, content.digest(value.__func__))
    if isinstance(value, functools.cached_property):
        return joined("property", content.digest(value.func))
    if isinstance(value, property):
        return joined("property", *map(content.digest, (value.fget, value.fset, value.fdel)))
    owner = getattr(value, "__self__", None)
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    named = getattr(module, value.__name__, None) is value
    if owner is None or named or isinstance(owner, types.ModuleType):
        return joined("builtin", _name(value))
    return joined("builtin of", value.__name__, content.digest(owner, "self"))


def _function(content: Content, function: types.FunctionType) -> bytes:
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    state = _uses(code).written & cells.keys()
    parts: list[str | bytes] = [_name(function)]
    parts.append(content.digest([function.__defaults__, function.__kwdefaults__], "default"))
    parts.append(content.digest(vars(function)))
    for name in sorted(cells.keys() - state):
        parts += [name, content.digest(_inside(cells[name]), name)]
    if state:
        # A run leaves other values there than it found, and the next begins anew with them.
        parts.append(_first_seen(content, function, {n: _inside(cells[n]) for n in state}))
    if not _versioned(function):
        parts += [_code(code), *_helpers(content, function)]
    elif "<" in function.__qualname__:  # <lambda>, <locals>: several may have this name
        parts.append(_code(code))
    return joined("function", *parts)


def _first_seen(content: Content, function: types.FunctionType, held: dict[str, Any]) -> bytes:
    if function in _FIRST_SEEN:
        return _FIRST_SEEN[function]
    digest = content.digest(held)
    if not content.reason:  # which must be told the next time too
        _FIRST_SEEN[function] = digest
    return digest


def _helpers(content: Content, function: types.FunctionType) -> Iterator[str | bytes]:
    """The code of the functions that one leads to by name, and the constants of all of them."""
    waiting, seen = [function], {id(function)}
    while waiting:
        current = waiting.pop()
        for name in sorted(_uses(current.__code__).names):
            value = current.__globals__.get(name)
            if is_plain(value) and name in current.__globals__:
                yield from (name, content.digest(value))
            if not isinstance(value, types.FunctionType) or id(value) in seen:
                continue
            if not _versioned(value) and len(seen) < _MAX_HELPERS:
                seen.add(id(value))
                waiting.append(value)
                yield from (_name(value), _code(value.__code__))


class _Uses(NamedTuple):
    names: frozenset[str]
    """Of globals that are read and not written."""
    written: frozenset[str]
    """Of variables of an enclosing function that are written."""


@functools.lru_cache(maxsize=4096)
def _uses(code: types.CodeType) -> _Uses:
    names, stored, written = set(), set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(step.argval)
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            stored.add(step.argval)
        elif step.opname in ("STORE_DEREF", "DELETE_DEREF"):
            written.add(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= _uses(inner).names
            written |= _uses(inner).written
    return _Uses(frozenset(names - stored), frozenset(written & set(code.co_freevars)))


@functools.lru_cache(maxsize=4096)
def _code(code: types.CodeType) -> bytes:
    """What a function does, wherever it stands in its file."""
    numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    table = getattr(code, "co_exceptiontable", b"")
    return joined(repr(numbers), repr(names), code.co_code, table, _constant(code.co_consts))


def _constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return joined("tuple", *map(_constant, value))
    if isinstance(value, frozenset):
        return joined("frozenset", *sorted(map(_constant, value)))
    return joined(type(value).__name__, repr(value))


def _inside(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _versioned(value: type | types.FunctionType) -> bool:
    """Whether its name says what it does."""
    module = value.__module__ or ""
    return module_name(module).partition(".")[0] in (_OURS, *_VERSIONED)


def _name(value: Any) -> str:
    owner = getattr(value, "__objclass__", None)
    module = getattr(value, "__module__", None) or getattr(owner, "__module__", None) or ""
    return f"{module_name(module)}:{value.__qualname__}"
