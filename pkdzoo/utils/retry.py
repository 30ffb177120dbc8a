"""Repeats a call after transient errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

ATTEMPTS = 3
WAIT = 2.0  # seconds before the second attempt, doubled before each further one
LONGEST_WAIT = 60.0  # seconds, for hosts that ask for more

T = TypeVar("T")


def call_with_retries(function: Callable[[], T], is_transient: Callable[[Exception], bool]) -> T:
    """Call a function, up to ``ATTEMPTS`` times as long as its errors are transient.

    Args:
        function: is called without arguments and must be safe to repeat.
        is_transient: whether a repeated call may succeed after this error.

    Returns:
        What the function returns.

    Raises:
        Exception: the error of the last attempt.

    Example:
        >>> from pkdzoo.utils.retry import call_with_retries
        >>> call_with_retries(lambda: 42, is_transient=lambda error: isinstance(error, TimeoutError))
        42
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return function()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(_seconds_to_wait(error, attempt))
    return function()


def _seconds_to_wait(error: Any, attempt: int) -> float:
    """The ``Retry-After`` of an HTTP error's response, or exponential backoff."""
    while type(error) is RuntimeError and error.__cause__ is not None:  # the Hub's client wraps errors of uploads
        error = error.__cause__
    headers = getattr(getattr(error, "response", None) or error, "headers", None) or {}
    seconds = headers.get("Retry-After") or ""
    return min(float(seconds), LONGEST_WAIT) if seconds.isdigit() else WAIT * 2.0 ** (attempt - 1)
