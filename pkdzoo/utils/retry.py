"""What is asked of the Hub's client, asked again where waiting may help: a line that broke, a Hub that is busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

ATTEMPTS = 3
WAIT = 2.0  # seconds before the second attempt; doubles

T = TypeVar("T")


def call_with_retries(act: Callable[[], T]) -> T:
    """Do something on the Hub; the client's own last error where it does not work out."""
    for attempt in range(1, ATTEMPTS):
        try:
            return act()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(pause(unwrapped(error), attempt))
    return act()


def is_transient(error: Exception) -> bool:
    """Whether the same request may be answered a little later."""
    from huggingface_hub.errors import HfHubHTTPError

    error = unwrapped(error)
    if isinstance(error, HfHubHTTPError):
        code = status_of(error)
        return code in (408, 409, 429) or code >= 500
    return connection_failed(error)


def connection_failed(error: Exception) -> bool:
    """Whether an answer stopped half-way or never came."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 from the client's 2.0 on

    error = unwrapped(error)
    if isinstance(error, (OfflineModeIsEnabled, HfHubHTTPError, LocalEntryNotFoundError)) or lacks_xet(error):
        return False
    if isinstance(error, OSError) and error.errno is None and "onsistency check" in str(error):
        return True  # fewer bytes came than were promised
    return isinstance(error, (httpx.TransportError, ConnectionError, TimeoutError))


def unwrapped(error: Exception) -> Exception:
    """What happened: the client packs the errors of an upload into a RuntimeError."""
    while type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def lacks_xet(error: Exception) -> bool:
    """Whether the client wanted to use the Xet storage, as it does by itself, of a Hub that has none."""
    return "xet-write-token" in str(error) and "client error" in str(error)


def status_of(error: Any) -> int:
    """The HTTP status of an error of the client; 0 where there was no answer."""
    response = getattr(error, "response", None)
    return int(response.status_code) if response is not None else 0


def pause(error: Any, attempt: int) -> float:
    """Seconds to wait: what the Hub asks for, up to a minute, or longer each time."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), 60.0) if asked.isdigit() else WAIT * 2 ** (attempt - 1)


def first_line(error: Exception) -> str:
    """What an error says first."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
