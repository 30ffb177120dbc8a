"""What a format is: one row of the table in ``read.py``. And what all formats share: names of splits, bounded reading.

A split's annotations are one path. Where a format has no file per split, the path is a pattern or ends with the split's
name (``train/*.xml``, ``data.yaml/train``).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names of a split in folders and files, the first one that exists is used. CVAT calls an undivided set "default".
SPLIT_NAMES = {
    "train": ("train", "training", "default"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
TEXT_LIMIT = 64 << 20  # bytes of a text file that is read at once
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Finding = tuple[str, list[str], bool]  # what, examples, whether training or evaluation would be wrong
Writer = Callable[[Mapping[str, Any], Path, str], Counter[str]]


@dataclass(frozen=True)
class Format:
    """A format of data sets.

    Attributes:
        name: as in reports and ``data convert --to``.
        title: as in messages.
        tree: folders and files of a data set, for messages and the manual.
        present: whether a folder looks like this format.
        splits: the annotations of each split of a folder, by the split's name as :func:`split_of` gives it.
        owns: whether a path stands for annotations of this format.
        image_dir: the folder that the images' file names are relative to.
        read: the content of a COCO annotation file, given the annotations and whether an unreadable image is an error.
        names: image files of a split, relative to ``image_dir``, where its objects may be missing; None where images
            are named by their annotations.
        write: writes the annotations of a split; None for formats that are only read.
        findings: facts for ``data check`` that the content of a COCO file cannot show, given the annotations.
    """

    name: str
    title: str
    tree: str
    present: Callable[[Path], bool]
    splits: Callable[[Path], dict[str, Path]]
    owns: Callable[[Path], bool]
    image_dir: Callable[[Path], Path]
    read: Callable[[Path, bool], dict[str, Any]]
    names: Callable[[Path], list[str]] | None = None
    write: Writer | None = None
    findings: Callable[[Path], list[Finding]] = lambda annotations: []


def split_of(name: str) -> str:
    """The split that a name stands for: ``valid``, ``validation`` and ``dev`` are ``val``.

    Example:
        >>> from pkdzoo.data.formats.base import split_of
        >>> split_of("valid"), split_of("Train"), split_of("minival")
        ('val', 'train', 'minival')
    """
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), name)


def names_of(split: str) -> tuple[str, ...]:
    """All names of a split, the usual one first."""
    return SPLIT_NAMES.get(split_of(split), (split,))


def by_split(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Paths by split in the order train, val, test, others; of several names of a split the usual one is used."""
    found: dict[str, tuple[int, Path]] = {}
    for name, path in named:
        split, names = split_of(name), names_of(name)
        rank = names.index(name.lower()) if name.lower() in names else 0
        if split not in found or rank < found[split][0]:
            found[split] = (rank, path)
    order = [*SPLIT_NAMES, *sorted(set(found) - set(SPLIT_NAMES))]
    return {split: found[split][1] for split in order if split in found}


def split_folders(root: Path) -> dict[str, Path]:
    """Folders of the splits, in the data set's folder or else in its ``images/``."""
    for parent in (root, root / "images"):
        if parent.is_dir():
            found = by_split((p.name, p) for p in sorted(parent.iterdir()) if is_split_name(p.name) and p.is_dir())
            if found:
                return found
    return {}


def is_split_name(name: str) -> bool:
    """Whether a name is one of the known names of a split."""
    return split_of(name) in SPLIT_NAMES


def subfolder(root: Path, names: Iterable[str]) -> Path | None:
    """The first existing folder of these names, in any case of letters; the exact name is preferred."""
    if not root.is_dir():
        return None
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir()}
    by_case = {name.lower(): path for name, path in folders.items()}
    return next((folders.get(n) or by_case[n.lower()] for n in names if n in folders or n.lower() in by_case), None)


def read_bytes(path: Path, limit: int = TEXT_LIMIT) -> bytes:
    """The content of an ordinary file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a device or pipe, whose reading may never end, or longer than ``limit`` bytes.
    """
    content = read_head(path, limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit >> 20} MiB, too much for such a file")
    return content


def read_head(path: Path, count: int) -> bytes:
    """The first bytes of an ordinary file; errors as in :func:`read_bytes`."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is no ordinary file")
        return file.read(count)


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a UTF-8 file, or of a UTF-16 file with a byte order mark, as programs on Windows write them.

    Raises:
        ValueError: the file is neither, no ordinary file, or too long.
    """
    content = read_bytes(path, limit)
    try:
        return content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason})") from None


def read_beginning(path: Path, count: int) -> str:
    """The first bytes of a text file as text, with anything in place of what is no text."""
    content = read_head(path, count)
    return content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig", "replace")


def read_lines(path: Path, limit: int = TEXT_LIMIT) -> list[str]:
    """Non-empty lines of a text file, stripped.

    Raises:
        ValueError: the file is not UTF-8, no ordinary file, or too long.
    """
    return [line.strip() for line in read_text(path, limit).splitlines() if line.strip()]


def with_slashes(path: str) -> str:
    """A path as programs on Windows write it, with ``/``."""
    return path.replace("\\", "/")


def plain_path(text: str, source: Path) -> str:
    """A path that a file names; raises a ValueError for a text that no system takes for a path."""
    if (
        "\0" in text
        or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in text.split("/"))
        or len(text) > 3000
    ):
        raise ValueError(f"{source}: {text[:60]!r} is no path: it is too long or has a null character")
    return text


def walk_files(folder: Path) -> list[str]:
    """Sorted relative paths, with ``/``, of the files in a folder and its subfolders.

    Links to folders are followed, each folder is listed once, so that links in a circle have an end. Hidden files and
    folders are left out, and macOS's ``__MACOSX``.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        relative = Path(parent).relative_to(folder)
        found += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(found)
