"""Parts of messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def quote_some(values: Iterable[Any], limit: int = 8) -> str:
    """The first values of a list for an error message, and how many more there are.

    Example:
        >>> from pkdzoo.utils.text import quote_some
        >>> quote_some(["cat", "dog", "cow"], limit=2)
        "'cat', 'dog' and 1 more"
    """
    listed = list(values)
    shown = ", ".join(repr(value) for value in listed[:limit])
    return shown + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
