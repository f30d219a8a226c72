"""The keys of a recipe as text, from the models that check them."""

from __future__ import annotations

import json
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_WIDTH = 100


def describe(model: type[BaseModel]) -> str:
    """Every key of a pydantic model, with its type, default, bounds and description.

    Keys of sections are indented; a list of sections is shown by its first entry, after a dash.
    """
    return "\n".join(_lines(model, 0))


def _lines(model: type[BaseModel], depth: int) -> Iterator[str]:
    for name, field in model.model_fields.items():
        section, is_list = _section(field.annotation)
        pad = "  " * depth
        if section is None:
            yield from _entry(pad + name, _facts(field), field.description, depth)
            continue
        summary = field.description or _first_line(section)
        optional = ", optional" if field.default is None else ""
        kind = "(list of sections)" if is_list else f"(section{optional})"
        yield from _entry(f"{pad}{name}:", kind, summary, depth)
        inner = list(_lines(section, depth + 1 + is_list))
        if is_list and inner:
            dash = "  " * (depth + 1) + "- "
            inner[0] = dash + inner[0].lstrip()
        yield from inner


def _entry(name: str, facts: str, text: str | None, depth: int) -> Iterator[str]:
    yield f"{name}  {facts}"
    if text:
        pad = "  " * depth + "      "
        yield from textwrap.wrap(text, _WIDTH, initial_indent=pad, subsequent_indent=pad)


def _facts(field: FieldInfo) -> str:
    if field.is_required():
        default = "required"
    else:
        value = field.default
        if value is PydanticUndefined and field.default_factory is not None:
            value = field.default_factory()
        default = f"default {_plain(value)}"
    bounds = _bounds(field.metadata)
    return f"({', '.join(filter(None, (_type(field.annotation), bounds, default)))})"


def _bounds(metadata: list[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(part, name)}"
        for part in metadata
        for name, sign in signs.items()
        if getattr(part, name, None) is not None
    ]
    return " and ".join(found)


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a key holds, if it does, and whether it holds a list of them."""
    for part in _options(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, False
        if get_origin(part) is list and (args := get_args(part)):
            inner, _ = _section(args[0])
            if inner is not None:
                return inner, True
    return None, False


def _options(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for option in get_args(annotation) for part in _options(option))
    return (annotation,)


def _type(annotation: Any) -> str:
    options = _options(annotation)
    if len(options) > 1:
        return " or ".join(map(_type, options))
    (one,) = options
    origin, args = get_origin(one), get_args(one)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is dict:
        return f"mapping of {_type(args[0])} to {_type(args[1])}" if args else "mapping"
    if origin in (list, tuple):
        return f"list of {_type(args[0])}" if args else "list"
    names = {str: "text", bool: "true | false", int: "whole number", float: "number"}
    if one is type(None):
        return "null"
    return names.get(one, "path" if getattr(one, "__name__", "") == "Path" else _name(one))


def _name(annotation: Any) -> str:
    return "anything" if annotation is Any else getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> str:
    try:
        return json.dumps(value, default=_plain_section)
    except TypeError:
        return str(value)


def _plain_section(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
