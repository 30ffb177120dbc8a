"""Downloads one file by a link. It is complete and has the expected hash, or it is not kept."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pkdzoo.hub.errors import DownloadError
from pkdzoo.utils.http import LimitExceeded, Limits, open_link
from pkdzoo.utils.retry import call_with_retries
from pkdzoo.utils.text import counted
from pkdzoo.version import __version__

# The largest published file has less than 1 GiB. The total time also bounds how long a lock is held.
LIMITS = Limits(size=4 << 30, seconds=2 * 3600.0, idle=30.0, slowest=4096.0)
LOCK_SLACK = 600.0  # seconds for the conversion of a downloaded file
AGENT = f"pkdzoo/{__version__}"
PARTIAL = ".partial-"  # prefix of unfinished files
PARTIAL_LIFETIME = 24 * 3600  # seconds after which an unfinished file is left over from a killed process


class Download(NamedTuple):
    """A complete file.

    Attributes:
        path: of the file.
        sha256: its hash, 64 hexadecimal digits.
    """

    path: Path
    sha256: str


@contextmanager
def open_download(url: str, folder: Path, sha256: str = "") -> Iterator[Download]:
    """Download a file; it is deleted at the end of the block.

    Args:
        url: ``http``, ``https`` or ``file``.
        folder: where the temporary file is written; created if it is missing.
        sha256: the first digits of the expected hash in hexadecimal; empty if it is unknown.

    Yields:
        The complete file and its hash.

    Raises:
        ValueError: for another scheme.
        DownloadError: if the file cannot be downloaded or stored, is larger or slower than ``LIMITS``, or its hash
            differs.
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
        yield Download(Path(temporary), digest)
    finally:
        os.remove(temporary)


def fetch_with_retries(url: str, target: Path) -> str:
    """Download into ``target``, again after transient errors.

    Returns:
        The SHA-256 of the file.

    Raises:
        DownloadError: after the last attempt.
    """
    attempts, end = 0, time.monotonic() + LIMITS.seconds

    def attempt() -> str:
        nonlocal attempts
        attempts += 1
        with open(target, "wb", buffering=0) as file:
            return fetch(url, file, replace(LIMITS, seconds=end - time.monotonic()))

    try:
        return call_with_retries(attempt, lambda error: is_transient(error) and time.monotonic() < end)
    except urllib.error.HTTPError as error:
        problem = f"HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, LimitExceeded) as error:
        problem = str(getattr(error, "reason", error)) or type(error).__name__
    raise DownloadError(
        f"{url} could not be downloaded: {problem} ({counted(attempts, 'attempt')}). Download "
        "it yourself and write pkdzoo.load_checkpoint(model, 'the file') in Python, --checkpoint FILE on the command "
        "line, in a recipe init='the file' for the student or distill.teacher_weights='the file' for the teacher; or "
        "set PKDZOO_MIRROR"
    )


def is_transient(error: Exception) -> bool:
    """Whether the same download may succeed a little later."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return error.code in (408, 429) or error.code >= 500
    return isinstance(error, (OSError, http.client.HTTPException))


def fetch(url: str, file: FileIO, limits: Limits) -> str:
    """Copy the content of a link into ``file`` with a progress bar.

    Returns:
        The SHA-256 of the content.

    Raises:
        ConnectionError: for fewer bytes than announced.
        LimitExceeded: for more bytes or more time than allowed.
        DownloadError: if the disk is full.
    """
    from tqdm import tqdm

    digest, folder, name = hashlib.sha256(), Path(file.name).parent, Path(urlsplit(url).path).name
    with open_link(url, limits, AGENT) as answer:
        free = shutil.disk_usage(folder).free
        if answer.size is not None and answer.size > free:
            raise storage_error(url, folder, f"{answer.size / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")
        with tqdm(total=answer.size, unit="B", unit_scale=True, desc=name, leave=False, disable=None) as bar:
            for block in answer.blocks():
                try:
                    write_all(file, block)
                except OSError as error:
                    raise storage_error(url, folder, error) from error
                digest.update(block)
                bar.update(len(block))
    return digest.hexdigest()


def write_all(file: FileIO, block: bytes) -> None:
    """Write a block to an unbuffered file, which may take only a part of it at a time."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


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
def hold_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock on a file's name, so that the processes of one machine download it once.

    Raises:
        DownloadError: if the folder is read-only, or another process holds the lock for longer than a download takes.
    """
    from filelock import FileLock, Timeout

    locks = folder / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(name, folder, error) from error
    lock = FileLock(locks / f"{name}.lock")
    try:
        lock.acquire(timeout=LIMITS.seconds + LOCK_SLACK)
    except Timeout as error:
        raise DownloadError(
            f"another process has been downloading {name} for too long: end it, or delete {lock.lock_file}"
        ) from error
    except OSError as error:  # the folder is read-only
        raise storage_error(name, folder, error) from error
    try:
        yield
    finally:
        lock.release()
