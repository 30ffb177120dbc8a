"""Divides a data set in two, so that images of one source stay together.

Images of one source are copies (Roboflow names them ``NAME_jpg.rf.HASH.jpg``), files with equal bytes, and frames of
one video (``street_0001.jpg``, ``street_0002.jpg``, or numbers in a folder of their own). A detector that was trained
on one of them has seen the others, and its validation score is too high.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pkdzoo.utils.text import counted, quote_some

_COPY = re.compile(r"\.rf\.[0-9A-Za-z]{4,}$")  # Roboflow's copies
_SUFFIX_IN_NAME = re.compile(r"[_.-](jpe?g|png|bmp|webp|tiff?|gif|avif|mp4|mov|avi)$", re.IGNORECASE)
_FRAME = re.compile(r"^(.*?)\d+$")


def source_of(name: str) -> str:
    """The source that a file's name tells: that of Roboflow's original image, otherwise the name itself.

    Example:
        >>> from pkdzoo.dataset_tools.hold_out import source_of
        >>> source_of("cats/a_jpg.rf.0f3c.jpg"), source_of("a.jpg")
        ('cats/a_jpg', 'a.jpg')
    """
    path = PurePosixPath(name)
    stem = _COPY.sub("", path.stem)
    return name if stem == path.stem else (path.parent / stem).as_posix()


def sequence_of(name: str) -> str:
    """The sequence that a numbered image belongs to, as ``street_`` for ``street_0001.jpg``; empty for no sequence."""
    path = PurePosixPath(source_of(name))
    stem = _SUFFIX_IN_NAME.sub("", path.name if source_of(name) != name else path.stem)
    match = _FRAME.match(stem)
    folder = "" if path.parent == PurePosixPath() else f"{path.parent}/"
    return f"{folder}{match[1]}" if match else ""


def divide(content: Mapping[str, Any], share: float, images: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Divide a data set by sources.

    Which sources are held out depends on their names alone, so they mostly stay where they are when the data set grows.

    Args:
        content: of a COCO annotation file.
        share: of the images, 0..1, that are held out; at least one source.
        images: folder of the images.

    Returns:
        The images that stay and those that are held out, both with their annotations; and remarks for the user.

    Raises:
        ValueError: there is only one source.
    """
    names = [str(image["file_name"]) for image in content["images"]]
    count = min(max(1, round(share * len(names))), len(names) - 1)
    copies, objects = _join(names, [_by(source_of, names), _by_bytes(names, images)]), _objects(content)
    if len(set(copies.values())) < 2:
        raise ValueError(
            f"{counted(len(names), 'image')} of one source cannot be divided into two splits: add images "
            "of another source, or "
            "make the validation split by hand"
        )
    sequences = {key: members for key, members in _by(sequence_of, names).items() if key and len(members) > 1}
    remarks: list[str] = []
    held_out = set()
    if sequences:
        held_out = _choose(_join(names, [_by(source_of, names), _by_bytes(names, images), sequences]), count, objects)
        if not count / 2 <= len(held_out) <= 2 * count or _lost(objects, held_out):
            held_out = set()
            remarks.append(
                f"{sum(map(len, sequences.values()))} images have numbered names of "
                f"{counted(len(sequences), 'sequence')} "
                f"({', '.join(f'{key}#' for key in sorted(sequences)[:3])}), which were divided: if these are frames "
                "of videos, neighbors are in both splits; then divide them by hand"
            )
    held_out = held_out or _choose(copies, count, objects)
    lost = _lost(objects, held_out)
    if lost:
        classes = [str(c.get("name", c["id"])) for c in content["categories"] if c["id"] in lost]
        remarks.append(
            f"no object of {quote_some(classes)} is left for training, since all are in images that had to be held "
            "out: divide the data set by hand"
        )
    parts = _part(content, held_out, False), _part(content, held_out, True)
    return *parts, remarks


def _by(key: Any, names: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return groups


def _by_bytes(names: list[str], images: Path) -> dict[str, list[str]]:
    """Groups of files with equal bytes; only files of equal length are read."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for name in names:
        path = images / name
        if path.is_file():
            by_length[path.stat().st_size].append(name)
    groups: dict[str, list[str]] = defaultdict(list)
    for same in by_length.values():
        for name in same if len(same) > 1 else ():
            groups[hashlib.blake2b((images / name).read_bytes(), digest_size=16).hexdigest()].append(name)
    return groups


def _join(names: list[str], groupings: list[dict[str, list[str]]]) -> dict[str, str]:
    """The group of each image, where images that share a group in any grouping share it here."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for grouping in groupings:
        for members in grouping.values():
            for name in members[1:]:
                a, b = sorted((root(members[0]), root(name)))
                parent[b] = a
    return {name: root(name) for name in names}


def _objects(content: Mapping[str, Any]) -> dict[str, Counter[Any]]:
    """Numbers of objects by category id in each image, by its name."""
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    objects: dict[str, Counter[Any]] = {name: Counter() for name in names.values()}
    for row in content["annotations"]:
        if row["image_id"] in names:
            objects[names[row["image_id"]]][row["category_id"]] += 1
    return objects


def _total(objects: Mapping[str, Counter[Any]], names: Iterable[str]) -> Counter[Any]:
    """Numbers of objects by category id in some images."""
    total: Counter[Any] = Counter()
    for name in names:
        total.update(objects[name])
    return total


def _lost(objects: Mapping[str, Counter[Any]], held_out: Iterable[str]) -> set[Any]:
    """Ids of the categories of which no object is left for training."""
    return _last(_total(objects, objects), _total(objects, held_out))


def _last(left: Counter[Any], taken: Counter[Any]) -> set[Any]:
    """Ids of the categories of which nothing remains when ``taken`` is taken from ``left``."""
    return {category for category, boxes in taken.items() if boxes and boxes == left[category]}


def _choose(group_of: Mapping[str, str], count: int, objects: Mapping[str, Counter[Any]]) -> set[str]:
    """Images of whole groups, about ``count``, in the order of a hash of the groups' names.

    A group with the last objects of a class that are left for training is not chosen, if any other can be.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name, group in group_of.items():
        groups[group].append(name)

    def rank(group: str) -> bytes:
        sources = {source_of(name) for name in groups[group]}
        return hashlib.blake2b(min(sources).encode(), digest_size=8).digest()

    chosen: set[str] = set()
    remaining = _total(objects, objects)
    ranked = sorted(groups, key=rank)
    for group in ranked:
        members = groups[group]
        left = len(group_of) - len(chosen) - len(members)
        closer = abs(len(chosen) + len(members) - count) < abs(len(chosen) - count)
        taken = _total(objects, members)
        if left > 0 and closer and not _last(remaining, taken):
            chosen.update(members)
            remaining -= taken
    if chosen:
        return chosen
    harm = {group: (len(_last(remaining, _total(objects, groups[group]))), len(groups[group])) for group in ranked}
    return set(groups[min(ranked, key=harm.__getitem__)])


def _part(content: Mapping[str, Any], held_out: set[str], selected: bool) -> dict[str, Any]:
    ids = {image["id"] for image in content["images"] if str(image["file_name"]) in held_out}
    images = [image for image in content["images"] if (image["id"] in ids) == selected]
    rows = [row for row in content["annotations"] if (row["image_id"] in ids) == selected]
    return {**content, "images": images, "annotations": rows}
