"""JSON values checked against type annotations, and converted to them."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import counted

PLAIN = (bool, int, float, str, type(None))


def suggest_fields(word: str, known: Iterable[str]) -> str:
    """A sentence with the fields that were probably meant: those with a similar part, else those of a similar name.

    Example:
        >>> from pkdzoo.utils.values import suggest_fields
        >>> suggest_fields("bacth", ["short", "batch_size", "eval_batch_size"])
        'Did you mean batch_size, eval_batch_size?'
    """
    names = list(known)
    alike = [name for name in names if difflib.get_close_matches(word, name.rpartition(".")[2].split("_"), 1, 0.75)]
    return f"Did you mean {', '.join(alike[:5])}?" if alike else did_you_mean(word, names)


def is_json_type(hint: Any) -> bool:
    """Whether all values of a type annotation are JSON values, which :func:`convert_value` can check.

    Example:
        >>> from collections.abc import Callable, Sequence
        >>> from pkdzoo.utils.values import is_json_type
        >>> is_json_type(Sequence[int] | None), is_json_type(Callable[[], int] | None)
        (True, False)
    """
    origin = get_origin(hint)
    if origin is None or origin is Literal:
        return origin is Literal or hint is Any or hint in PLAIN
    known = origin in (Union, types.UnionType, tuple, Sequence, Mapping, list, dict)
    return known and all(kind is Ellipsis or is_json_type(kind) for kind in get_args(hint))


def convert_value(value: Any, hint: Any, where: str) -> Any:
    """Convert a JSON value to the type ``hint``: lists to tuples, dicts to dataclasses, int to float; nothing else.

    Args:
        value: a JSON value.
        hint: type annotation of the field.
        where: dotted name of the field, for messages.

    Raises:
        ValueError: naming the field and the expected type.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first_match(value, inner, where)
    if origin is Literal:
        if value in inner:
            return value
        raise ValueError(f"{where}={value!r}: write one of {', '.join(map(repr, inner))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"{where}={list(value)}: write {counted(len(kinds), 'value')}")
        return tuple(convert_value(item, kind, where) for item, kind in zip(value, kinds))
    if origin is Sequence and isinstance(value, (list, tuple)):
        return tuple(convert_value(item, inner[0], where) for item in value)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _build(cast(type[Any], hint), value, where)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): convert_value(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin is None and isinstance(hint, type)  # Python 3.10 calls list[int] a type too
    if plain and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where}={value!r}: write {_describe(hint)}")


def _first_match(value: Any, kinds: Sequence[Any], where: str) -> Any:
    reasons = []
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
            continue
        try:
            return convert_value(value, kind, where)
        except ValueError as error:
            reasons.append(error)
    literals = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if literals and bool in kinds:
        raise ValueError(f"{where}={value!r}: write one of {', '.join(map(repr, [False, True, *literals]))}")
    raise reasons[-1]


def _build(kind: type[Any], content: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key in content:
        if key not in known:
            dotted = f"{where}.{key}" if where else key
            raise ValueError(f"a recipe has no field {dotted!r}. {suggest_fields(key, known)}")
    values = {
        key: convert_value(value, hints[key], f"{where}.{key}" if where else key) for key, value in content.items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where or 'the recipe'}: {error}") from error


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if get_origin(hint) in (tuple, Sequence):
        return "a list such as 8,11" if get_origin(hint) is tuple else "a list such as [8,11]"
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")
