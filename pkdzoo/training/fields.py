"""Fields of recipes: unknown ones are refused, and texts of a command line become their values."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pkdzoo.utils.values import convert_value, suggest_fields

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


def dotted_fields(owner: Any, where: str = "") -> list[str]:
    """Names of all fields of a dataclass and of the dataclasses in it, with dots."""
    names = []
    for f in fields(owner):
        value = getattr(owner, f.name)
        names.append(f"{where}{f.name}")
        if is_dataclass(value):
            names += dotted_fields(value, f"{where}{f.name}.")
    return names


def parse_text(text: str, hint: Any) -> Any:
    """The JSON value of a command line text for a field of the type ``hint``."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if text.lower() in ("none", "null") and (type(None) in kinds or Any in kinds):
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
