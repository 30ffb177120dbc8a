"""Files that are written whole or not at all, their JSON and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, which replaces ``path`` when the block ends without an error.

    Readers see the old file or the whole new one, also after a crash: the content is forced to the disk before it is
    renamed. After an error the temporary file is removed and ``path`` stays as it was. The name keeps its suffix, for
    writers that choose a format by it.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OSError: e.g. a full disk.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pkdzoo.utils.files import atomic_path
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_path(path) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # as an ordinary new file; mkstemp makes it private
        sync_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, allow_nan: bool = False) -> None:
    """Write a JSON file atomically, indented, in UTF-8.

    Args:
        path: the file; its folder must exist.
        content: JSON values.
        allow_nan: write NaN and infinity, which only Python reads back.

    Raises:
        ValueError: for NaN and infinity otherwise, since JSON does not have them.
    """
    write_text(path, to_json(content, allow_nan))


def to_json(content: Any, allow_nan: bool = False) -> str:
    """Indented JSON text that ends with a line break; see :func:`write_json`."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=allow_nan) + "\n"


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: naming the file, when it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # invalid UTF-8 and invalid JSON
        raise ValueError(f"{path} is not JSON: {error}") from error


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_bytes(*parts: bytes) -> str:
    """SHA-256 of several byte strings, 64 hexadecimal digits; it also depends on where each of them ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def sync_to_disk(path: str | Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
