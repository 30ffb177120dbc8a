"""Data sets with one annotation file per image and no list of splits: where the files, the images and the splits are.

    images/*, annotations/*.xml              one split
    images/SPLIT/*, annotations/SPLIT/*.xml
    SPLIT/* with the annotations beside      also images/SPLIT/*
    SPLIT/images/*, SPLIT/annotations/*.xml
    images/* with the annotations beside     one split; also without images/

An undivided set is called ``train``. A split's annotations are the path ``FOLDER/*.xml``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pkdzoo.data.formats.base import by_split, is_split_name, split_folders, subfolder, walk_files
from pkdzoo.data.formats.common import list_images

ANNOTATION_FOLDERS = ("Annotations", "annotation", "labels", "xml", "xmls", "labelme", "json", "jsons")
IMAGE_FOLDERS = ("images", "JPEGImages", "image", "imgs", "img")
SNIFFED = 5  # files that are looked into


def find_splits(root: Path, suffix: str, is_annotation: Callable[[Path], bool]) -> dict[str, Path]:
    """The annotations of each split; empty for folders without annotation files.

    Args:
        root: folder of the data set.
        suffix: of the annotation files, e.g. ``.xml``.
        is_annotation: whether a file with this suffix is an annotation.
    """
    beside = {split: _inside(folder) for split, folder in split_folders(root).items()}
    beside = {split: folder for split, folder in beside.items() if _holds(folder, suffix, is_annotation)}
    if beside:
        return {split: folder / f"*{suffix}" for split, folder in beside.items()}
    apart = subfolder(root, ANNOTATION_FOLDERS)
    if apart is not None:
        inside = by_split((p.name, p) for p in sorted(apart.iterdir()) if p.is_dir() and is_split_name(p.name))
        inside = {split: folder for split, folder in inside.items() if _holds(folder, suffix, is_annotation)}
        if inside or _holds(apart, suffix, is_annotation):
            return {split: folder / f"*{suffix}" for split, folder in (inside or {"train": apart}).items()}
    for folder in [subfolder(root, IMAGE_FOLDERS), root]:
        if folder is not None and _holds(folder, suffix, is_annotation, deep=folder != root):
            return {"train": folder / f"*{suffix}"}
    return {}


def _inside(split: Path) -> Path:
    """Where the annotations of a split's folder are: beside its images, or in a folder next to one of images."""
    apart = subfolder(split, ANNOTATION_FOLDERS)
    return split if apart is None or subfolder(split, IMAGE_FOLDERS) is None else apart


def _holds(folder: Path, suffix: str, is_annotation: Callable[[Path], bool], deep: bool = True) -> bool:
    files = _files(folder, suffix) if deep else [p.name for p in sorted(folder.glob(f"*{suffix}")) if p.is_file()]
    files = [name for name in files if not name.startswith(".")]
    return any(is_annotation(folder / name) for name in files[:SNIFFED])


def _files(folder: Path, suffix: str) -> list[str]:
    return [name for name in walk_files(folder) if name.lower().endswith(suffix)]


def annotation_files(pattern: Path) -> list[tuple[str, Path]]:
    """Name without suffix, and path, of each annotation file of a split, sorted by name."""
    folder, suffix = pattern.parent, pattern.suffix
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: it should hold annotations, {pattern.name}")
    return [(name[: -len(suffix)], folder / name) for name in _files(folder, suffix)]


def image_dir(pattern: Path) -> Path:
    """The folder of a split's images: that of the annotations, or the folder of images beside it.

    Raises:
        ValueError: none of the folders holds an image.
    """
    folder = pattern.parent
    above, name = (folder.parent.parent, folder.name) if is_split_name(folder.name) else (folder.parent, "")
    candidates = [folder]
    if name:
        candidates += [above / images / name for images in IMAGE_FOLDERS] + [above / name]
    candidates += [above / images for images in IMAGE_FOLDERS] + [above]
    found = next((path for path in candidates if path.is_dir() and list_images(path)), None)
    if found is None:
        names = ", ".join(str(path) for path in candidates[:4])
        raise ValueError(f"no images for {pattern}: looked for image files in {names}")
    return found


def data_set_of(pattern: Path, splits: Callable[[Path], dict[str, Path]]) -> tuple[list[Path], list[Path]]:
    """Folders in which the order of the classes may be written, and the annotations of all splits.

    Args:
        pattern: the annotations of one split.
        splits: see :func:`find_splits`.
    """
    folder = pattern.parent
    above = [folder, folder.parent, folder.parent.parent]
    for root in reversed(above):
        patterns = list(splits(root).values())
        if pattern in patterns:
            return [path for path in reversed(above) if path == root or root in path.parents], patterns
    return above[:2], [pattern]
