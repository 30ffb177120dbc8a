"""Calls are repeated after transient errors only, and pauses follow the host or grow."""

from __future__ import annotations

import io
import urllib.error
from collections.abc import Callable
from email.message import Message
from types import SimpleNamespace

import pytest

from pkdzoo.utils import retry


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    recorded: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=recorded.append))  # time.sleep itself has other callers
    return recorded


def failing(*errors: Exception) -> Callable[[], str]:
    """A function that raises these errors, one per call, and then returns."""
    remaining = list(errors)

    def function() -> str:
        if remaining:
            raise remaining.pop(0)
        return "done"

    return function


def is_timeout(error: Exception) -> bool:
    return not isinstance(error, ValueError)


def test_transient_errors_are_retried_after_growing_pauses(pauses: list[float]) -> None:
    assert retry.call_with_retries(failing(TimeoutError(), TimeoutError()), is_timeout) == "done"
    assert pauses == [retry.WAIT, 2 * retry.WAIT]


def test_the_last_error_is_raised(pauses: list[float]) -> None:
    errors = [TimeoutError(str(number)) for number in range(retry.ATTEMPTS)]
    with pytest.raises(TimeoutError, match=str(retry.ATTEMPTS - 1)):
        retry.call_with_retries(failing(*errors), is_timeout)
    assert len(pauses) == retry.ATTEMPTS - 1


def test_other_errors_are_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(ValueError, match="wrong"):
        retry.call_with_retries(failing(ValueError("wrong")), is_timeout)
    assert pauses == []


@pytest.mark.parametrize(("header", "pause"), [("7", 7.0), ("3600", retry.LONGEST_WAIT), ("soon", retry.WAIT)])
@pytest.mark.parametrize("kind", ["urllib", "client", "wrapped"])
def test_the_host_may_ask_for_a_pause(pauses: list[float], kind: str, header: str, pause: float) -> None:
    headers = Message()
    headers["Retry-After"] = header
    error: Exception = urllib.error.HTTPError("http://host", 429, "Too Many Requests", headers, io.BytesIO())
    if kind != "urllib":
        error = OSError()
        error.response = SimpleNamespace(headers={"Retry-After": header})  # type: ignore[attr-defined]
    if kind == "wrapped":
        cause, error = error, RuntimeError("upload failed")
        error.__cause__ = cause
    assert retry.call_with_retries(failing(error), is_timeout) == "done"
    assert pauses == [pause]
