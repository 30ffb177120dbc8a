"""Files and folders that are written whole or not at all, their JSON and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


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


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder, whose content is in the folder ``path`` when the block ends without an error.

    It lies beside ``path`` and replaces it in one step. A mount point, a link to a folder, and the current folder
    cannot be replaced: there the temporary folder lies inside, and its content is moved up. After an error nothing of
    it is left.

    Args:
        path: a folder that is empty or does not exist; the folder above it must exist.

    Raises:
        OSError: ``path`` is not empty, or e.g. a full disk.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pkdzoo.utils.files import atomic_folder
        >>> with atomic_folder(Path(tempfile.mkdtemp()) / "data") as temporary:
        ...     _ = (temporary / "note.txt").write_text("whole")
        >>> [file.name for file in (temporary.parent / "data").iterdir()]
        ['note.txt']
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise OSError(errno.ENOTEMPTY, "the folder is not empty", str(path))
    inside = path.is_symlink() or os.path.ismount(path) or (path.is_dir() and os.path.samefile(path, "."))
    temporary = (path if inside else path.parent) / f".{path.name or 'new'}.{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    moved: list[Path] = []
    try:
        yield temporary
        if not inside:
            os.rename(temporary, path)
            return
        for entry in sorted(temporary.iterdir()):
            os.rename(entry, path / entry.name)
            moved.append(path / entry.name)
    except BaseException:
        for entry in moved:  # removed with the temporary folder
            os.rename(entry, temporary / entry.name)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(path: str | Path, option: str = "--output", folder: bool = False) -> None:
    """Check that a file can be written at the end of a long work, before it begins; nothing is left there.

    Args:
        path: the file, which may be missing, with the folders above it.
        option: of the command line that names it, for messages.
        folder: it is a folder.

    Raises:
        ValueError: for a folder in place of a file, or a file in place of a folder, and where nothing can be written.
    """
    path = Path(path)
    if path.is_dir() and not folder:
        raise ValueError(f"{path} is a folder: {option} takes a file")
    parts = ([path] if folder else []) + list(path.absolute().parents)
    above = next(part for part in parts if part.exists())
    if not above.is_dir():
        raise ValueError(
            f"{option} {path}: {above} is a file, and nothing can be written below it: choose another path"
        )
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise ValueError(
            f"{option} {path} cannot be written: {above}: {error.strerror}: choose another {option}"
        ) from None


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


def open_regular_file(path: str | Path, within: str | Path | None = None) -> BinaryIO:
    """Open a file for reading, without following a symbolic link.

    A folder from somebody else may hold a link to a private file. What is published, copied or deleted is therefore
    opened by this function.

    Args:
        path: the file. Only its last part may not be a link, unless ``within`` is given.
        within: a folder above the file; no folder between the two may be a link either.

    Returns:
        The open file, in binary mode. The check is made on the open file, so that nobody can exchange it in between.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: for a symbolic link, and for a folder, device, pipe or socket; the message names it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pkdzoo.utils.files import open_regular_file
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> _ = path.write_text("whole")
        >>> with open_regular_file(path) as file:
        ...     file.read()
        b'whole'
    """
    path = Path(path)
    refuse_links(path, within)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(_link_message(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path} is not a file but a folder, device, pipe or socket: write the path of a file")
    return os.fdopen(handle, "rb")


def refuse_links(path: str | Path, within: str | Path | None = None) -> None:
    """Check that a path, and the folders between ``within`` and it, are no symbolic links; it may be missing.

    Raises:
        ValueError: for a symbolic link; the message names it.
    """
    path = Path(path)
    parts = [path]
    if within is not None:
        parts += [parent for parent in path.parents if Path(within) in parent.parents]
    for part in parts:
        if part.is_symlink():
            raise ValueError(_link_message(part))


def _link_message(path: Path) -> str:
    return f"{path} is a symbolic link, which is not followed here: put a copy of the file or folder in its place"


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
