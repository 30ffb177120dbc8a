"""Image names of an annotation file that are written from another folder, and the files that they stand for.

A COCO file may name ``/home/me/coco/images/train/a.png`` or ``images/train/a.png`` where the image folder holds
``a.png``. Such a name stands for the file at its longest last part (``train/a.png``, then ``a.png``) that exists. Two
names never stand for one file that way, and a part that names another split than the folder ends the search.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pkdzoo.data.formats.base import is_split_name, split_of, with_slashes
from pkdzoo.data.formats.coco import Columns


def match_names(names: Iterable[str], folder: str | Path) -> dict[str, str]:
    r"""Find the files of image names that are not paths inside the image folder as they stand.

    A backslash is part of a name where such a file exists, and otherwise separates folders, as on Windows.

    Args:
        names: as the annotation file has them.
        folder: of the images.

    Returns:
        The path inside the folder for each name that differs from it. A name without a file is only written with
        ``/``.

    Example:
        >>> import pathlib, tempfile
        >>> from pkdzoo.data.image_names import match_names
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "a.png").touch()
        >>> match_names(["a.png", "images/train/a.png", r"sub\b.png"], folder)
        {'sub\\b.png': 'sub/b.png'}
        >>> match_names(["images/train/a.png"], folder)
        {'images/train/a.png': 'a.png'}
    """
    files = _Files(Path(folder))
    stated: dict[str, str] = {}  # path inside the folder, or the name where there is no such file
    matched: dict[str, str] = {}
    for name in dict.fromkeys(names):
        path = files.as_stated(name)
        stated[name] = with_slashes(name) if path is None else path
        if path is None:
            tail = files.longest_tail(with_slashes(name))
            matched.update({name: tail} if tail else {})
    used = Counter([*(path for name, path in stated.items() if name not in matched), *matched.values()])
    found = {**stated, **{name: tail for name, tail in matched.items() if used[tail] == 1}}
    return {name: path for name, path in found.items() if path != name}


def match_columns(columns: Columns, folder: str | Path) -> tuple[Columns, dict[str, str]]:
    """The columns with the names of the files in a folder, and the names that were found by their last parts.

    Args:
        columns: the annotation file.
        folder: of the images.
    """
    if b"/" not in columns.names and b"\\" not in columns.names:  # names of files in the folder itself
        return columns, {}
    names = [columns.file_name(k) for k in range(len(columns.image_ids))]
    new = match_names(names, folder)
    if not new:
        return columns, {}
    encoded = [new.get(name, name).encode("utf-8", "surrogateescape") for name in names]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return replace(columns, names=b"".join(encoded), name_ends=ends), by_last_part(new)


def match_content(content: dict[str, Any], folder: str | Path) -> dict[str, str]:
    """Like :func:`match_columns` for the content of a COCO file, whose names are replaced in place."""
    new = match_names((str(image["file_name"]) for image in content["images"]), folder)
    for image in content["images"]:
        image["file_name"] = new.get(str(image["file_name"]), image["file_name"])
    return by_last_part(new)


def by_last_part(new: Mapping[str, str]) -> dict[str, str]:
    """Of replaced names those that lost folders, and did not only change their separators."""
    return {name: path for name, path in new.items() if path != with_slashes(name)}


class _Files:
    """Answers which files exist, listing each folder once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = os.path.abspath(folder)
        self.split = _split_in(Path(self.root).name)
        self.listed: dict[str, frozenset[str]] = {}

    def exists(self, path: str) -> bool:
        parent, name = os.path.split(os.path.join(self.root, path))
        if parent not in self.listed:
            try:
                self.listed[parent] = frozenset(os.listdir(parent))
            except (OSError, ValueError):  # no folder, or a text that is no path
                self.listed[parent] = frozenset()
        return name in self.listed[parent]

    def as_stated(self, name: str) -> str | None:
        """The path of a name's own file, inside the folder where it lies there; None if there is no such file."""
        for path in dict.fromkeys((name, with_slashes(name))):
            if self.exists(path):
                inside = os.path.isabs(path) and Path(os.path.normpath(path)).is_relative_to(self.root)
                return Path(os.path.relpath(path, self.root)).as_posix() if inside else path
        return None

    def longest_tail(self, name: str) -> str | None:
        """The longest last part of a name that is a file of the folder."""
        parts = [part for part in PurePosixPath(name).parts if part != "/"]
        splits = [_split_in(part) for part in parts]
        for start in range(1, len(parts)):
            before = [split for split in splits[:start] if split]
            if ".." in parts[start:] or (self.split and before and before[-1] != self.split):
                continue
            if self.exists("/".join(parts[start:])):
                return "/".join(parts[start:])
        return None


def _split_in(part: str) -> str:
    """The split that a folder's name stands for, with or without a year; empty for another name."""
    name = re.sub(r"[_-]?(?:19|20)\d\d$", "", part)
    return split_of(name) if is_split_name(name) else ""
