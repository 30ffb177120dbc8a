"""Downloads one file by a link. It is complete and has the expected hash, or it is not kept."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit

from pkdzoo.hub.errors import DownloadError
from pkdzoo.utils.retry import call_with_retries
from pkdzoo.version import __version__

TIMEOUT = 30.0  # seconds without a byte
PARTIAL = ".partial-"  # prefix of unfinished files
PARTIAL_LIFETIME = 24 * 3600  # seconds after which an unfinished file is left over from a killed process


@contextmanager
def downloaded(url: str, folder: Path, sha256: str = "") -> Iterator[Path]:
    """Download a file; it is deleted at the end of the block.

    Args:
        url: ``http``, ``https`` or ``file``.
        folder: where the temporary file is written; created if it is missing.
        sha256: the first digits of the expected hash in hexadecimal; empty if it is unknown.

    Yields:
        The path of the complete file.

    Raises:
        ValueError: for another scheme.
        DownloadError: if the file cannot be downloaded or stored, or its hash differs.
    """
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise ValueError(f"{url}: write a link that starts with http, https or file")
    if scheme != "file" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError(
            f"{url} is not in {folder}, and HF_HUB_OFFLINE forbids downloading it: unset HF_HUB_OFFLINE"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_old_partial_files(folder)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=PARTIAL)
    except OSError as error:
        raise storage_error(url, folder, error) from error
    os.close(handle)
    try:
        digest = fetch_with_retries(url, Path(temporary))
        if not digest.startswith(sha256.lower()):
            raise DownloadError(
                f"{url} has an unexpected hash: its SHA-256 begins with {digest[: len(sha256)]} and not with {sha256}. "
                "The file was deleted: try again, or set PKDZOO_MIRROR to a host you trust"
            )
        yield Path(temporary)
    finally:
        os.remove(temporary)


def fetch_with_retries(url: str, target: Path) -> str:
    """Download into ``target``, again after transient errors.

    Returns:
        The SHA-256 of the file.

    Raises:
        DownloadError: after the last attempt.
    """
    attempts = 0

    def attempt() -> str:
        nonlocal attempts
        attempts += 1
        with open(target, "wb", buffering=0) as file:
            return fetch(url, file)

    try:
        return call_with_retries(attempt, is_transient)
    except urllib.error.HTTPError as error:
        problem = f"HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        problem = str(getattr(error, "reason", error)) or type(error).__name__
    raise DownloadError(
        f"{url} could not be downloaded: {problem} ({attempts} {'attempt' if attempts == 1 else 'attempts'}). Download "
        "it yourself and write pkdzoo.load_checkpoint(model, 'the file'), in a recipe init='the file', or set "
        "PKDZOO_MIRROR"
    )


def is_transient(error: Exception) -> bool:
    """Whether the same download may succeed a little later."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return error.code in (408, 429) or error.code >= 500
    return isinstance(error, (OSError, http.client.HTTPException))


def fetch(url: str, file: FileIO) -> str:
    """Copy the content of a link into ``file`` with a progress bar.

    Returns:
        The SHA-256 of the content.

    Raises:
        ConnectionError: for fewer bytes than announced.
        DownloadError: if the disk is full.
    """
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": f"pkdzoo/{__version__}"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        size = content_length(response.headers.get("Content-Length"))
        folder = Path(file.name).parent
        free = shutil.disk_usage(folder).free
        if size is not None and size > free:
            raise storage_error(url, folder, f"{size / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")
        digest, received, name = hashlib.sha256(), 0, Path(urlsplit(url).path).name
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, leave=False, disable=None) as bar:
            while block := response.read(1 << 20):
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise storage_error(url, folder, error) from error
                digest.update(block)
                received += len(block)
                bar.update(len(block))
    if size is not None and received != size:
        raise ConnectionError(f"the connection was lost after {received} of {size} bytes")
    return digest.hexdigest()


def content_length(header: str | None) -> int | None:
    """The number of bytes that ``Content-Length`` announces; None without the header.

    Raises:
        ConnectionError: if it is not a number; then a complete file cannot be told from a part of it.
    """
    if not header:
        return None
    if not (header.isascii() and header.strip().isdigit()):
        raise ConnectionError(f"the host sent an invalid Content-Length, {header!r}")
    return int(header)


def storage_error(url: str, folder: Path, problem: OSError | str) -> DownloadError:
    """The error for a folder that is full or not writable."""
    reason = problem if isinstance(problem, str) else problem.strerror or str(problem)
    return DownloadError(
        f"{url} cannot be stored in {folder}: {reason}; set PKDZOO_CACHE or cache_dir= to a writable folder with free "
        "space"
    )


def remove_old_partial_files(folder: Path) -> None:
    """Remove unfinished files that killed processes left."""
    for file in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):  # another process may remove it first
            if time.time() - file.stat().st_mtime > PARTIAL_LIFETIME:
                file.unlink()


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock on a file's name, so that the processes of one machine download it once."""
    from filelock import FileLock

    locks = folder / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(name, folder, error) from error
    lock = FileLock(locks / f"{name}.lock")
    try:
        lock.acquire()
    except OSError as error:  # the folder is read-only
        raise storage_error(name, folder, error) from error
    try:
        yield
    finally:
        lock.release()
