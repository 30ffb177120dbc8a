"""Values of recipe fields, from JSON or from a command line, checked against the type annotations."""

from __future__ import annotations

import difflib
import functools
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import counted

T = TypeVar("T")


class UnknownField(TypeError):
    """A dataclass of a recipe was given a field that it does not have."""


def suggests_fields(cls: type[T]) -> type[T]:
    """Class decorator: a dataclass that is given an unknown field raises UnknownField with the closest known ones."""
    init, known = cls.__init__, [f.name for f in fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(init)
    def checked_init(self: T, *args: Any, **kwargs: Any) -> None:
        for key in kwargs:
            if key not in known:
                raise UnknownField(f"{cls.__name__} has no field {key!r}. {suggest_fields(key, known)}")
        init(self, *args, **kwargs)

    cls.__init__ = checked_init  # type: ignore[assignment]
    return cls


def suggest_fields(word: str, known: Iterable[str]) -> str:
    """A sentence with the fields that were probably meant: those with a similar part, else those of a similar name.

    Example:
        >>> from pkdzoo.training.fields import suggest_fields
        >>> suggest_fields("bacth", ["short", "batch_size", "eval_batch_size"])
        'Did you mean batch_size, eval_batch_size?'
    """
    names = list(known)
    alike = [name for name in names if difflib.get_close_matches(word, name.rpartition(".")[2].split("_"), 1, 0.75)]
    return f"Did you mean {', '.join(alike[:5])}?" if alike else did_you_mean(word, names)


def dotted_fields(owner: Any, where: str = "") -> list[str]:
    """Names of all fields of a dataclass and of the dataclasses in it, with dots."""
    names = []
    for f in fields(owner):
        value = getattr(owner, f.name)
        names.append(f"{where}{f.name}")
        if is_dataclass(value):
            names += dotted_fields(value, f"{where}{f.name}.")
    return names


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
    if get_origin(hint) is tuple:
        return "a list such as 8,11"
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")


def parse_text(text: str, hint: Any) -> Any:
    """The JSON value of a command line text for a field of the type ``hint``."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if text.lower() in ("none", "null") and type(None) in kinds:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if str in kinds and not any(kind in (int, float) for kind in kinds):
        return text
    if any(get_origin(kind) is tuple for kind in kinds) and "[" not in text and ("," in text or int not in kinds):
        return [parse_text(part, Any) for part in text.split(",") if part]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        try:
            return float(text)  # e.g. .01, which is not JSON
        except ValueError:
            return text


def with_field(owner: Any, path: list[str], text: str, where: str = "") -> Any:
    """A copy of a dataclass or mapping in which the field at the end of ``path`` has the value of ``text``.

    Args:
        owner: a dataclass or a mapping.
        path: names of nested fields.
        text: of a command line.
        where: dotted name of ``owner``, for messages.

    Raises:
        ValueError: for an unknown field, with the closest known ones, or a value of the wrong type.
    """
    key, rest = path[0], path[1:]
    dotted = f"{where}.{key}" if where else key
    if is_dataclass(owner) and not isinstance(owner, type):
        known = [f.name for f in fields(owner)]
        if key not in known:
            nested = [name for name in dotted_fields(owner) if name.rpartition(".")[2] == key] if not where else []
            hint = f"Write {' or '.join(nested)}" if nested else suggest_fields(key, dotted_fields(owner))
            raise ValueError(f"a recipe has no field {dotted!r}. {hint}")
        kind, old = get_type_hints(type(owner))[key], getattr(owner, key)
        new = with_field(old, rest, text, dotted) if rest else parse_text(text, kind)
        return replace(owner, **{key: convert_value(new, kind, dotted)})
    if isinstance(owner, Mapping):
        new = with_field(owner.get(key, {}), rest, text, dotted) if rest else parse_text(text, Any)
        return {**owner, key: new}
    if owner is None:
        raise ValueError(
            f"{where} is not set in this recipe, so {dotted!r} cannot be set: write {where} in the recipe file"
        )
    raise ValueError(f"{where}={owner!r} has no field {key!r}")
