"""One file over the network: hashed while it is written, whole and of the right hash or not there at all."""

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

from pkdzoo.version import __version__

ATTEMPTS = 3
WAIT = 1.0  # seconds before the second attempt; doubles
TIMEOUT = 30.0  # seconds without a byte
ARRIVING = ".arriving-"  # begins the names of unfinished files


class DownloadError(RuntimeError):
    """Weights exist but could not be had; the message says what was tried."""


@contextmanager
def downloaded(url: str, folder: Path, sha256: str = "") -> Iterator[Path]:
    """A file behind a link, whole and of the right hash, for as long as the context lasts.

    Args:
        url: ``http``, ``https`` or ``file``.
        folder: where it may lie meanwhile; made when missing.
        sha256: start of the hash in hexadecimal digits; empty for unknown.

    Raises:
        ValueError: for another scheme.
        DownloadError: for everything that kept the file from arriving.
    """
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise ValueError(f"{url}: links begin with http, https or file")
    if scheme != "file" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError(f"{url} is not in {folder}, and HF_HUB_OFFLINE forbids to fetch it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget_old_pieces(folder)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=ARRIVING)
    except OSError as error:
        raise no_room(url, folder, error) from error
    os.close(handle)
    try:
        digest = with_patience(url, Path(temporary))
        if not digest.startswith(sha256.lower()):
            raise DownloadError(
                f"{url} is not the file it should be: its SHA-256 begins with {digest[: len(sha256)]} and not with "
                f"{sha256}; nothing was kept. Try again, or set PKDZOO_MIRROR to a host you trust"
            )
        yield Path(temporary)
    finally:
        os.remove(temporary)


def with_patience(url: str, target: Path) -> str:
    """Fetch into ``target``, again if the line breaks; the file's SHA-256."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with open(target, "wb", buffering=0) as file:
                return fetch(url, file)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            again = error.code in (408, 429) or error.code >= 500
            error.close()
        except (OSError, http.client.HTTPException) as error:
            problem, again = str(getattr(error, "reason", error)) or type(error).__name__, True
        if not again or attempt == ATTEMPTS:
            break
        time.sleep(WAIT * 2 ** (attempt - 1))
    raise DownloadError(
        f"{url} could not be fetched: {problem} ({attempt} {'attempt' if attempt == 1 else 'attempts'}). Fetch it by "
        "hand and write pkdzoo.load_checkpoint(model, 'the file'), in a recipe init='the file', or set PKDZOO_MIRROR"
    )


def fetch(url: str, file: FileIO) -> str:
    """Copy what is behind a link into ``file`` with a progress bar; its SHA-256.

    Raises:
        ConnectionError: when fewer bytes came than were promised.
        DownloadError: when they do not fit on the disk.
    """
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": f"pkdzoo/{__version__}"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        size = promised_bytes(response.headers.get("Content-Length"))
        folder = Path(file.name).parent
        free = shutil.disk_usage(folder).free
        if size is not None and size > free:
            raise no_room(url, folder, f"{size / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")
        digest, arrived, name = hashlib.sha256(), 0, Path(urlsplit(url).path).name
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, leave=False, disable=None) as bar:
            while block := response.read(1 << 20):
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise no_room(url, folder, error) from error
                digest.update(block)
                arrived += len(block)
                bar.update(len(block))
    if size is not None and arrived != size:
        raise ConnectionError(f"the line broke after {arrived} of {size} bytes")
    return digest.hexdigest()


def promised_bytes(header: str | None) -> int | None:
    """What ``Content-Length`` says; None where the host does not say it.

    Raises:
        ConnectionError: when it says no number; whatever follows cannot be told from half a file.
    """
    if not header:
        return None
    if not (header.isascii() and header.strip().isdigit()):
        raise ConnectionError(f"the host answers nonsense, a Content-Length of {header!r}")
    return int(header)


def no_room(url: str, folder: Path, problem: OSError | str) -> DownloadError:
    """The error for a disk that is full or may not be written to."""
    reason = problem if isinstance(problem, str) else problem.strerror or str(problem)
    return DownloadError(
        f"{url} cannot be kept in {folder}: {reason}; set PKDZOO_CACHE or cache_dir= to a folder with room "
        "that may be written to"
    )


def forget_old_pieces(folder: Path) -> None:
    """Remove what killed processes left of files that were arriving more than a day ago."""
    for piece in folder.glob(f"{ARRIVING}*"):
        with suppress(OSError):  # another process may remove it first
            if time.time() - piece.stat().st_mtime > 24 * 3600:
                piece.unlink()


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """One process at a time, so that eight ranks of one machine fetch a file once."""
    from filelock import FileLock

    locks = folder / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_room(name, folder, error) from error
    lock = FileLock(locks / f"{name}.lock")
    try:
        lock.acquire()
    except OSError as error:  # a folder that may be read only
        raise no_room(name, folder, error) from error
    try:
        yield
    finally:
        lock.release()
