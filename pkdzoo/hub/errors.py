"""Errors of downloads and uploads, and which of the Hub client's errors are transient.

Importing this file does not import the Hub's client.
"""

from __future__ import annotations

from typing import Any


class DownloadError(RuntimeError):
    """A file exists but could not be downloaded; the message names the sources that were tried and what to do."""


class UploadError(RuntimeError):
    """A repository could not be written; the message gives the reason and what to do."""


def is_transient(error: Exception) -> bool:
    """Whether the same request to the Hub may succeed a little later."""
    from huggingface_hub.errors import HfHubHTTPError

    error = unwrap(error)
    if isinstance(error, HfHubHTTPError):
        status = status_of(error)
        return status in (408, 409, 429) or status >= 500
    return is_connection_error(error)


def is_connection_error(error: Exception) -> bool:
    """Whether the Hub did not answer, or its answer is incomplete."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 from the client's 2.0 on

    error = unwrap(error)
    if isinstance(error, (OfflineModeIsEnabled, HfHubHTTPError, LocalEntryNotFoundError)) or lacks_xet(error):
        return False
    if isinstance(error, OSError) and error.errno is None and "onsistency check" in str(error):
        return True  # the file is shorter than its announced size
    return isinstance(error, (httpx.TransportError, ConnectionError, TimeoutError))


def lacks_xet(error: Exception) -> bool:
    """Whether the client tried its Xet storage, which it uses by default, on a Hub that does not have it."""
    return "xet-write-token" in str(error) and "client error" in str(error)


def unwrap(error: Exception) -> Exception:
    """The original error; the client wraps errors of an upload into a RuntimeError."""
    while type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def status_of(error: Any) -> int:
    """The HTTP status of an error of the client; 0 without a response."""
    response = getattr(error, "response", None)
    return int(response.status_code) if response is not None else 0


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
